"""A sweep notices that its results folder or Ray is gone, says so, and ends; a short absence it survives."""

import contextlib
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sweeps.cli.arguments import run_command
from sweeps.monitoring import watch
from sweeps.monitoring.watch import Watch, watching
from trainables.runtime.errors import LostError

LONG = 120.0  # seconds that a lost sweep would wait


@pytest.fixture(autouse=True)
def terminable() -> Iterator[None]:
    """SIGTERM as `run_command` handles it."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, seconds in {"LOOK_SECONDS": 0.05, "TELL_AFTER": 0.2, "GIVE_UP": 2.0, "RAY_SECONDS": 0.05}.items():
        monkeypatch.setattr(watch, name, seconds)
    folder = tmp_path / "a sweep ü"
    folder.mkdir()
    (folder / "sweep.json").write_text("{}")
    return folder


def wait_in(seen: Watch, *looks: object, seconds: float = LONG) -> None:
    with watching(seen, *looks):  # type: ignore[arg-type]
        time.sleep(seconds)
    seen.end()


def test_a_folder_that_is_gone_for_good(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = Watch()
    threading.Timer(0.3, lambda: folder.rename(folder.with_name("elsewhere"))).start()
    started = time.monotonic()
    with pytest.raises(LostError, match=r"results folder .*a sweep ü cannot be used since \d\d:\d\d:\d\d .*removed"):
        wait_in(seen, partial(seen.look_at_storage, folder))
    seen.end()
    assert time.monotonic() - started > watch.GIVE_UP
    told = capsys.readouterr().err
    assert re.fullmatch(
        r".*a sweep ü cannot be used since .*; trials wait, and the sweep ends in \d+ s unless.*\n", told
    )


def test_a_folder_that_comes_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen, away = Watch(), folder.with_name("elsewhere")
    threading.Timer(0.2, lambda: folder.rename(away)).start()
    threading.Timer(1.0, lambda: away.rename(folder)).start()
    wait_in(seen, partial(seen.look_at_storage, folder), seconds=3.5)
    told = capsys.readouterr().err.splitlines()
    assert ["cannot be used since" in told[0], "answers again" in told[1], len(told)] == [True, True, 2]
    for _ in range(600):  # the last look may still be under way
        if (left := [file.name for file in folder.iterdir()]) == ["sweep.json"]:
            break
        time.sleep(0.1)
    assert left == ["sweep.json"]


def test_a_folder_that_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a dead NFS server, where an access never returns."""
    monkeypatch.setattr(watch, "_fault", lambda *_: time.sleep(LONG))
    seen = Watch()
    with pytest.raises(LostError, match="no answer"):
        wait_in(seen, partial(seen.look_at_storage, folder))
    seen.end()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(folder: Path) -> None:
    probe = folder / ".probe"
    probe.symlink_to("/dev/full")  # a link, as the probe is removed, and root may remove the device itself
    assert watch._fault(folder, probe) == "No space left on device"
    assert Path("/dev/full").is_char_device()
    assert watch._fault(folder, probe) is None


def test_ray_that_dies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, and an exit status of its own."""
    server = socket.create_server(("127.0.0.1", 0))
    seen, services = Watch(), {"raylet on this machine": server.getsockname()}
    threading.Timer(0.5, server.close).start()

    def run() -> int:
        try:
            wait_in(seen, partial(seen.look_at_ray, services))
        finally:
            seen.end()
        return 0

    assert run_command("program", run) == 3
    assert capsys.readouterr().err == (
        "program: error: Ray's raylet on this machine has died (Connection refused); every finished trial is kept, "
        "--resume continues\n"
    )


def test_what_else_fails_is_not_taken_for_a_loss(folder: Path) -> None:
    """An exception of the driver is one of Ray's death only if Ray is dead."""
    server = socket.create_server(("127.0.0.1", 0))
    seen = Watch()
    seen._services = {"raylet": server.getsockname()}
    with pytest.raises(ZeroDivisionError), watching(seen):
        1 / 0  # noqa: B018
    server.close()
    with pytest.raises(LostError, match="raylet has died"), watching(seen):
        1 / 0  # noqa: B018


@pytest.mark.parametrize("end", [None, KeyboardInterrupt, ZeroDivisionError])
def test_ray_that_ends_after_its_sweep_is_not_lost(end: type[BaseException] | None) -> None:
    """However the sweep ends, Ray is shut down after it."""
    seen = Watch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        services = {"control store": server.getsockname()[:2]}
        expected = contextlib.nullcontext() if end is None else pytest.raises(end)
        with expected, watching(seen, partial(seen.look_at_ray, services)):
            time.sleep(5 * watch.RAY_SECONDS)
            if end is not None:
                raise end
    time.sleep(10 * watch.RAY_SECONDS)  # the service is gone, and SIGTERM would end this test
    assert seen.lost is None
