"""Pairs of points that may be compared, and which way they differ: what Kendall's coefficient and the sign error count.

All pairs of all cells are made at once, as two vectors of indices, so that thousands of trials need no loop.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def pairs_within(cells: npt.ArrayLike) -> tuple[Integers, Integers]:
    """The indices (i, j) of every pair of points in one cell, each pair once; `cells`: (n,) integers from 0."""
    codes = np.asarray(cells, dtype=np.int64)
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    ends = np.repeat(np.cumsum(sizes), sizes)
    after = ends - np.arange(codes.size) - 1  # the points of its cell that come after each
    first = np.repeat(np.arange(codes.size), after)
    second = first + 1 + np.arange(first.size) - np.repeat(np.cumsum(after) - after, after)
    return order[first], order[second]


def signs(values: Floats, pairs: tuple[Integers, Integers]) -> npt.NDArray[Any]:
    """sign(v_i - v_j) of each pair: -1, 0 or 1."""
    return np.sign(values[pairs[0]] - values[pairs[1]])
