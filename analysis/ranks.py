"""Ranks inside strata for many weightings of the same points at once: what makes a bootstrap of rank statistics quick.

A resample of whole groups is a vector of counts, so that 2000 resamples are 2000 rows of weights. Ranks are taken anew
under each row by sums over runs of equal values, without sorting again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.pairs import Floats, Integers

SMALLEST_SQUARE = 1e-12  # below it a side is constant


class StratumRanks:
    """Centred, scaled mid-ranks inside strata, for many weightings of the same points."""

    def __init__(self, values: Floats, strata: Integers) -> None:
        self._order = np.lexsort((values, strata))
        ordered, stratum = values[self._order], strata[self._order]
        new_stratum = np.r_[True, stratum[1:] != stratum[:-1]]
        new_value = new_stratum | np.r_[True, ordered[1:] != ordered[:-1]]
        self._ties = np.flatnonzero(new_value)  # where each run of equal values starts
        self._strata = np.flatnonzero(new_stratum[self._ties])  # the runs that start a stratum
        self._stratum_of_tie = np.cumsum(new_stratum[self._ties]) - 1
        self._tie_of_point = np.empty(values.size, dtype=np.int64)
        self._tie_of_point[self._order] = np.cumsum(new_value) - 1

    def __call__(self, weights: Floats) -> Floats:
        """(R_i - (N_s + 1) / 2) / N_s where point i occurs weights[b, i] times; both are (B, n)."""
        tied = np.add.reduceat(weights[:, self._order], self._ties, axis=1)
        below = np.cumsum(tied, axis=1) - tied
        below -= below[:, self._strata][:, self._stratum_of_tie]
        size = np.add.reduceat(tied, self._strata, axis=1)[:, self._stratum_of_tie]
        ranks: Floats = (below + tied / 2) / np.maximum(size, 1) - 0.5
        return ranks[:, self._tie_of_point]


def correlations(
    xs: Sequence[StratumRanks], y: StratumRanks, given: Sequence[StratumRanks], weights: npt.NDArray[Any]
) -> Floats:
    """The correlation of the ranks of each x with those of y, less what `given` explains of both, under each row of
    weights (B, n): (k, B), NaN where nothing is left.

    With M the matrix of weighted products, M_xy.z = M_xy - M_xz M_zz^+ M_zy is what least squares on the ranks of z
    leaves; the pseudo-inverse lets the given ones depend on each other. What y and z need is done once for all x.
    """
    weights = weights.astype(np.float64)
    known = np.stack([each(weights) for each in (y, *given)], axis=1)
    weighted = known * weights[:, None, :]
    products = weighted @ known.transpose(0, 2, 1)
    inverse = np.linalg.pinv(products[:, 1:, 1:], hermitian=True) if given else products[:, 1:, 1:]

    def left(whole: Floats, first: Floats, second: Floats) -> Floats:
        found: Floats = whole - np.einsum("bi,bij,bj->b", first, inverse, second)
        return found

    across_y = products[:, 0, 1:]
    square_y = left(products[:, 0, 0], across_y, across_y)
    results = np.full((len(xs), len(weights)), np.nan)
    for x, result in zip(xs, results, strict=True):
        ranks = x(weights)
        across = (weighted @ ranks[:, :, None])[:, :, 0]
        whole = np.einsum("bn,bn,bn->b", weights, ranks, ranks)
        square = left(whole, across[:, 1:], across[:, 1:])
        varies = (square > SMALLEST_SQUARE * np.maximum(1, whole)) & (
            square_y > SMALLEST_SQUARE * np.maximum(1, products[:, 0, 0])
        )
        agreement = left(across[:, 0], across[:, 1:], across_y)
        np.divide(agreement, np.sqrt(np.abs(square * square_y)), out=result, where=varies)
    clipped: Floats = np.clip(results, -1.0, 1.0)
    return clipped
