"""The path that a GPU takes, on a device without a chip, in a process of its own (see stand_in/device.py)."""

import subprocess
import sys
from pathlib import Path

import pytest
from device import COMPILER

CASES = Path(__file__).parent / "stand_in" / "cases.py"


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no g++ to make the device with")
def test_the_path_of_a_gpu() -> None:
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", str(CASES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
