"""A short run of tests/faults.py: each kind of fault once or twice, but for those that need a data-parallel trial."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from faults import MEMBERS, axes

from sweeps.batch_grid import main

SCRIPT = Path(__file__).parent / "faults.py"


@pytest.mark.parametrize(("options", "trials"), [(axes(400), 6), (MEMBERS, 2)])
def test_its_sweeps_are_those_that_it_speaks_of(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_estimate: None,
    no_check: None,
    options: tuple[str, ...],
    trials: int,
) -> None:
    assert main([*options, "--dry-run", "--results", str(tmp_path)]) == 0
    assert f"{trials} trials, 0 of them done already" in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_is_lost() -> None:
    command = [sys.executable, str(SCRIPT), "--kills", "5", "--away", "5", "--epochs", "400"]
    command += ["--only", "machine", "disk", "nodes"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    taken_up = re.search(r"(\d+)  trials went on from a checkpoint", result.stdout)
    assert taken_up
    assert int(taken_up[1]) > 0
    assert re.search(r"^ +0  of \d+ trials lost", result.stdout, re.MULTILINE)
    assert "every row is there once, with the numbers of an undisturbed run" in result.stdout
