"""The cache on disk for decoded data and facts about data, kept from one run to the next.

The cache is a private folder, `$XDG_CACHE_HOME/large-batch-sweeps` (`~/.cache/large-batch-sweeps`) or `--cache-dir`. An
entry of it belongs to one dataset read in one way: its name is made of the dataset, of a digest of its place and
options, and of a digest of its files' names, sizes, times of change and inodes. So an entry that is found is not stale,
and a second start reads none of the files. What replaces an entry of other contents removes it: there is one for each
place and set of options, and the whole cache may be deleted at any time.

Files of an entry are written whole or not at all, or are checked when they are used (trainables.data.decoded), and one
process at a time writes to it. Trap: contents that change without a change of time or size, as on a disk that another
machine writes to directly, are not noticed.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trainables.data.mapped import stamp_of
from trainables.runtime.errors import UserError, one_line
from trainables.storage.folders import write_atomically

Arrays = Mapping[str, NDArray[Any]]

FORMAT = 2  # raise it when the files of an entry, or the meaning of its facts, change
NAME = "large-batch-sweeps"
FACTS = "facts.json"
_folder: ContextVar[Path | None] = ContextVar("cache folder", default=None)


@contextlib.contextmanager
def cache_in(folder: Path | None) -> Iterator[None]:
    """Has entries that are opened in the block be in `folder`; None: in the default place."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def cache_folder() -> Path:
    """The folder of the cache, made where it is missing. Raises UserError where it cannot be used."""
    given = _folder.get()
    if given is not None:
        return _private(given.expanduser().absolute())
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return _private((Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache") / NAME)
    except (UserError, RuntimeError):  # no home, or none that can be written
        return _private(Path(tempfile.gettempdir()) / f"{NAME}-{os.getuid()}")


class Entry:
    """The folder of one dataset, as it is now, read in one way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, kind: str, root: Path, files: Iterable[os.PathLike[str] | str], options: Mapping[str, Any]) -> "Entry":
        """That of the dataset `kind` of `files`, from `root`, with `options` that decide what is kept."""
        place = _digest([str(root.resolve()), FORMAT, sorted((name, repr(value)) for name, value in options.items())])
        return cls(cache_folder() / f"{kind}-{place}-{_digest(map(_stamp, files))}")

    def facts(self) -> dict[str, Any] | None:
        """What was found out and kept; None where nothing was, or it cannot be read."""
        try:
            found = json.loads((self.path / FACTS).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def file(self, name: str) -> Path:
        """The file of the array kept as `name`."""
        return self.path / f"{name}.npy"

    def array(self, name: str) -> NDArray[Any]:
        """The array kept as `name`, mapped. Raises OSError or ValueError where there is none that is whole."""
        array: NDArray[Any] = np.load(self.file(name), mmap_mode="r", allow_pickle=False)
        return array

    def fingerprint(self, of: str, find: Callable[[], str]) -> str:
        """What `find` returns, kept under the name `of`."""
        known = (self.facts() or {}).get("fingerprints", {})
        if of not in known:
            known[of] = find()
            with self.locked():
                self.keep({"fingerprints": known})
        return str(known[of])

    def made(self, names: Iterable[str], make: Callable[[list[Path]], Mapping[str, Any]]) -> dict[str, Any]:
        """What `make` returned when it wrote the files `names`, whose paths it gets.

        It is called where one of them is missing or was changed since, by one process at a time. Fingerprints that are
        kept were those of other files then, so they are dropped.
        """
        paths = [self.path / name for name in names]
        key = " ".join(path.name for path in paths)

        def known() -> Any:
            try:
                kept = (self.facts() or {})[key]
                return kept["facts"] if kept["stamps"] == [list(stamp_of(path)) for path in paths] else None
            except (OSError, KeyError, TypeError):
                return None

        facts = known()
        if facts is None:
            with self.locked(), told(self.path):
                facts = known()  # another process may have made them in the meantime
                if facts is None:
                    facts = dict(make(paths))
                    made = {"facts": facts, "stamps": [stamp_of(path) for path in paths]}
                    self.keep({key: made, "fingerprints": {}})
        return dict(facts)

    def arrays(
        self, names: Iterable[str], make: Callable[[], tuple[Arrays, Mapping[str, Any]]]
    ) -> tuple[Arrays, dict[str, Any]]:
        """The arrays `names`, mapped, and the facts, that `make` returned when it was called; see `made`."""
        names = list(names)

        def keep(_: list[Path]) -> Mapping[str, Any]:
            arrays, facts = make()
            self.keep({}, arrays)
            return facts

        facts = self.made([self.file(name).name for name in names], keep)
        return {name: self.array(name) for name in names}, facts

    def keep(self, facts: Mapping[str, Any], arrays: Arrays | None = None) -> None:
        """Keeps `arrays`, and then `facts` beside those that are there; to be called inside `locked`."""
        arrays = arrays or {}
        with told(self.path, sum(array.nbytes for array in arrays.values())):
            for name, array in arrays.items():
                with replacing(self.file(name)) as file:
                    np.save(file, array, allow_pickle=False)
            write_atomically(self.path / FACTS, json.dumps({**(self.facts() or {}), **facts}).encode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the entry for this process alone, after making it and removing the one that it replaces."""
        import fcntl  # absent on Windows, where reports work

        with told(self.path):
            if not self.path.exists():
                for other in self.path.parent.glob(f"{self.path.name.rpartition('-')[0]}-*"):
                    if other != self.path:  # as it is once another process has made it in the meantime
                        shutil.rmtree(other, ignore_errors=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise UserError(
                    f"`cache-dir` must be on storage with file locks, got {self.path.parent} "
                    f"({one_line(error.strerror)}); --cache-dir names a folder on a local disk"
                ) from error
            yield


@contextlib.contextmanager
def told(folder: Path, needed: int = 0) -> Iterator[None]:
    """Raises UserError in place of an OSError of writing to the cache, such as of a full disk."""
    try:
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed / 2**30:.3g} GiB are needed, {free / 2**30:.3g} GiB are free")
        yield
    except OSError as error:
        if isinstance(error, UserError):
            raise
        what = "full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "not writable"
        raise UserError(
            f"`cache-dir` {folder.parent} is {what} ({error.strerror or error}); "
            "--cache-dir names a folder on another disk"
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to. It takes the place of `path` at the end of the block, or is removed if the block fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _private(folder: Path) -> Path:
    with told(folder.parent if folder.parent.exists() else Path("/")):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, f"{folder} cannot be written")
        if folder.stat().st_uid != os.getuid():
            raise OSError(errno.EACCES, f"{folder} belongs to another user")
    return folder


def _stamp(file: os.PathLike[str] | str) -> tuple[str, int, int, int, int]:
    try:
        found = os.stat(file)  # noqa: PTH116, a path object for each of a million files takes seconds
    except OSError as error:
        raise UserError(f"`data-dir` must hold files that can be read, got {file} ({error.strerror})") from error
    whole = os.path.abspath(file)  # noqa: PTH100, as above
    return whole, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _digest(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
