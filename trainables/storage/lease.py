"""Allow only one driver at a time in a results folder.

On a file system it is a lock on FOLDER/.lock, which the kernel takes back when the process ends, however it ends. An
object store has no locks: there a driver leaves FOLDER/.lease-ID with its host and process, and renews it. A driver
that finds another's lease gives way, so of two that begin at the same moment one or none goes on; a lease that was
not renewed for STALE seconds is nobody's, nor is one whose process is gone from this machine. Ages are taken by the
storage's own clock, so the clocks of two machines may differ.

A driver that the storage is cut off from for longer than STALE does not know that another has taken over. Both then
run the same trials to the same records; the tables are whole again after one more --resume.
"""

import contextlib
import errno
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.runtime.errors import UserError, one_line
from trainables.storage.folders import AnyPath, NotAFileError, check_is_file, read_file, write_atomically
from trainables.storage.remote_path import RemotePath

RENEW, STALE = 10.0, 60.0  # seconds
LEASE = ".lease-"


class NoLocksError(UserError):
    """The file system of a folder has no locks."""


@contextlib.contextmanager
def hold(folder: AnyPath) -> Iterator[None]:
    """Holds `folder` for this process while the block lasts. Raises UserError where another does."""
    with _lease(folder) if isinstance(folder, RemotePath) else _lock(folder):
        yield


def is_held(folder: AnyPath) -> bool:
    """Whether a sweep runs there, as far as can be seen from here without writing; on a file system, on this machine.

    Traps: the lock is looked up in /proc/locks, so False on systems without it; leases are aged by this machine's
    clock.
    """
    try:
        if isinstance(folder, RemotePath):
            return any(time.time() - lease.stat().st_mtime_ns / 1e9 < STALE for lease in folder.glob(f"{LEASE}*"))
        inode = (folder / ".lock").stat().st_ino
        locks = Path("/proc/locks").read_text()
    except OSError:
        return False
    fields = [line.split() for line in locks.splitlines()]
    return any(len(field) > 5 and field[1] == "FLOCK" and field[5].endswith(f":{inode}") for field in fields)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    check_is_file(folder / ".lock")
    with (folder / ".lock").open("w") as lock:
        import fcntl  # absent on Windows, where reports work

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"`--name`: another sweep is using {folder}; wait for it, or use another --name"
                ) from error
            raise NoLocksError(
                f"`results` must be on storage with file locks, got {folder} ({one_line(error.strerror)}); mount it "
                "with them (NFS: local_lock=flock, Lustre: flock), or give a local folder or a URI such as "
                "s3://bucket/path"
            ) from error
        yield


@contextlib.contextmanager
def _lease(folder: AnyPath) -> Iterator[None]:
    own = folder / f"{LEASE}{uuid.uuid4().hex[:12]}"
    content = json.dumps({"host": platform.node(), "pid": os.getpid(), "where": _process_space()}).encode()
    write_atomically(own, content)
    try:
        now = own.stat().st_mtime_ns
        for other in folder.glob(f"{LEASE}*"):
            if other == own:
                continue
            with contextlib.suppress(FileNotFoundError):  # let go in this moment
                holder, age = _holder(other), (now - other.stat().st_mtime_ns) / 1e9
                if age < STALE and not _is_gone(holder):
                    raise UserError(
                        f"`--name`: another sweep is using {folder}: process {holder.get('pid')} on "
                        f"{holder.get('host')} held it {age:.0f} s ago; if it was killed, --resume after {STALE:.0f} s"
                    )
                other.unlink(missing_ok=True)
        stop = threading.Event()
        renewing = threading.Thread(target=_renew, args=(own, content, stop), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            stop.set()
            renewing.join()
    finally:
        own.unlink(missing_ok=True)


def _renew(lease: Path, content: bytes, stop: threading.Event) -> None:
    while not stop.wait(RENEW):
        with contextlib.suppress(OSError):  # away: the next time
            write_atomically(lease, content)


def _holder(lease: AnyPath) -> dict[str, Any]:
    try:
        content = json.loads(read_file(lease))
    except (NotAFileError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _process_space() -> str | None:
    """Names the set of processes that this one's number is one of: this boot of this machine, this container."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine and has ended."""
    if holder.get("where") is None or holder["where"] != _process_space() or not isinstance(holder.get("pid"), int):
        return False
    return not Path(f"/proc/{holder['pid']}").exists()
