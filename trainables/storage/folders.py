"""Where results are: a folder on a file system, or one on any file system of pyarrow, named by its URI.

    results                                                 a folder (NFS and other mounts too): pathlib.Path
    s3://bucket/path    gs://bucket/path    hdfs://...      RemotePath, which has the verbs of a Path that results need

`place` reads either, and a `AnyPath` is either. A file is written whole or not at all: on a file system under another
name first, flushed and renamed. Credentials come from the environment (AWS_ACCESS_KEY_ID, ~/.aws,
GOOGLE_APPLICATION_CREDENTIALS, ...): a URI that carries any is refused, for results name their folder in tables and
logs.
"""

import argparse
import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from trainables.runtime.errors import UserError
from trainables.storage.remote_path import RemotePath, connect

AnyPath = Path | RemotePath
_SECRET = re.compile(r"secret|password|passwd|token|credential|signature|(^|_)key|^sig$", re.IGNORECASE)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_Result = TypeVar("_Result")
_AnyPath = TypeVar("_AnyPath", bound=AnyPath)


def place(text: str | AnyPath, *, has_answered: bool = False) -> AnyPath:
    """The folder or file that `text` names, a path or the URI of one of pyarrow's file systems.

    `has_answered`: another process has reached this storage. Raises UserError for a URI that carries credentials or
    that pyarrow cannot read; nothing is asked of the network yet.
    """
    if isinstance(text, RemotePath):
        return text
    if not isinstance(text, str | Path):
        raise UserError(f"`results` must be a folder, a path or a URI, got {type(text).__name__}")
    if isinstance(text, Path) or not _URI.match(text):
        if "\0" in str(text):
            raise UserError(f"`results` must be a name without NUL, got {str(text)!r}")
        return Path(text)
    uri = urlsplit(text)
    if uri.password or any(_SECRET.search(name) for name, _ in parse_qsl(uri.query, keep_blank_values=True)):
        raise UserError(
            f"`results` must be a URI without credentials, got {redact_credentials(text)}; "
            "they come from the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, ...)"
        )
    if uri.scheme == "file":
        return Path(unquote(uri.path))
    root = f"{uri.scheme}://{uri.netloc}" + ("" if uri.netloc else "/") + (f"?{uri.query}" if uri.query else "")
    storage = connect(root)
    storage.has_answered |= has_answered
    return RemotePath(root, PurePosixPath("/" + unquote(uri.path).strip("/")))


def argument(text: str) -> AnyPath:
    """`place`, for the command line."""
    try:
        return place(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def redact_credentials(text: str) -> str:
    """`text` with the credentials in its URIs left out: `user:password@`, and values of keys and tokens."""
    text = re.sub(r"(://[^/@:\s]*):[^/@\s]+@", r"\1:***@", text)
    return re.sub(
        r"([?&])([^=&\s]+)=([^&\s]*)",
        lambda found: f"{found[1]}{found[2]}=***" if _SECRET.search(found[2]) else found[0],
        text,
    )


def write_atomically(path: AnyPath, content: bytes) -> None:
    """Writes `path` whole or not at all."""
    if isinstance(path, RemotePath):
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def move(path: AnyPath, target: AnyPath) -> None:
    """Gives the file `path` the name `target`, in the same storage; what had that name is lost."""
    if isinstance(path, RemotePath):
        assert isinstance(target, RemotePath)
        path.replace(target)
    else:
        path.replace(str(target))


def is_there(path: AnyPath) -> bool:
    """Whether anything has this name, also a link to nowhere."""
    return path.exists() or (isinstance(path, Path) and path.is_symlink())


class NotAFileError(OSError):
    """Something that is not a regular file has the name of one."""


def check_is_file(path: AnyPath) -> None:
    """Raise NotAFileError if `path` is anything but a regular file; nothing at all is accepted.

    Reading a named pipe or a device would not end, and a link to nowhere must not pass for a file that was never
    written.
    """
    if is_there(path) and not path.is_file():
        raise NotAFileError("it is not a regular file")


def read_file(path: AnyPath) -> bytes:
    """Return the contents of a regular file. Raises FileNotFoundError, and NotAFileError as `check_is_file` does."""
    check_is_file(path)
    return path.read_bytes()


def remove_folder(folder: AnyPath) -> None:
    """Removes `folder` and all that is in it, where it is there."""
    if isinstance(folder, RemotePath):
        folder.remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def arrow_path(path: AnyPath) -> tuple[str, Any]:
    """The path and the file system as pyarrow and Ray take them; the file system is None for a local path."""
    if not isinstance(path, RemotePath):
        return str(path), None
    storage, inside = path.arrow_path()
    return inside, storage.files


def in_parallel(action: Callable[[_AnyPath], _Result], paths: Sequence[_AnyPath]) -> list[_Result]:
    """The results of `action` on files; on remote storage, where an answer takes a while, on several at a time."""
    if not paths or isinstance(paths[0], Path):
        return [action(path) for path in paths]
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(action, paths))
