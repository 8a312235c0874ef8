"""Encoded images decoded into files of the cache: each once, when a split asks for it, and mapped by all processes.

An entry holds, for each part (training, test), a file of all its images as one array (N, C, H, W), sparse until they
are decoded, and a file with a check sum of each image that is there. Nothing is decoded to find out what the set is: a
first pass reads every file once, for its digest and for what its header says of size and channels; only images whose
header does not tell (transparency, 16 bits, floats) are decoded for it.

A broken entry is rebuilt: its files must have their sizes, and the check sums of CHECKED bytes of images, spread over
those that are asked for, must agree.
"""

import hashlib
import os
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import Entry, told
from trainables.data.images import (
    Decode,
    Encoded,
    Header,
    Pixels,
    channels_of,
    decoder,
    header,
    numbers,
    size_of,
    together,
)
from trainables.data.mapped import Origin
from trainables.data.rows import Scaling
from trainables.data.source import Source
from trainables.runtime.errors import UserError

PARTS = ("train", "test")
CHECKED = 2**26  # bytes of images whose check sums are compared
NOTED_EVERY = 10.0  # seconds, after which decoded images are noted as done
SAID_ABOVE = 5.0  # seconds of decoding

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class EncodedImages(Protocol):
    """The encoded images of a part, in their order."""

    def __len__(self) -> int: ...

    def images(self, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[str, Encoded]]:
        """The name and the encoded image of these rows, which ascend; of all by None."""
        ...


Read = Callable[[], tuple[Sequence[EncodedImages], Sequence[NDArray[np.int64]], int]]  # parts, labels, classes

Parts = Callable[[], Sequence[EncodedImages]]


def image_source(
    name: str,
    root: Path,
    files: Iterable[Path],
    read: Read,
    options: Mapping[str, object],
    *,
    size: object,
    mean: object,
    std: object,
) -> Source:
    """The source of images that `read` finds in `files`; `options` and `size` decide what is kept.

    Raises UserError for an image that cannot be used, and images of several sizes without `size`.
    """
    shape = size_of(size)
    entry = Entry.of(name, root, files, {**options, "size": shape})
    facts = entry.facts()
    labels: Sequence[NDArray[np.int64]] | None = None
    if facts is not None:
        try:
            labels = [np.array(entry.array(f"{part}_labels")) for part in PARTS]
        except (OSError, ValueError, EOFError):
            facts = None
    parts: Sequence[EncodedImages] | None = None
    if facts is None or labels is None:
        parts, labels, classes = read()
        found = {**_looked_at(parts, shape), "classes": classes, "counts": [len(part) for part in parts]}
        with entry.locked():
            entry.keep(found, {f"{part}_labels": array for part, array in zip(PARTS, labels, strict=True)})
        facts = entry.facts() or found
    decoded = Decoded(entry, facts, shape, lambda: parts or read()[0])
    channels = facts["shape"][0]
    scaling = Scaling(
        255 if facts["type"] == "uint8" else 1,
        None if mean is None else numbers("mean", mean, channels),
        None if std is None else numbers("std", std, channels),
    )
    train, test = decoded.arrays()
    return Source(name, train, labels[0], test, labels[1], facts["classes"], scaling=scaling, decoded=decoded)


