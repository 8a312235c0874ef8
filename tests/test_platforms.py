"""Systems that lack what sweeps need: reports work there, and one line says what does not."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.runtime.errors import UserError
from trainables.storage.lease import hold

ROOT = Path(__file__).parents[1]
WITHOUT = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "termios", "pwd", "grp"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hidden())
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules.pop(name, None)
import analysis.reporting.report, analysis.reporting.summary, analysis.reporting.live, analysis.minima.profiles
"""
ON_WINDOWS = """
import importlib, sys
sys.modules |= dict.fromkeys(("fcntl", "resource", "termios", "pwd", "grp"))
for script in sys.argv[1:]:
    print(importlib.import_module(f"sweeps.{script}").main([]))
"""


def test_reports_without_the_modules_of_unix() -> None:
    """As on Windows."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr


def test_a_sweep_on_windows_is_one_line() -> None:
    """Every script that trains; status.py only shows."""
    scripts = sorted(path.stem for path in (ROOT / "sweeps").glob("[!_]*.py") if path.stem != "status")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", ON_WINDOWS, *scripts]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert result.stdout.split() == ["2"] * len(scripts)
    said = "error: sweeps run on Linux and macOS (on Windows under WSL); reports run here"
    assert result.stderr.splitlines() == [f"{script}.py: {said}" for script in scripts]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOLCK, "storage with file locks"), (errno.EWOULDBLOCK, "another sweep is using")],
)
def test_storage_without_locks(number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=message), hold(tmp_path):
        pass


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("exists", [True, False])
def test_results_without_locks_leave_nothing_behind(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeps.execution.launch import exclusive_results_folder

    monkeypatch.setattr(fcntl, "flock", no_locks)
    folder = tmp_path / "results" / "name"
    if exists:
        folder.mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(UserError, match="storage with file locks"), exclusive_results_folder(folder, resume=False):
            pass
    assert list(tmp_path.rglob("*")) == ([tmp_path / "results", folder] if exists else [])


def test_a_cache_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables.data.cache import Entry, cache_in

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / "file").touch()
    with cache_in(tmp_path / "cache"):
        entry = Entry.of("arrays", tmp_path, [tmp_path / "file"], {})
    with pytest.raises(UserError, match=f"^`cache-dir` must be on storage with file locks, got {tmp_path}/cache "), \
            entry.locked():  # fmt: skip
        pass
