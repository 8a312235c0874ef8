"""Runs whose trials give no answer: all of them failed, or what others are compared with did."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sweeps.cli.options import parse
from sweeps.execution import launch
from sweeps.plan.grid import expand
from sweeps.studies import study
from sweeps.studies.study import grid_of, run_study, source_of
from trainables.config import TrialConfig
from trainables.records.tables import Record, compact, read_tables, write_record
from trainables.runtime.errors import UserError

ROOT = Path(__file__).parents[3]


@contextmanager
def unchecked(*_: Any) -> Iterator[Callable[[], list[str]]]:
    yield list


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, statuses: list[str]) -> int:
    """A study of two batch sizes whose trials end with these statuses, and whose analysis has no answer."""
    arguments = "--batch-sizes 16 300 --learning-rates 0.01 --warmup-epochs 0 --switch-epochs none --seeds 0 --plain"
    options = parse([*arguments.split(), "--results", str(tmp_path)])
    source = source_of(options, "digits")
    configs = expand(grid_of(options), source)

    def run_trials(missing: list[TrialConfig], _: Any, folder: Path, *__: Any) -> Any:
        for config, status in zip(missing, statuses, strict=True):
            error = f"Traceback\nValueError: number {config.batch_size}" if status == "failed" else None
            row = {"status": status, "trial_id": config.trial_id, **vars(config), "flags": [], "error": error}
            write_record(folder, Record(row, [], []))
        compact(folder)
        return read_tables(folder), False

    def finish(*_: Any) -> None:
        raise UserError("`results` must hold a completed trial")

    monkeypatch.setattr(study, "checking", unchecked)
    monkeypatch.setattr(launch, "run_trials", run_trials)
    return run_study(configs, source, options, finish)


def test_all_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, tmp_path, ["failed", "failed"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "failed: all 2 trials, the first (batch size 16, seed 0): ValueError: number 16",
        "no answer: `results` must hold a completed trial",
    ]


def test_one_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, tmp_path, ["failed", "completed"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "failed: batch size 16, seed 0: ValueError: number 16",
        "no answer: `results` must hold a completed trial",
    ]


def test_none_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold a completed trial"):
        run(monkeypatch, tmp_path, ["diverged", "diverged"])


@pytest.mark.slow
def test_a_search_that_failed_says_why(tmp_path: Path) -> None:
    """Batches of 21 and 23 fail in tests/sweeps/users_model.py, but not in the check before the first trial."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / "steps_to_result.py"), "--results", str(tmp_path), "--name", "failed",
         "--model", "users_model:build", "--batch-sizes", "21", "23", "--goal", "1", "--trials", "2", "--seeds", "5",
         "--epochs", "1", "--plain", "--no-dashboard"],
        capture_output=True, text=True, timeout=540, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "sweeps"), str(ROOT)])},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "failed: all 4 trials, the first (batch size 21, seed " in done.stderr
    assert "ArithmeticError: the sum of all fears" in done.stderr
