"""Memory-mapped arrays that travel between processes as the place of their file, and sources as how to read them again.

A pickled array would carry its contents, and Ray would keep a copy of all of them in its object store. A process on the
same machine maps the file instead: the kernel keeps one copy of it for all. On a machine that lacks the file, or has
another one there, the source is read again from its origin, into the cache of that machine.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from trainables.data.source import Source


@dataclass(frozen=True)
class Place:
    """Where the numbers of an array are: in `path` from byte `offset` on, as it was at `stamp` (size, time)."""

    path: str
    offset: int
    shape: tuple[int, ...]
    type: str
    stamp: tuple[int, int]

    @classmethod
    def of(cls, array: NDArray[Any]) -> Place | None:
        """That of an array which is a part of a mapped file, also a view of it; None for any other."""
        base: Any = array
        while not isinstance(base, mmap.mmap) and getattr(base, "base", None) is not None:
            mapped = base
            base = base.base
        if not isinstance(base, mmap.mmap) or not array.flags.c_contiguous or not isinstance(mapped, np.memmap):
            return None
        begin = np.frombuffer(base, np.uint8).ctypes.data
        start = mapped.offset - mapped.offset % mmap.ALLOCATIONGRANULARITY
        path = Path(str(mapped.filename))
        offset = start + array.ctypes.data - begin
        return cls(str(path.absolute()), offset, array.shape, array.dtype.str, stamp_of(path))

    def array(self) -> NDArray[Any] | None:
        """The array, read-only; None where the file is missing or has changed."""
        try:
            if stamp_of(Path(self.path)) != self.stamp:
                return None
            return np.memmap(self.path, np.dtype(self.type), "r", self.offset, self.shape)
        except (OSError, ValueError):
            return None


@dataclass(frozen=True)
class Origin:
    """The arguments of `load_source` that read a source."""

    name: str
    root: str
    options: Mapping[str, Any]
    task: str | None
    cache_dir: Path | None

    def read(self) -> Source:
        """The source, with nothing decoded that is not in the cache. Raises UserError as `load_source` does."""
        from trainables.data import load_source

        place = {"root": self.root, "options": self.options, "cache_dir": self.cache_dir}
        return load_source(self.name, **place, task=self.task, is_whole_needed=False)  # type: ignore[arg-type]


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of change."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
