"""Ranks inside strata for many weightings of the same points at once: what makes a bootstrap of rank statistics quick.

A resample of whole groups is a vector of counts, so that 2000 resamples are 2000 columns of weights. Ranks are taken
anew under each by sums over the sorted points, without sorting again. Points are rows, so that what belongs to one
point lies together whatever order the points are taken in: for ten thousand points that is several times as quick.
"""

from collections.abc import Iterator, Sequence
from math import isqrt

import numpy as np
import numpy.typing as npt

from analysis.pairs import Floats, Integers

SMALLEST_SQUARE = 1e-12  # below it a side is constant


class StratumRanks:
    """Centred, scaled mid-ranks inside strata of several columns, for many weightings of the same points."""

    def __init__(self, columns: Sequence[Floats], strata: Integers) -> None:
        """columns: (n,) each; strata: (n,) integers in rising order."""
        self._stratum, first, last = _runs(strata[1:] != strata[:-1])
        self._edges = first, last
        self._columns = []
        for values in columns:
            order = np.lexsort((values, strata))
            ordered = values[order]
            run, low, high = _runs((ordered[1:] != ordered[:-1]) | (strata[1:] != strata[:-1]))
            place = np.empty_like(run)
            place[order] = run
            self._columns.append((order, low[place], high[place]))

    def __call__(self, weights: Floats) -> Iterator[Floats]:
        """(R_i - (N_s + 1) / 2) / N_s of each column, where point i occurs weights[i, b] times; all are (n, B)."""
        first, last = (running_sums(weights)[edge] for edge in self._edges)
        middle = np.take(first + last, self._stratum, axis=0)
        scale = np.take(0.5 / np.maximum(last - first, 1), self._stratum, axis=0)
        for order, low, high in self._columns:
            sums = running_sums(weights, order)
            ranks: Floats = np.take(sums, low, axis=0)  # twice a mid-rank: what lies below its run of equal values,
            ranks += np.take(sums, high, axis=0)  # and what lies up to the end of the run
            ranks -= middle
            ranks *= scale
            yield ranks


def running_sums(rows: Floats, order: Integers | None = None) -> Floats:
    """The sums of the first 0, 1, ..., n rows, taken in `order`: (n + 1, B) at least, of which more is not to be read.

    In blocks of about sqrt(n) rows, first inside all blocks at once, then from block to block: whole blocks are
    added at a time, where `numpy.cumsum` along the first axis goes from number to number.
    """
    number = len(rows) + 1
    length = isqrt(number - 1) + 1
    blocks = np.empty((-(-number // length), length, rows.shape[1]))
    sums = blocks.reshape(-1, rows.shape[1])
    sums[0] = sums[number:] = 0.0
    sums[1:number] = rows if order is None else np.take(rows, order, axis=0)
    for place in range(1, length):
        blocks[:, place] += blocks[:, place - 1]
    for block in range(1, len(blocks)):
        blocks[block] += blocks[block - 1, -1]
    return sums


def correlations(ranks: StratumRanks, given: int, weights: Floats) -> Floats:
    """The correlation of the ranks of each x with those of y, less what `given` other columns explain of both.

    The columns of `ranks` are y, the given ones and each x; weights: (n, B). Returns (k, B), NaN where nothing is left.
    With M the matrix of weighted products, M_xy.z = M_xy - M_xz M_zz^+ M_zy is what least squares on the ranks of z
    leaves; the pseudo-inverse lets the given ones depend on each other. What y and z need is done once for all x.
    """
    columns = ranks(weights)
    known = [next(columns) for _ in range(1 + given)]
    weighted = [column * weights for column in known]
    products = np.empty((weights.shape[1], 1 + given, 1 + given))
    for i, column in enumerate(weighted):
        for j in range(i + 1):
            products[:, i, j] = products[:, j, i] = _dot(column, known[j])
    inverse = np.linalg.pinv(products[:, 1:, 1:], hermitian=True) if given else products[:, 1:, 1:]

    def left(whole: Floats, first: Floats, second: Floats) -> Floats:
        found: Floats = whole - np.einsum("bi,bij,bj->b", first, inverse, second)
        return found

    across_y = products[:, 0, 1:]
    square_y = left(products[:, 0, 0], across_y, across_y)
    results = []
    for column in columns:
        across = np.stack([_dot(other, column) for other in weighted], axis=1)
        whole = _dot(weights * column, column)
        square = left(whole, across[:, 1:], across[:, 1:])
        varies = (square > SMALLEST_SQUARE * np.maximum(1, whole)) & (
            square_y > SMALLEST_SQUARE * np.maximum(1, products[:, 0, 0])
        )
        agreement = left(across[:, 0], across[:, 1:], across_y)
        result = np.full(len(whole), np.nan)
        np.divide(agreement, np.sqrt(np.abs(square * square_y)), out=result, where=varies)
        results.append(result)
    clipped: Floats = np.clip(results, -1.0, 1.0)
    return clipped


def _runs(starts_anew: npt.NDArray[np.bool_]) -> tuple[Integers, Integers, Integers]:
    """The run that each point is in, and where each run starts and ends; starts_anew: of all points but the first."""
    new = np.r_[True, starts_anew]
    starts = np.flatnonzero(new)
    return np.cumsum(new) - 1, starts, np.r_[starts[1:], new.size]


def _dot(first: Floats, second: Floats) -> Floats:
    found: Floats = np.einsum("nb,nb->b", first, second)
    return found
