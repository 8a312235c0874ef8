"""The variance of a complete grid, split among its axes and their interactions, with replicates as blocks.

For y over k axes and n replicates, each value is a sum of effects: P_e y centres y along the axes in e and takes its
mean along all others. These parts are orthogonal, so their sums of squares add up:

    sum (y - mean)^2 = SS_replicates + sum over e of (SS_e + SS_(e x replicates)),   SS_e = sum (P_e y)^2

SS_e holds noise as well: for random replicates its mean is the effect's own part plus df_e times the mean square of
e x replicates. The share of e is what is left when this is taken off, as in an omega squared:

    share_e = (SS_e - df_e MS_(e x replicates)) / sum (y - mean)^2

Its expected numerator is 0 where e has no effect, so the share itself may come out below 0. The test is
F = MS_e / MS_(e x replicates): replicates are the unit, as everywhere here. For an axis of two values it is the paired
t-test. For more values F has its degrees of freedom, df_e and df_e (n - 1), only where all differences between values
scatter alike. Replicates that differ in their luck with large batches break this: five batch sizes without any effect
would then be called significant in one sweep of six. So both degrees of freedom are times

    epsilon = (tr C)^2 / (df_e tr C^2),    1 / df_e <= epsilon <= 1

with C the covariance between replicates of the effect's parts (Box 1954; Greenhouse and Geisser 1959).

Sources: Fisher 1935 (randomized blocks); Keppel and Wickens 2004, chapter 16 (replicates as a random factor), 18
(epsilon); Hutter et al. 2014 (fANOVA: the same split, for the predictions of a forest fitted to an incomplete search).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import special

from analysis.stats.pairs import Floats

ROUNDING = 1e-12  # of the values: a smaller spread is none


@dataclass(frozen=True)
class Share:
    """The effect of some axes, by their places (one: alone; two: their interaction), as a share of the variance.

    `p_value` is None for one replicate, whose share still holds the noise.
    """

    axes: tuple[int, ...]
    share: float
    p_value: float | None


@dataclass(frozen=True)
class VarianceShares:
    """`effects`: of axes and pairs; `higher`: of all interactions of three axes or more; `replicates`; `noise`.

    They sum to 1. `higher` is 0 for fewer than three axes.
    """

    effects: tuple[Share, ...]
    higher: float
    replicates: float
    noise: float


def variance_shares(values: Floats) -> VarianceShares | None:
    """The shares of the axes of `values` (levels of axis 1, ..., levels of axis k, replicates), all known.

    Returns None where all values agree.
    """
    size = float(np.abs(values).max(initial=0.0))
    values = values - values.mean()
    total, dims, n = float((values**2).sum()), values.ndim - 1, values.shape[-1]
    if total <= (ROUNDING * size) ** 2 * values.size:
        return None
    replicates = _squares(values, (dims,))
    rest_of_cells = n * float((values.mean(axis=-1) ** 2).sum())
    rest_of_noise = total - replicates - rest_of_cells
    found = []
    for axes in [part for order in (1, 2) for part in combinations(range(dims), order)]:
        squares, noise = _squares(values, axes), _squares(values, (*axes, dims))
        rest_of_cells, rest_of_noise = rest_of_cells - squares, rest_of_noise - noise
        freedom = math.prod(values.shape[axis] - 1 for axis in axes)
        mean_noise = noise / freedom / (n - 1) if n > 1 else 0.0
        p_value = None
        if n > 1:
            is_exact = noise <= ROUNDING * total
            ratio = (math.inf if squares > ROUNDING * total else 0.0) if is_exact else squares / freedom / mean_noise
            epsilon = 1.0 if is_exact else _epsilon(_parts(values, (*axes, dims)), freedom)
            p_value = float(special.fdtrc(epsilon * freedom, epsilon * freedom * (n - 1), ratio))
        found.append(Share(axes, (squares - freedom * mean_noise) / total, p_value))
    higher = (rest_of_cells - rest_of_noise / max(1, n - 1)) / total if dims > 2 else 0.0
    known = higher + replicates / total + sum(one.share for one in found)
    return VarianceShares(tuple(found), higher, replicates / total, 1 - known)


def _squares(values: Floats, axes: Sequence[int]) -> float:
    """SS of the effect of `axes`."""
    part = _parts(values, axes)
    return float((part**2).sum()) * values.size / part.size


def _parts(values: Floats, axes: Sequence[int]) -> Floats:
    """The effect of `axes` for each of their values; the other axes have length 1."""
    part: Floats = values.mean(axis=tuple(axis for axis in range(values.ndim) if axis not in axes), keepdims=True)
    for axis in axes:
        part = part - part.mean(axis=axis, keepdims=True)
    return part


def _epsilon(parts: Floats, freedom: int) -> float:
    """Greenhouse and Geisser's epsilon of an effect with its parts by replicate, the last axis."""
    by_replicate = parts.reshape(-1, parts.shape[-1])
    products = by_replicate.T @ by_replicate  # has the eigenvalues of C, up to a factor
    return float(np.trace(products) ** 2 / (freedom * (products**2).sum()))
