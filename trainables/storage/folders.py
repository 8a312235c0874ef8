"""Where results are: a folder on a file system, or one on any file system of pyarrow, named by its URI.

    results                                                 a folder (NFS and other mounts too): pathlib.Path
    s3://bucket/path    gs://bucket/path    hdfs://...      RemotePath, which has the verbs of a Path that results need

`place` reads either. A file is written whole or not at all: on a file system under another name first, flushed and
renamed; on an object store a put is whole by itself. To the type checker a RemotePath is a Path; what it lacks of one
(`open`, `__fspath__`) raises, so nothing is written to this machine by mistake.

Storage that has answered once and then does not is away: an operation is tried again for PATIENCE seconds. Storage
that has never answered is wrong, and its error comes at once. Credentials come from the environment (AWS_ACCESS_KEY_ID,
~/.aws, GOOGLE_APPLICATION_CREDENTIALS, ...): a URI that carries any is refused, for results name their folder in
tables and logs.
"""

import argparse
import contextlib
import dataclasses
import fnmatch
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from trainables.runtime.errors import UserError

PATIENCE = 60.0  # seconds
_OBJECT_STORES = ("s3", "gcs", "abfs")  # where a put is whole or not at all
_SECRET = re.compile(r"secret|password|passwd|token|credential|signature|(^|_)key|^sig$", re.IGNORECASE)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_Result = TypeVar("_Result")


def place(text: str | Path, *, has_answered: bool = False) -> Path:
    """The folder or file that `text` names, a path or the URI of one of pyarrow's file systems.

    `has_answered`: another process has reached this storage. Raises UserError for a URI that carries credentials or
    that pyarrow cannot read; nothing is asked of the network yet.
    """
    if isinstance(text, Path) or is_remote(text) or not _URI.match(text):
        if "\0" in str(text):
            raise UserError(f"`results` must be a name without NUL, got {str(text)!r}")
        return text if is_remote(text) else Path(text)  # type: ignore[return-value]
    uri = urlsplit(text)
    if uri.password or any(_SECRET.search(name) for name, _ in parse_qsl(uri.query, keep_blank_values=True)):
        raise UserError(
            f"`results` must be a URI without credentials, got {scrubbed(text)}; "
            "they come from the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, ...)"
        )
    if uri.scheme == "file":
        return Path(unquote(uri.path))
    root = f"{uri.scheme}://{uri.netloc}" + ("" if uri.netloc else "/") + (f"?{uri.query}" if uri.query else "")
    storage = _connect(root)
    storage.has_answered |= has_answered
    return cast(Path, RemotePath(root, PurePosixPath("/" + unquote(uri.path).strip("/"))))


def argument(text: str) -> Path:
    """`place`, for the command line."""
    try:
        return place(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def is_remote(path: object) -> bool:
    return isinstance(path, RemotePath)


def scrubbed(text: str) -> str:
    """`text` with the credentials in its URIs left out: `user:password@`, and values of keys and tokens."""
    text = re.sub(r"(://[^/@:\s]*):[^/@\s]+@", r"\1:***@", text)
    return re.sub(
        r"([?&])([^=&\s]+)=([^&\s]*)",
        lambda found: f"{found[1]}{found[2]}=***" if _SECRET.search(found[2]) else found[0],
        text,
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `path` whole or not at all."""
    if is_remote(path):
        cast(RemotePath, path).write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def is_there(path: Path) -> bool:
    """Whether anything has this name, also a link to nowhere."""
    return path.exists() or (not is_remote(path) and path.is_symlink())


class NotAFileError(OSError):
    """Something that is not a regular file has the name of one."""


def check_is_file(path: Path) -> None:
    """Raise NotAFileError if `path` is anything but a regular file; nothing at all is accepted.

    Reading a named pipe or a device would not end, and a link to nowhere must not pass for a file that was never
    written.
    """
    if is_there(path) and not path.is_file():
        raise NotAFileError("it is not a regular file")


def read_file(path: Path) -> bytes:
    """Return the contents of a regular file. Raises FileNotFoundError, and NotAFileError as `check_is_file` does."""
    check_is_file(path)
    return path.read_bytes()


def patiently(action: Callable[[], _Result]) -> _Result:
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


def remove_folder(folder: Path) -> None:
    """Removes `folder` and all that is in it, where it is there."""
    if is_remote(folder):
        with contextlib.suppress(FileNotFoundError):
            cast(RemotePath, folder)._do(lambda files, path: files.delete_dir(path))
    else:
        shutil.rmtree(folder, ignore_errors=True)


def arrow_path(path: Path) -> tuple[str, Any]:
    """The path and the file system as pyarrow and Ray take them; the file system is None for a local path."""
    if not is_remote(path):
        return str(path), None
    storage, inside = cast(RemotePath, path)._place()
    return inside, storage.files


def in_parallel(action: Callable[[Path], _Result], paths: Sequence[Path]) -> list[_Result]:
    """The results of `action` on files; on remote storage, where an answer takes a while, on several at a time."""
    if not paths or not is_remote(paths[0]):
        return [action(path) for path in paths]
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(action, paths))


@dataclasses.dataclass
class _Storage:
    """A file system of pyarrow, the path in it that the root URI names, and whether it has answered."""

    files: Any
    root: str
    has_answered: bool = False


@lru_cache
def _connect(root: str) -> _Storage:
    from pyarrow import ArrowException, fs  # takes a while: not for --help

    try:
        return _Storage(*fs.FileSystem.from_uri(root))
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
        self._do(lambda files, path: files.move(path, target._place()[1]))

    def unlink(self, missing_ok: bool = False) -> None:
        with contextlib.suppress(*[FileNotFoundError] * missing_ok):
            self._do(lambda files, path: files.delete_file(path))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        self._do(lambda files, path: files.create_dir(path, recursive=True))

    def _at(self, path: PurePosixPath) -> "RemotePath":
        return RemotePath(self.root, path)

    def _place(self) -> tuple[_Storage, str]:
        storage = _connect(self.root)
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
        storage, path = self._place()

        def act() -> _Result | FileNotFoundError:
            try:
                return action(storage.files, path)
            except FileNotFoundError as error:  # an answer
                return error

        result = patiently(act) if storage.has_answered else act()
        storage.has_answered = True
        if isinstance(result, FileNotFoundError):
            raise result
        return result
