"""Ray's folder is private, short and removed, and its token is for its owner alone."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sweeps.session import ray_folder as module
from sweeps.session.ray_folder import PREFIX, discovery, last_errors, ray_folder, remove_abandoned
from sweeps.session.ray_token import make_token, tell_of_token

SOCKET = "session_2026-11-27_04-04-27_123456_1234567/sockets/plasma_store"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(prefix="t", dir="/tmp"))


def test_it_is_private_and_removed() -> None:
    with ray_folder() as folder:
        assert Path(os.environ["RAY_TMPDIR"]) in folder.parents
        assert folder.parent.stat().st_mode & 0o777 == 0o700
        folder.mkdir(0o777)
        (folder / discovery().name).write_text("[]")
        assert discovery().read_text() == "[]"
    assert not folder.parent.exists()
    assert not discovery().is_symlink()


@pytest.mark.parametrize("length", [1, 60, 200])
def test_a_socket_in_it_has_a_path_that_is_short_enough(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where TMPDIR is long, as on macOS and under Slurm."""
    monkeypatch.delenv("RAY_TMPDIR")
    own = Path(tempfile.mkdtemp(dir="/tmp")) / ("a" * length)
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    with ray_folder() as folder:
        assert len(os.fsencode(folder / SOCKET)) <= module.LONGEST_PATH


def test_what_a_killed_driver_left() -> None:
    """Its folder, and processes such as dashboard agents; those of drivers that live are left alone."""
    base = Path(os.environ["RAY_TMPDIR"])
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    killed, living, elsewhere = (base / f"{PREFIX}{pid}-{name}" for pid, name in (
        (ended.pid, "a"), (os.getpid(), "b"), (ended.pid, "in-another-container")
    ))  # fmt: skip
    agents = []
    for folder in (killed, living, elsewhere):
        folder.mkdir()
        (folder / ".driver").touch()
        command = [sys.executable, "-c", "import time; time.sleep(600)", f"--temp-dir={folder}/r"]
        agents.append(subprocess.Popen(command))
    try:
        with (elsewhere / ".driver").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            remove_abandoned(base)
        assert agents[0].wait(60) == -signal.SIGKILL
        assert [agent.poll() for agent in agents[1:]] == [None, None]
        assert [folder.exists() for folder in (killed, living, elsewhere)] == [False, True, True]
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()


def test_why_ray_could_not_start(tmp_path: Path) -> None:
    logs = tmp_path / "session_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("starting\nno space in /dev/shm\n")
    (logs / "gcs_server.err").write_text("")
    assert last_errors(tmp_path) == "raylet: no space in /dev/shm"


def test_the_token_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "ray" / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    make_token()
    assert not token.exists()
    monkeypatch.delenv("RAY_AUTH_MODE")
    make_token()
    assert token.stat().st_mode & 0o777 == 0o600
    content = token.read_text()
    assert len(content) == 64
    token.chmod(0o644)
    make_token()
    assert (token.read_text(), token.stat().st_mode & 0o777) == (content, 0o600)


@pytest.mark.parametrize("address", ["192.0.2.1:6379", "ray://192.0.2.1:10001", "auto"])
def test_a_token_that_goes_elsewhere_is_told(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    tell_of_token(address)
    assert capsys.readouterr().err == ""  # there is none to send
    token.write_text("secret")
    tell_of_token(address)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"Sending Ray's token ({token}) to 192.0.2.1, without encryption" in told
    assert "secret" not in told
    monkeypatch.delenv("RAY_ADDRESS")
    for here in ("auto", "127.0.0.1:6379", "localhost:6379", "ray://127.0.0.1:10001"):
        tell_of_token(here)
    assert capsys.readouterr().err == ""
