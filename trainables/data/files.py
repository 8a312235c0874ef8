"""Files of a user's own: found once each, and opened only where reading them can end.

A named pipe or a device never ends, a link may lead back to a folder above it, and a file may be, or unpack to, more
than the memory of the machine. Each of these is refused in one line before anything is read.
"""

import os
import stat
from functools import lru_cache
from pathlib import Path

from trainables.runtime.errors import UserError

_LIMIT_OF_CONTAINER = Path("/sys/fs/cgroup/memory.max")


@lru_cache
def machine_memory() -> int:
    """Bytes of memory of this machine, or of this container where it has fewer."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(found, int(_LIMIT_OF_CONTAINER.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return found


def require_memory(size: int, what: str) -> None:
    """Raises UserError where `what` takes `size` bytes, more than the machine has."""
    if size > machine_memory():
        raise UserError(
            f"`data-dir` must hold data that fits into the {machine_memory() / 2**30:.3g} GiB of memory, "
            f"got {what} of {size / 2**30:.3g} GiB"
        )


def require_regular(path: Path, expected: str) -> None:
    """Raises UserError where `path` is no regular file, or is larger than the memory.

    Args:
        expected: what `data-dir` must hold, for the message.
    """
    require_memory(readable(path, expected), f"a file, {path},")


def readable(path: Path, expected: str) -> int:
    """The bytes of a file of any size. Raises UserError where `path` is no regular file."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"`data-dir` must hold {expected}, got {path} ({reason})") from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"`data-dir` must hold {expected}, got {path}, which is {_kind(found.st_mode)}")
    return found.st_size


class Walk:
    """Finds files below folders. Links are followed, but the files of one folder are found once.

    A link to a folder above it is left out: its files are found without it. Two ways to one folder otherwise raise a
    UserError, since the same examples would count twice, possibly under two labels.
    """

    def __init__(self, root: Path) -> None:
        self._met: dict[tuple[int, int], Path | None] = {_identity(above): None for above in root.resolve().parents}
        self._root = root
        self._met[_identity(root)] = None

    def folders(self) -> list[Path]:
        """The folders directly in the root, by name, but for hidden ones."""
        return [folder for folder in _folders(self._root) if self._met.get(_identity(folder), folder) is not None]

    def files(self, folder: Path | None = None) -> list[Path]:
        """All files below `folder` (the root) but for hidden ones, by the name of their folder, then by their own."""
        found: list[tuple[str, Path, list[str]]] = []
        left = [folder or self._root]
        while left:
            here = left.pop()
            if here is not self._root and not self._is_new(here):
                continue
            with os.scandir(here) as entries:  # which know what is a folder without asking for each of a million files
                shown = [(entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
            found.append((str(here), here, sorted(name for name, is_folder in shown if not is_folder)))
            left += sorted(here / name for name, is_folder in shown if is_folder)
        return [here / name for _, here, names in sorted(found, key=lambda one: one[0]) for name in names]

    def _is_new(self, folder: Path) -> bool:
        first = self._met.setdefault(_identity(folder), folder)
        if first is folder:
            return True
        if first is None or first in folder.parents:
            return False
        raise UserError(f"`data-dir` must hold every folder once, got {first} and {folder}, which are the same")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _kind(mode: int) -> str:
    kinds = {
        stat.S_ISDIR: "a folder",
        stat.S_ISFIFO: "a named pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((kind for is_kind, kind in kinds.items() if is_kind(mode)), "no regular file")
