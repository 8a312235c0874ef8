"""A short run of tests/faults.py: each kind of fault once or twice, but for those that need a data-parallel trial."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "faults.py"


def test_nothing_is_lost() -> None:
    command = [sys.executable, str(SCRIPT), "--kills", "5", "--away", "5", "--epochs", "400"]
    command += ["--only", "machine", "disk", "nodes"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0  of " in result.stdout
    assert "every row is there once, with the numbers of an undisturbed run" in result.stdout
