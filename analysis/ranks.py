"""Ranks inside strata for many weightings of the same points at once: what makes a bootstrap of rank statistics quick.

A resample of whole groups is a vector of counts, so that 2000 resamples are 2000 rows of weights. Ranks are taken anew
under each row by running sums over the sorted points, without sorting again. Counts are integers, so these sums are
exact, and ten times as quick as those of floats, whose additions wait for each other.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from analysis.pairs import Floats, Integers

SMALLEST_SQUARE = 1e-12  # below it a side is constant


class StratumRanks:
    """Centred, scaled mid-ranks inside strata of several columns, for many weightings of the same points."""

    def __init__(self, columns: Sequence[Floats], strata: Integers) -> None:
        """columns: (n,) each; strata: (n,) integers in rising order."""
        new_stratum = strata[1:] != strata[:-1]
        self._stratum, self._edges = _runs(new_stratum)
        self._columns = []
        for values in columns:
            order = np.lexsort((values, strata))
            ordered = values[order]
            run, edges = _runs((ordered[1:] != ordered[:-1]) | new_stratum)
            place = np.empty_like(run)
            place[order] = run
            self._columns.append((order, edges, place))

    def __call__(self, weights: Integers) -> Iterator[Floats]:
        """(R_i - (N_s + 1) / 2) / N_s of each column, where point i occurs weights[b, i] times; all are (B, n)."""
        ends = np.take(_running_sums(weights), self._edges, axis=1)
        middle = np.take(ends[:, 1:] + ends[:, :-1], self._stratum, axis=1)
        scale = np.take(0.5 / np.maximum(np.diff(ends), 1), self._stratum, axis=1)
        for order, edges, place in self._columns:
            sums = _running_sums(np.take(weights, order, axis=1))
            ends = np.take(sums, edges, axis=1) if len(edges) < sums.shape[1] else sums  # of the runs of equal values
            ranks = np.take(ends[:, 1:] + ends[:, :-1], place, axis=1)  # twice the mid-rank
            ranks -= middle
            yield ranks * scale


def correlations(ranks: StratumRanks, given: int, weights: Integers) -> Floats:
    """The correlation of the ranks of each x with those of y, less what `given` other columns explain of both.

    The columns of `ranks` are y, the given ones and each x; weights: (B, n). Returns (k, B), NaN where nothing is left.
    With M the matrix of weighted products, M_xy.z = M_xy - M_xz M_zz^+ M_zy is what least squares on the ranks of z
    leaves; the pseudo-inverse lets the given ones depend on each other. What y and z need is done once for all x.
    """
    columns = ranks(weights)
    known = np.stack([next(columns) for _ in range(1 + given)], axis=1)
    weighted = known * weights[:, None, :]
    products = np.einsum("bin,bjn->bij", weighted, known)  # not BLAS, whose threads here wait more than they work
    inverse = np.linalg.pinv(products[:, 1:, 1:], hermitian=True) if given else products[:, 1:, 1:]

    def left(whole: Floats, first: Floats, second: Floats) -> Floats:
        found: Floats = whole - np.einsum("bi,bij,bj->b", first, inverse, second)
        return found

    across_y = products[:, 0, 1:]
    square_y = left(products[:, 0, 0], across_y, across_y)
    results = []
    for column in columns:
        across = np.einsum("bin,bn->bi", weighted, column)
        whole = np.einsum("bn,bn->b", weights * column, column)
        square = left(whole, across[:, 1:], across[:, 1:])
        varies = (square > SMALLEST_SQUARE * np.maximum(1, whole)) & (
            square_y > SMALLEST_SQUARE * np.maximum(1, products[:, 0, 0])
        )
        agreement = left(across[:, 0], across[:, 1:], across_y)
        result = np.full(len(weights), np.nan)
        np.divide(agreement, np.sqrt(np.abs(square * square_y)), out=result, where=varies)
        results.append(result)
    clipped: Floats = np.clip(results, -1.0, 1.0)
    return clipped


def _running_sums(rows: Integers) -> Integers:
    """The sum of the first 0, 1, ..., n numbers of each row: (B, n + 1)."""
    sums = np.zeros((len(rows), rows.shape[1] + 1), dtype=np.int64)
    np.cumsum(rows, axis=1, out=sums[:, 1:])
    return sums


def _runs(starts_anew: npt.NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """The run that each point is in, and where the runs start and the last ends; starts_anew: of all but the first."""
    new = np.r_[True, starts_anew]
    return np.cumsum(new) - 1, np.r_[np.flatnonzero(new), new.size]