class Decoded:
    """The decoded images of a dataset, mapped from an entry of the cache."""

    def __init__(self, entry: Entry, facts: dict[str, Any], shape: tuple[int, int] | None, parts: Parts) -> None:
        self.entry, self.facts = entry, facts
        self._shape = shape
        self._parts: Parts | None = parts
        self._row: tuple[int, ...] = tuple(facts["shape"])
        self._type = np.dtype(facts["type"])
        self._row_bytes = int(np.prod(self._row)) * self._type.itemsize
        self._is_checked = False
        self.origin: Origin | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the list of images: who lacks some makes it again, from `origin`."""
        return {**vars(self), "_parts": None, "_is_checked": False}

    @property
    def digest(self) -> str:
        """A digest of all encoded images and of what they are decoded to."""
        found = [self.facts["digests"], list(self._row), self.facts["type"], self._shape]
        return hashlib.sha256(repr(found).encode()).hexdigest()

    @property
    def is_here(self) -> bool:
        """Whether the files are on this machine."""
        return all(self._has_size(part) for part in range(len(PARTS)))

    def arrays(self) -> list[NDArray[Any]]:
        """The files of all parts as read-only arrays, (N, C, H, W); zeros where an image is not decoded yet."""
        if not self.is_here:
            with self.entry.locked():
                for part in range(len(PARTS)):
                    if not self._has_size(part):
                        self._make(part)
        return [
            np.memmap(self._file(part), self._type, "r", shape=(count, *self._row))
            for part, count in enumerate(self.facts["counts"])
        ]

    def mapped(self) -> list[NDArray[Any]] | None:
        """`arrays`, where the entry is on this machine with the same facts; else None."""
        found = self.entry.facts() or {}
        is_same = all(found.get(name) == self.facts[name] for name in ("digests", "shape", "type", "counts"))
        return self.arrays() if is_same and self.is_here else None

    def fingerprint(self, scaling: str, find: Callable[[], str]) -> str:
        """What `find` finds of all images, kept in the entry."""

        def found() -> str:
            self.ensure([None] * len(PARTS))
            return find()

        return self.entry.fingerprint(scaling, found)

    def ensure(self, wanted: Sequence[NDArray[np.int64] | None]) -> None:
        """Decodes those of the `wanted` images of each part that are not there; None: all of the part.

        Raises UserError for an image that cannot be read, and where the cache is full.
        """
        rows = [
            np.arange(count) if chosen is None else np.unique(chosen)
            for chosen, count in zip(wanted, self.facts["counts"], strict=True)
        ]
        if all(self._are_there(part, chosen) for part, chosen in enumerate(rows)):
            self._is_checked = True
            return
        with self.entry.locked():
            missing = [self._missing(part, chosen) for part, chosen in enumerate(rows)]
            count = sum(map(len, missing))
            with told(self.entry.path, count * self._row_bytes):
                pass
            self._tell(count)
            started = time.monotonic()
            for part, (images, left) in enumerate(zip(self._images() if count else (), missing, strict=False)):
                self._decode(part, images, left)
            if time.monotonic() - started > SAID_ABOVE:
                print(f"Decoded in {time.monotonic() - started:.0f} s", file=sys.stderr)
            self._is_checked = True

    def _images(self) -> Sequence[EncodedImages]:
        if self._parts is None:
            assert self.origin is not None
            other = self.origin.read().decoded
            if other is None or other.digest != self.digest:
                raise UserError(
                    f"`data-dir` must hold the images that the sweep began with, got others in {self.origin.root}"
                )
            self._parts = other._parts
        assert self._parts is not None
        return self._parts()

    def _tell(self, count: int) -> None:
        size, whole = (number * self._row_bytes for number in (count, sum(self.facts["counts"])))
        if count:
            print(
                f"Decoding {count} images ({_size(size)} of {_size(whole)}) into {self.entry.path}",
                file=sys.stderr,
                flush=True,
            )

    def _decode(self, part: int, images: EncodedImages, rows: NDArray[np.int64]) -> None:
        if not len(rows):
            return
        sums = np.fromfile(self._sums(part), np.uint32)
        descriptor = os.open(self._file(part), os.O_WRONLY)
        try:
            with decoder(self._shape) as decode:
                named = partial(_with_name, decode)
                noted_at = time.monotonic()
                for row, (name, pixels) in zip(rows, in_order(named, images.images(rows)), strict=True):
                    if pixels.shape[:2] != self._row[1:]:
                        raise UserError(
                            f"`data-dir` must hold images of the size in their headers, got others in {name}"
                        )
                    content = together(pixels, self._row[0], self._type).tobytes()
                    with told(self.entry.path):
                        _write(descriptor, content, int(row) * self._row_bytes)
                    sums[row] = _check_sum(content)
                    if time.monotonic() - noted_at > NOTED_EVERY:
                        self._note(part, descriptor, sums)
                        noted_at = time.monotonic()
                self._note(part, descriptor, sums)
        finally:
            os.close(descriptor)

    def _note(self, part: int, descriptor: int, sums: NDArray[np.uint32]) -> None:
        """Notes what is written, after it has come to the disk."""
        with told(self.entry.path):
            os.fdatasync(descriptor)
            temporary = self._sums(part).with_suffix(f".{os.getpid()}.tmp")
            temporary.write_bytes(sums.tobytes())
            temporary.replace(self._sums(part))

    def _are_there(self, part: int, rows: NDArray[np.int64]) -> bool:
        return self._has_size(part) and not len(self._missing(part, rows))

    def _missing(self, part: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if not self._has_size(part):
            self._make(part)
        if not len(rows):
            return rows
        sums = np.fromfile(self._sums(part), np.uint32)
        missing: NDArray[np.int64] = rows[sums[rows] == 0]
        if self._is_checked:
            return missing
        there = rows[sums[rows] != 0]
        step = max(1, -(-len(there) * self._row_bytes // CHECKED))
        array = np.memmap(self._file(part), np.uint8, "r", shape=(self.facts["counts"][part], self._row_bytes))
        if any(_check_sum(array[row].tobytes()) != sums[row] for row in there[::step]):
            return rows
        return missing

    def _has_size(self, part: int) -> bool:
        count = self.facts["counts"][part]
        try:
            sizes = [file.stat().st_size for file in (self._file(part), self._sums(part))]
        except OSError:
            return False
        return sizes == [count * self._row_bytes, 4 * count]

    def _make(self, part: int) -> None:
        count = self.facts["counts"][part]
        with told(self.entry.path):
            self._sums(part).unlink(missing_ok=True)
            with self._file(part).open("wb") as file:
                file.truncate(count * self._row_bytes)
            self._sums(part).write_bytes(bytes(4 * count))

    def _file(self, part: int) -> Path:
        return self.entry.path / f"{PARTS[part]}.images"

    def _sums(self, part: int) -> Path:
        return self.entry.path / f"{PARTS[part]}.sums"


def in_order(action: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """The results of `action`, on several threads, in the order of `items`, of which few are held at a time."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(action, item))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _looked_at(parts: Sequence[EncodedImages], shape: tuple[int, int] | None) -> dict[str, Any]:
    """The facts of a set, from the headers of its images."""
    digests, colours, alpha, is_deep = [], 1, False, False
    first: tuple[str, Header] | None = None
    with decoder(shape) as decode:
        for part in parts:
            digest, count = hashlib.sha256(), 0
            look = in_order(lambda one: (one[0], header(*one, shape, decode)), part.images())
            for name, found in look:
                digest.update(found.digest)
                first = first or (name, found)
                if found.size != first[1].size:
                    raise UserError(_of_several_sizes(first[0], first[1].size, name, found.size))
                colours, alpha = max(colours, 3 if found.channels > 2 else 1), alpha or found.channels in (2, 4)
                is_deep |= found.is_deep
                count += 1
            if not count:
                raise UserError("`data-dir` must hold images, got none")
            digests.append(digest.hexdigest())
    assert first is not None
    row = [channels_of(colours, alpha), *first[1].size]
    return {"shape": row, "type": "float32" if is_deep else "uint8", "digests": digests}


def _of_several_sizes(first: str, one: tuple[int, ...], second: str, other: tuple[int, ...]) -> str:
    shown = [f"{height} x {width}" for height, width in (one, other)]
    return (
        f"`data-dir` must hold images of one size, got {shown[0]} (height x width) in {first} and {shown[1]} in "
        f"{second}; --dataset-options size={min(*one, *other)} scales and crops all of them to a square"
    )


def _write(descriptor: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _check_sum(content: bytes) -> int:
    return zlib.crc32(content) or 1  # 0: not decoded yet


def _size(count: int) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"


def _with_name(decode: Decode, image: tuple[str, Encoded]) -> tuple[str, Pixels]:
    return image[0], decode(image)
