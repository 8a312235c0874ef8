"""The folder of Ray's session on this machine: private, with a short path, and removed at the end.

Ray's own default, /tmp/ray, can be read and written by every user of the machine. This folder has mode 0700, with one
inside that Ray makes open to all, and is named after its driver. A driver that is killed leaves it behind, and if that
happens while Ray starts, processes such as dashboard agents too: the next driver finds both by the name and ends them.

Trap: the path of a Unix socket has at most 107 bytes on Linux and 103 on macOS, and Ray adds LONGEST_SOCKET of them.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainables.runtime.errors import UserError, one_line

PREFIX = "lbs-ray-"
LONGEST_SOCKET = len("/r/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store_0")
LONGEST_PATH = 103 if sys.platform == "darwin" else 107
DISCOVERY = "prom_metrics_service_discovery.json"  # what Prometheus reads


@contextlib.contextmanager
def ray_folder() -> Iterator[Path]:
    """A new private folder while the block lasts. Raises UserError where none can be made."""
    with contextlib.ExitStack() as held:
        base = _base()
        remove_abandoned(base)
        try:
            private = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))  # mode 0700
            lock = held.enter_context((private / ".driver").open("w"))
            with contextlib.suppress(OSError):  # no locks there: then the process id alone tells
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"`TMPDIR` must be a folder where Ray can write, got {base} ({error.strerror}); "
                "RAY_TMPDIR=FOLDER names another"
            ) from error
        folder, link = private / "r", discovery()
        try:
            with contextlib.suppress(OSError):  # Prometheus is not needed
                link.parent.mkdir(mode=0o700, exist_ok=True)
                _point(link, folder / DISCOVERY)
            yield folder
        finally:
            with contextlib.suppress(OSError):
                if link.readlink() == folder / DISCOVERY:
                    link.unlink()
            shutil.rmtree(private, ignore_errors=True)


def discovery() -> Path:
    """Where Prometheus finds the sweep that started last: a link to the file that Ray keeps in its folder."""
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / DISCOVERY  # noqa: S108


def last_errors(folder: Path) -> str:
    """The last line that each of Ray's services has written to its error log, to say why Ray could not start."""
    lines = {}
    for file in sorted(folder.glob("session_*/logs/*.err")):
        with contextlib.suppress(OSError):
            text = file.read_text(encoding="utf-8", errors="replace").strip()
            if text and not file.parent.parent.is_symlink():
                lines[file.stem] = text.splitlines()[-1]
    return "; ".join(f"{name}: {one_line(line)[:300]}" for name, line in lines.items())


def remove_abandoned(base: Path) -> None:
    """Removes the folders in `base` whose drivers have ended, and ends the processes that still use them."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if folder.stat().st_uid == os.getuid() and not folder.is_symlink() and _is_abandoned(folder):
                end_processes(folder)
                shutil.rmtree(folder, ignore_errors=True)


def end_processes(folder: Path) -> None:
    """Ends the processes that use `folder`, other than this one."""
    for pid in _processes_of(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _base() -> Path:
    """RAY_TMPDIR, TMPDIR or the first other place with a path that is short enough for sockets and can be written."""
    places = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp", "/var/tmp"]  # noqa: S108
    for place in filter(None, places):
        whole = len(os.fsencode(f"{place}/{PREFIX}{os.getpid()}-12345678")) + LONGEST_SOCKET
        if whole <= LONGEST_PATH and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    raise UserError(
        f"`TMPDIR` must be a folder that can be written, with a path of at most "
        f"{LONGEST_PATH - LONGEST_SOCKET - len(PREFIX) - 17} bytes (Ray puts Unix sockets in it), got "
        f"{tempfile.gettempdir()}; RAY_TMPDIR=FOLDER names another"
    )


def _point(link: Path, target: Path) -> None:
    """Makes `link` point to `target` in one step."""
    new = link.with_name(f".{link.name}.{os.getpid()}")
    new.symlink_to(target)
    new.replace(link)


def _is_abandoned(folder: Path) -> bool:
    """Whether its driver is neither alive here nor, in another container, holds its lock."""
    pid = int(folder.name.removeprefix(PREFIX).split("-")[0])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    with (folder / ".driver").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: held
    return True


def _processes_of(folder: Path) -> list[int]:
    """The processes of this user in whose command line the folder is; none where there is no /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in (process / "cmdline").read_bytes() and process.stat().st_uid == os.getuid():
                found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]
