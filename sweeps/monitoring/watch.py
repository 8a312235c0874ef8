"""Check, while a sweep runs, that its results folder and Ray can still be reached.

Trials wait for storage that is away, so nothing would happen and nobody would know why. The driver therefore checks
the storage in a separate thread, because an access to a dead NFS server may never return. It says once that the storage
is away, and gives up after GIVE_UP seconds. When Ray's processes die they would end the driver without a message, so
their ports are checked too.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trainables.runtime.errors import LostError, one_line
from trainables.storage.folders import AnyPath

LOOK_SECONDS = 5.0
TELL_AFTER = 15.0  # seconds
GIVE_UP = 180.0  # less than what a trial waits in all its attempts, so that no trial fails for it
RAY_SECONDS = 0.2
FAR_AWAY = 20.0  # seconds in which a cluster's head elsewhere may be unreachable
LAST_RESORT = 20.0  # seconds, after which the process is ended where the main thread does not react


class Watch:
    """Ends the block of `watching` by KeyboardInterrupt when `lost` is set; `raise_if_lost` then says why."""

    def __init__(self) -> None:
        self.lost: str | None = None
        self._services: dict[str, tuple[str, int]] = {}
        self._done = threading.Event()
        self._lock = threading.Lock()

    def raise_if_lost(self) -> None:
        if self.lost is not None:
            raise LostError(self.lost)

    def end(self) -> None:
        self._done.set()

    def give_up(self, reason: str) -> None:
        """Called in a thread. The main one may hang where no signal reaches it: then the process ends here."""
        with self._lock:
            if self._done.is_set() or self.lost is not None:
                return
            self.lost = reason
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._done.wait(LAST_RESORT):
            print(f"error: {one_line(reason)}", file=sys.stderr, flush=True)
            os._exit(LostError.status)

    def look_at_storage(self, folder: AnyPath) -> None:
        probe = folder / f".probe-{os.getpid()}"
        answered, since, told, failure = time.monotonic(), time.strftime("%H:%M:%S"), False, "no answer"
        looking: threading.Thread | None = None
        while not self._done.wait(LOOK_SECONDS):
            if looking is None:
                outcome: list[str | None] = []
                looking = threading.Thread(
                    target=lambda found=outcome: found.append(_fault(folder, probe)), daemon=True
                )
                looking.start()
            looking.join(LOOK_SECONDS)
            now = time.monotonic()
            if not looking.is_alive():
                looking, fault = None, outcome[0]
                if fault is None:
                    if told:
                        print(f"{folder} answers again", file=sys.stderr, flush=True)
                    answered, since, told, failure = now, time.strftime("%H:%M:%S"), False, "no answer"
                    continue
                failure = fault
            if not told and now - answered > TELL_AFTER:
                told = True
                print(
                    f"{folder} cannot be used since {since} ({failure}); trials wait, and the sweep ends in "
                    f"{GIVE_UP - (now - answered):.0f} s unless it comes back",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
            if now - answered > GIVE_UP:
                self.give_up(
                    f"the results folder {folder} cannot be used since {since} ({failure}); finished trials that were "
                    "written are kept, and --resume continues once it is back"
                )
                return

    def look_at_ray(self, services: dict[str, tuple[str, int]]) -> None:
        self._services = services
        reached = dict.fromkeys(services, time.monotonic())
        while not self._done.wait(RAY_SECONDS):
            for name, (host, port) in services.items():
                fault = _unreachable(host, port)
                if fault is None:
                    reached[name] = time.monotonic()
                elif time.monotonic() - reached[name] > (0.0 if host.startswith("127.") else FAR_AWAY):
                    self.give_up(_death_of(name, fault))
                    return

    def judge(self) -> None:
        """Whether an exception is due to Ray's death, which the thread may not have seen yet."""
        for name, place in self._services.items():
            fault = _unreachable(*place)
            with self._lock:
                if fault is not None and self.lost is None:
                    self.lost = _death_of(name, fault)


@contextlib.contextmanager
def watching(watch: Watch, *looks: Callable[[], None]) -> Iterator[None]:
    """Runs each of `looks` in a thread while the block lasts. Raises LostError where one of them gave up."""
    for look in looks:
        threading.Thread(target=look, daemon=True).start()
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception):
            watch.judge()
        watch.raise_if_lost()
        watch.end()  # or it would take the shutdown of Ray that follows for its death
        raise
    watch.end()


def _death_of(name: str, fault: str) -> str:
    return f"Ray's {name} has died ({fault}); every finished trial is kept, --resume continues"


def _fault(folder: AnyPath, probe: AnyPath) -> str | None:
    """Why the results folder cannot be used; None where it can."""
    try:
        if not (folder / "sweep.json").exists():  # written before any trial starts
            return "it was removed, or something else is in its place"
        if isinstance(probe, Path):
            with probe.open("wb") as file:
                file.write(b"\0" * 4096)
                file.flush()
                os.fsync(file.fileno())
            probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        return error.strerror or one_line(error)
    return None


def _unreachable(host: str, port: int) -> str | None:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        return error.strerror or one_line(error)
    return None
