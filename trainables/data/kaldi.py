"""Kaldi's archives, the little of them that frames and their labels need: matrices, and vectors of integers.

An archive (`ark`) is a row of `KEY OBJECT`, an object either text or, after the bytes 0 and `B`, binary: `FM` and `DM`
matrices of float32 and float64, `CM`, `CM2`, `CM3` compressed ones, integer vectors. A script (`scp`) has lines `KEY
ARK:OFFSET`; a path is relative to the scp's folder, or to where the program runs. Source: Kaldi's documentation, "Kaldi
I/O mechanisms", and `matrix/compressed-matrix.h`.

Why a reader of our own: Kaldi's scripts may name shell commands (`gunzip -c x.gz |`), and kaldiio 2.18 runs them, and
unpickles objects that are marked so. This reader does neither; a command is refused.
"""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trainables.data.files import require_regular
from trainables.runtime.errors import UserError, quoted

OFFSET = re.compile(r"[0-9]{1,19}")
LONGEST_WORD = 1000  # characters of an utterance's name
LONGEST_LINE = 10_000  # characters of a line of a script

Array = NDArray[np.float32] | NDArray[np.int64]


def read_kaldi(file: Path) -> dict[str, Array]:
    """The objects in an `.ark`, `.scp` or text (`.txt`) file by key: matrices (frames, d) float32, vectors int64.

    Raises UserError, naming the file and key, for what is truncated, of another kind, twice there, or a command.
    """
    found: dict[str, Array] = {}
    for key, array in _script(file) if file.suffix == ".scp" else _archive(file):
        if key in found:
            raise UserError(f"`data-dir` must hold every utterance once, got {key} twice in {file}")
        found[key] = array
    return found


def _archive(file: Path) -> Iterator[tuple[str, Array]]:
    with _open(file) as stream:
        while key := _key(stream, file):
            yield key, _object(stream, file, key)


def _script(file: Path) -> Iterator[tuple[str, Array]]:
    with _open(file) as lines:
        for line in lines.read().decode(errors="replace").split("\n"):
            key, _, place = line.strip().partition(" ")
            place = place.strip()
            path, colon, offset = place.rpartition(":")
            if not key:
                continue
            is_plain = colon and OFFSET.fullmatch(offset) and len(line) <= LONGEST_LINE
            if not is_plain or place.startswith("|") or place.endswith(("|", "]")):
                raise UserError(
                    f"`data-dir` must hold scp lines `KEY ARK:OFFSET`, got {quoted(line)} in {file}; "
                    "commands are not run, ranges not cut: copy-feats writes a plain ark"
                )
            beside = file.parent / path
            with _open(beside if "\0" not in path and beside.exists() else Path(path)) as stream:
                if int(offset) >= os.fstat(stream.fileno()).st_size:
                    raise UserError(
                        f"`data-dir` must hold scp lines with offsets in their ark, got {quoted(line)} in {file}"
                    )
                stream.seek(int(offset))
                yield key, _object(stream, Path(path), key)


def _open(file: Path) -> BinaryIO:
    require_regular(file, "readable Kaldi files")
    try:
        return file.open("rb")
    except OSError as error:
        raise UserError(f"`data-dir` must hold readable Kaldi files, got {file} ({error.strerror})") from error


def _word(stream: BinaryIO) -> str:
    """The next word and the white space after it; empty at the end."""
    letters = bytearray()
    while letter := stream.read(1):
        if not letter.isspace():
            letters += letter
        elif letters:
            break
        if len(letters) > LONGEST_WORD:
            raise ValueError(f"a word of more than {LONGEST_WORD} characters")
    return letters.decode(errors="replace")


def _key(stream: BinaryIO, file: Path) -> str:
    try:
        return _word(stream)
    except ValueError as error:
        raise UserError(f"`data-dir` must hold whole Kaldi archives, got {file} ({error})") from error


def _object(stream: BinaryIO, file: Path, key: str) -> Array:
    try:
        start = stream.read(2)
        if start == b"\0B":
            return _binary(stream)
        stream.seek(-len(start), 1)
        return _text(stream)
    except (struct.error, ValueError, OverflowError, MemoryError) as error:
        raise UserError(
            f"`data-dir` must hold whole Kaldi matrices and integer vectors, got {key} in {file} ({quoted(error)})"
        ) from error


def _binary(stream: BinaryIO) -> Array:
    kind = stream.read(1)
    if kind == b"\4":  # a vector: its length, then each element, all as int32 after a byte that says 4
        (size,) = struct.unpack("<i", stream.read(4))
        elements = _numbers(stream, np.dtype([("bytes", "i1"), ("value", "<i4")]), size)
        if not (elements["bytes"] == 4).all():
            raise ValueError("a vector of other than int32")
        return np.asarray(elements["value"], dtype=np.int64)
    kind += _word(stream).encode()
    if kind in (b"FM", b"DM"):
        _, rows, _, columns = struct.unpack("<bibi", stream.read(10))
        _require_shape(rows, columns)
        numbers = _numbers(stream, "<f4" if kind == b"FM" else "<f8", rows * columns)
        return np.asarray(numbers.reshape(rows, columns), dtype=np.float32)
    if kind in (b"CM", b"CM2", b"CM3"):
        return _compressed(stream, kind)
    raise ValueError(f"an object of kind {kind[:8]!r}")


def _compressed(stream: BinaryIO, kind: bytes) -> NDArray[np.float32]:
    """Numbers as shares of [low, low + span] in 16 or 8 bits; CM: in 8 bits between quartiles of each column."""
    low, span, rows, columns = struct.unpack("<ffii", stream.read(16))
    _require_shape(rows, columns)
    if kind != b"CM":
        top, dtype = (65535, "<u2") if kind == b"CM2" else (255, "u1")
        shares = _numbers(stream, dtype, rows * columns).reshape(rows, columns) / top
        return np.asarray(low + span * shares, dtype=np.float32)
    quartiles = low + span / 65535 * _numbers(stream, "<u2", 4 * columns).reshape(columns, 4)
    codes = _numbers(stream, "u1", rows * columns).reshape(columns, rows)
    values = [np.interp(code, (0, 64, 192, 255), quartile) for code, quartile in zip(codes, quartiles, strict=True)]
    return np.stack(values, axis=1).astype(np.float32)


def _require_shape(rows: int, columns: int) -> None:
    if rows < 0 or columns < 0:
        raise ValueError(f"a matrix of {rows} x {columns}")


def _numbers(stream: BinaryIO, dtype: Any, count: int) -> NDArray[Any]:
    kind = np.dtype(dtype)
    left = os.fstat(stream.fileno()).st_size - stream.tell()
    if not 0 <= count * kind.itemsize <= left:
        raise ValueError("truncated")
    return np.frombuffer(stream.read(count * kind.itemsize), kind)


def _text(stream: BinaryIO) -> Array:
    """`1 2 3` up to the end of the line, or a matrix in brackets, a row on each line."""
    line = stream.readline().decode()
    if not line.strip().startswith("["):
        return np.array(line.split(), dtype=np.int64)
    lines = [line.strip()[1:]]
    while "]" not in lines[-1]:
        if not (line := stream.readline().decode()):
            raise ValueError("no closing bracket")
        lines.append(line)
    rows = [row.split() for row in " \n".join(lines).partition("]")[0].split("\n") if row.strip()]
    return np.array(rows, dtype=np.float32)
