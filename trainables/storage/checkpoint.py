"""A trial's checkpoint: one file under its key, replaced in one step, checked and loaded without executing anything.

    PATH            the newest: what torch.save wrote, with its SHA-256 as the comment of the ZIP archive that it is
    PATH.previous   the one before, used where the newest is cut short or has flipped bytes

The archive stays one that torch.load(path, weights_only=True) reads, so final weights are saved in the same way.
Weights may be a user's own, without a checksum: PyTorch then finds a file cut short, but not every flipped byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
from typing import TYPE_CHECKING, Any

from trainables.storage.folders import AnyPath, move, read_file, write_atomically
from trainables.storage.remote_path import retry_io

if TYPE_CHECKING:
    import torch

_PREFIX = b"sha256:"
_COMMENT_SIZE = len(_PREFIX) + 64


def save_checkpoint(path: AnyPath, state: dict[str, Any], *, keep_previous: bool = True) -> None:
    """Writes `state` (tensors, numbers, text, and lists and dicts of them) to `path`, whole or not at all.

    What was there is kept as the one before, if asked. Storage that is away is waited for.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = _with_checksum(buffer.getvalue())

    def write() -> None:
        if keep_previous:
            with contextlib.suppress(FileNotFoundError):
                move(path, _previous(path))
        write_atomically(path, content)

    retry_io(write)


def load_checkpoint(path: AnyPath, device: torch.device) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote last or, where that is not whole, the time before; None where neither is readable.

    A file that somebody else has saved, without a checksum, is taken as it is. The one before then takes the place of
    the damaged one: else the next `save_checkpoint` would keep that in its stead, and might itself be cut short.
    """
    state = _load(path, device)
    if state is None and (state := _load(_previous(path), device)) is not None:
        with contextlib.suppress(OSError):  # where nothing can be written, this is not the place to say so
            move(_previous(path), path)
    return state


def remove_checkpoint(path: AnyPath) -> None:
    """Removes the checkpoint and the one before."""
    for file in (path, _previous(path)):
        file.unlink(missing_ok=True)


def _previous(path: AnyPath) -> AnyPath:
    return path.with_suffix(".previous")


def _load(path: AnyPath, device: torch.device) -> dict[str, Any] | None:
    import torch

    try:
        content = read_file(path)
        if not _is_whole(content):
            return None
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)  # type: ignore[no-any-return]
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        return None


def _with_checksum(archive: bytes) -> bytes:
    """The ZIP archive with a comment; its last two bytes are the length of the comment, 0 in what PyTorch writes."""
    comment = _PREFIX + hashlib.sha256(archive[:-2]).hexdigest().encode()
    return archive[:-2] + len(comment).to_bytes(2, "little") + comment


def _is_whole(content: bytes) -> bool:
    """Whether the checksum is that of the content, or there is none."""
    comment = content[-_COMMENT_SIZE:]
    if not comment.startswith(_PREFIX):
        return True
    body, length = content[: -_COMMENT_SIZE - 2], content[-_COMMENT_SIZE - 2 : -_COMMENT_SIZE]
    return int.from_bytes(length, "little") == _COMMENT_SIZE and _with_checksum(body + b"\0\0") == content
