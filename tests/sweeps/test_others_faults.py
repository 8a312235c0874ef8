"""Faults of what a sweep relies on: a database that somebody else locks, a tracker that is installed but broken."""

import importlib
import sqlite3
import threading
import time
from pathlib import Path

import optuna
import pytest

from sweeps.monitoring.trackers import trackers
from sweeps.tuning import optuna_study
from sweeps.tuning.optuna_study import open_storage
from trainables.runtime.errors import UserError


@pytest.mark.slow
def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    """SQLite alone gives up after 5 s."""
    file = tmp_path / "optuna.db"
    storage = open_storage(f"sqlite:///{file}")
    study = optuna.create_study(storage=storage)
    lock = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    threading.Timer(7.0, lambda: lock.execute("COMMIT")).start()
    started = time.monotonic()
    study.tell(study.ask(), 1.0)
    assert time.monotonic() - started > 5.0
    assert [trial.value for trial in study.trials] == [1.0]


def test_a_database_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna_study, "LOCKED_SECONDS", 0.1)
    file = tmp_path / "optuna.db"
    study = optuna.create_study(storage=open_storage(f"sqlite:///{file}"))
    lock = sqlite3.connect(file, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(optuna.exceptions.StorageInternalError):  # which sweeps.tuning.run says in one line
        study.ask()
    lock.close()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            AttributeError("module 'protobuf' has no attribute x"),
            "cannot be imported (AttributeError: module 'protobuf'",
        ),
        (ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy"), "cannot be imported (ModuleNotFound"),
        (ModuleNotFoundError("No module named 'mlflow'", name="mlflow"), "this tracker is not installed"),
    ],
)
def test_a_broken_tracker(error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(UserError) as raised:
        trackers([("mlflow", None)], tmp_path, {})
    assert message in str(raised.value)
