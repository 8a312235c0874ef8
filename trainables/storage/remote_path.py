"""A folder or file on one of pyarrow's file systems (s3, gs, hdfs, ...), with the verbs of a Path that results need.

A write is whole or not at all: an object store puts so by itself; elsewhere another name is written, then renamed.
What a RemotePath lacks of a Path (`open`, `__fspath__`) it does not have, so nothing is written to this machine by
mistake; `AnyPath` in folders.py is either, and the type checker sees that only their common verbs are used.

Storage that has answered once and then does not is away: an operation is tried again for PATIENCE seconds. Storage
that has never answered is wrong, and its error comes at once.
"""

import contextlib
import dataclasses
import fnmatch
import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

from trainables.runtime.errors import UserError

PATIENCE = 60.0  # seconds
_OBJECT_STORES = ("s3", "gcs", "abfs")  # where a put is whole or not at all
_Result = TypeVar("_Result")


def retry_io(action: Callable[[], _Result]) -> _Result:
    """The result of `action`, tried again after an OSError, such as of storage that is away, for PATIENCE seconds."""
    deadline, pause = time.monotonic() + PATIENCE, 0.25
    while True:
        try:
            return action()
        except OSError as error:
            if time.monotonic() + pause > deadline:
                raise
            print(f"storage does not answer, trying again in {pause:g} s: {error}", flush=True)
            time.sleep(pause)
            pause = min(2 * pause, 8.0)


@dataclasses.dataclass
class Storage:
    """A file system of pyarrow, the path in it that the root URI names, and whether it has answered."""

    files: Any
    root: str
    has_answered: bool = False


@lru_cache
def connect(root: str) -> Storage:
    """The file system that the URI `root` names; nothing is asked of the network yet. Raises UserError."""
    from pyarrow import ArrowException, fs  # takes a while: not for --help

    try:
        return Storage(*fs.FileSystem.from_uri(root))
    except (ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        message = f"`results` must be a folder or a URI such as s3://bucket/path, got {root} ({reason})"
        raise UserError(message) from None


class Stat(NamedTuple):
    """What changes when a file does; of a folder, the number of its files."""

    st_mtime_ns: int
    st_size: int


@dataclasses.dataclass(frozen=True, order=True)
class RemotePath:
    """A folder or file on a file system of pyarrow. Its methods do what those of pathlib.Path of the same name do."""

    root: str  # URI of the file system, with the query that says how to reach it
    path: PurePosixPath

    def __str__(self) -> str:
        base, mark, query = self.root.partition("?")
        return base.rstrip("/") + ("" if urlsplit(base).netloc else "//") + quote(str(self.path)) + mark + query

    def __truediv__(self, part: str) -> "RemotePath":
        return self._at(self.path / part)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def stem(self) -> str:
        return self.path.stem

    def with_name(self, name: str) -> "RemotePath":
        return self._at(self.path.with_name(name))

    @property
    def parent(self) -> "RemotePath":
        return self._at(self.path.parent)

    @property
    def parents(self) -> "list[RemotePath]":
        return [self._at(parent) for parent in self.path.parents]

    def with_suffix(self, suffix: str) -> "RemotePath":
        return self._at(self.path.with_suffix(suffix))

    def resolve(self) -> "RemotePath":
        return self

    absolute = expanduser = resolve

    def exists(self) -> bool:
        return bool(self._info().type.name != "NotFound")

    def is_dir(self) -> bool:
        return bool(self._info().type.name == "Directory")

    def is_file(self) -> bool:
        return bool(self._info().type.name == "File")

    def stat(self) -> Stat:
        """Raises FileNotFoundError. The time is the storage's own."""
        info = self._info()
        if info.type.name == "NotFound":
            raise FileNotFoundError(f"no {self}")
        if info.type.name == "Directory":
            return Stat(0, len(list(self.iterdir())))
        return Stat(info.mtime_ns or 0, info.size or 0)

    def iterdir(self) -> "Iterator[RemotePath]":
        return iter(self._list(recursive=False))

    def glob(self, pattern: str) -> "Iterator[RemotePath]":
        return (path for path in self._list(recursive=False) if fnmatch.fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str) -> "Iterator[RemotePath]":
        return (path for path in self._list(recursive=True) if fnmatch.fnmatchcase(path.name, pattern))

    def read_bytes(self) -> bytes:
        def read(files: Any, path: str) -> bytes:
            with files.open_input_stream(path) as stream:
                return bytes(stream.read())

        return self._do(read)

    def write_bytes(self, content: bytes) -> None:
        def write(files: Any, path: str) -> None:
            whole = files.type_name in _OBJECT_STORES
            written = path if whole else str(PurePosixPath(path).with_name(f".{self.name}.{os.getpid()}.tmp"))
            with files.open_output_stream(written) as stream:
                stream.write(content)
            if not whole:
                files.move(written, path)

        self._do(write)

    def replace(self, target: "RemotePath") -> None:
        """Raises FileNotFoundError where there is nothing to move. An object store copies, then deletes."""
        if not self.exists():
            raise FileNotFoundError(f"no {self}")
        self._do(lambda files, path: files.move(path, target.arrow_path()[1]))

    def unlink(self, missing_ok: bool = False) -> None:
        with contextlib.suppress(*[FileNotFoundError] * missing_ok):
            self._do(lambda files, path: files.delete_file(path))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        self._do(lambda files, path: files.create_dir(path, recursive=True))

    def remove_tree(self) -> None:
        """Removes the folder and all that is in it, where it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._do(lambda files, path: files.delete_dir(path))

    def _at(self, path: PurePosixPath) -> "RemotePath":
        return RemotePath(self.root, path)

    def arrow_path(self) -> tuple[Storage, str]:
        """The storage and the path in it, as pyarrow takes them."""
        storage = connect(self.root)
        return storage, f"{storage.root.rstrip('/')}/{str(self.path).strip('/')}".rstrip("/")

    def _info(self) -> Any:
        return self._do(lambda files, path: files.get_file_info(path))

    def _list(self, recursive: bool) -> "list[RemotePath]":
        from pyarrow import fs

        def found(files: Any, path: str) -> "list[RemotePath]":
            selector = fs.FileSelector(path, recursive=recursive, allow_not_found=True)
            return [self / info.path[len(path) :].strip("/") for info in files.get_file_info(selector)]

        return sorted(self._do(found))

    def _do(self, action: Callable[[Any, str], _Result]) -> _Result:
        """The result of `action` with the file system and the path in it. Raises OSError."""
        storage, path = self.arrow_path()

        def act() -> _Result | FileNotFoundError:
            try:
                return action(storage.files, path)
            except FileNotFoundError as error:  # an answer
                return error

        result = retry_io(act) if storage.has_answered else act()
        storage.has_answered = True
        if isinstance(result, FileNotFoundError):
            raise result
        return result
