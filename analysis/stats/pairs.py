"""Ranks of points inside cells, and pairs of points inside cells: what the rank statistics are made of.

All cells are done at once, as vectors of indices, so that thousands of trials need no loop.
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


def ranks_within(values: Floats, cells: Integers) -> Floats:
    """(R_i - (N + 1) / 2) / N of each point, with R_i its mid-rank among the N points of its cell: (n,)."""
    order = np.lexsort((values, cells))
    ordered, cell = values[order], cells[order]
    new_cell = np.r_[True, cell[1:] != cell[:-1]][: values.size]
    first, size = _runs(new_cell)
    tied_first, tied = _runs(new_cell | np.r_[True, ordered[1:] != ordered[:-1]][: values.size])
    ranks = np.empty(values.size)
    ranks[order] = (tied_first - first + (tied - size) / 2) / size
    return ranks


def _runs(starts: npt.NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """Of each point the place where its run starts and the points of that run; starts: whether a run starts there."""
    place, run = np.flatnonzero(starts), np.cumsum(starts) - 1
    return place[run], np.diff(np.r_[place, starts.size])[run]
