"""The statistics of a sweep: rank correlations, means over replicates, paired differences, granulated Kendall.

Three traps shape this file. Trials are not independent: those of one configuration differ by seed and split
alone, so a bootstrap over single trials gives intervals that are too narrow; whole configurations are
resampled. Trials that share a replicate share its split and its luck, so the n of a mean is the number of
replicates, and differences are taken inside a replicate. Pooled correlations mislead, as the learning rate
and the split move both sides; the stratified rank correlation and the granulated Kendall coefficient compare
only what is alike.

What cannot be computed (too few points, constant values) is None, never NaN and never a warning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000
LEAST_POINTS = 3
LEAST_GROUPS = 5  # a percentile bootstrap of fewer groups mostly redraws the same few
LEAST_DEFINED = 0.9  # of the resamples, for an interval to be given
_CHUNK = 100_000  # numbers per array while bootstrapping: they stay in the cache

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, in the units of the value it belongs to."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside, ends included."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Mean:
    """A mean over replicates (of `trials` trials in all); the interval is None for a single replicate."""

    value: float
    interval: Interval | None
    replicates: int
    trials: int


@dataclass(frozen=True)
class Correlation:
    """A rank correlation in [-1, 1] over `trials` trials in `groups` groups; None where it is undefined."""

    value: float | None
    interval: Interval | None
    trials: int
    groups: int


@dataclass(frozen=True)
class GranulatedKendall:
    """The coefficient of each axis in [-1, 1] (None where undefined), and the mean of those defined."""

    coefficients: dict[str, float | None]
    mean: float | None


def rank_correlation(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    strata: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Correlation:
    """Spearman's rank correlation, plain or stratified, with a cluster bootstrap interval.

        rho = sum_i a_i b_i / sqrt(sum_i a_i^2 sum_i b_i^2),   a_i = (R_i - (N_s + 1) / 2) / N_s

    R_i is the mid-rank of x_i among the N_s points of its stratum s, b_i the same of y. With one stratum this
    is Spearman's rho; with several, it compares points inside a stratum only, each stratum weighted by its
    points, and differences between strata (an easier split, another learning rate) do not enter. Unlike
    centring the values it does not depend on the scale, so it needs no logarithm and a sharpness of 0 is
    welcome.

    Interval: percentile bootstrap, drawing whole `groups` with replacement (trials of one configuration stay
    together); ranks are taken anew in each of `resamples` resamples. None for fewer than 5 groups. It is
    exact for no finite sample and too narrow for few groups. Points where x or y is not finite are left out.

    x, y, groups, strata: (n,). Sources: Spearman 1904; Davison and Hinkley 1997, sections 2.4 and 3.8
    (clusters); Liu et al. 2018, Biometrics 74:595 (rank correlation conditional on a category).
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[known], ys[known]
    group_codes = pd.factorize(np.asarray(groups)[known], sort=True)[0].astype(np.int64)
    strata_codes = np.zeros(xs.size, dtype=np.int64)
    if strata is not None:
        strata_codes = pd.factorize(np.asarray(strata)[known], sort=True)[0].astype(np.int64)
    number = int(group_codes.max(initial=-1)) + 1
    undefined = Correlation(None, None, xs.size, number)
    if xs.size < LEAST_POINTS:
        return undefined
    ranks = _StratumRanks(xs, strata_codes), _StratumRanks(ys, strata_codes)
    value = _correlations(*ranks, np.ones((1, xs.size)))[0]
    if not np.isfinite(value):
        return undefined
    interval = None
    if number >= LEAST_GROUPS:
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(number, np.full(number, 1 / number), size=resamples)
        chunks = max(1, resamples * xs.size // _CHUNK)
        parts = [_correlations(*ranks, part[:, group_codes]) for part in np.array_split(drawn, chunks)]
        interval = _percentiles(np.concatenate(parts))
    return Correlation(float(value), interval, xs.size, number)


def mean_over_replicates(frame: pd.DataFrame, value: str, *, scale: Literal["linear", "log"] = "linear") -> Mean | None:
    """The mean of a column with a 95 % t-interval over replicates.

        m_r = mean of the cells of replicate r;   mean = sum_r m_r / n;   mean +- t(0.975, n - 1) s / sqrt(n)

    n is the number of replicates (column `replicate`), not of trials: the cells inside a replicate (learning
    rates, warmups) share its split and its luck, so they are averaged first. `log` does the same to
    logarithms and goes back: a geometric mean and an interval above 0, for sharpness that spans decades;
    values that are not above 0 have no logarithm and are left out. The interval is None for one replicate or
    where all agree exactly. The t-interval takes replicates as independent: where several seeds share a split
    it is too narrow for new splits.

    Returns None where no value is known. Source: Student 1908.
    """
    rows = _known(frame[["replicate", value]], value, scale)
    return _mean(rows.groupby("replicate")[value].mean(), len(rows), scale)


def paired_difference(first: pd.DataFrame, second: pd.DataFrame, value: str) -> Mean | None:
    """The mean of first minus second, paired inside replicates, with a 95 % t-interval.

        d_r = mean over the matched sets of replicate r of (first - second);   then as mean_over_replicates

    A matched set (column `matched_set`) holds the trials that differ in batch size and switch alone: same
    learning rate, warmup, seed and split. Sets that one side lacks (a trial that diverged) are left out on
    both sides, so a missing trial cannot pose as a difference. Units: those of `value`. Returns None where
    nothing is matched.
    """
    keys = ["replicate", "matched_set"]
    sides = [_known(side[[*keys, value]], value, "linear").groupby(keys)[value] for side in (first, second)]
    difference = (sides[0].mean() - sides[1].mean()).dropna()
    return _mean(difference.groupby("replicate").mean(), len(difference), "linear")


def granulated_kendall(
    frame: pd.DataFrame, measure: str, target: str, axes: Sequence[str], *, within: Sequence[str] = ()
) -> GranulatedKendall:
    """The granulated Kendall coefficient: does `measure` order `target` along one axis with the rest fixed?

        psi_i = 1/m_i sum over settings of all other axes of tau({(mu(theta), g(theta)) : theta_i varies})
        Psi   = 1/n sum_i psi_i

    tau is Kendall's coefficient, in the tau-b form, which equals the source's where nothing is tied. Settings
    where it is undefined (fewer than two trials, or all values of one side equal) are skipped, so the grid
    may have holes; an axis without any defined setting is None and does not enter the mean. Null is a value
    of an axis (no switch). Columns `within` are held fixed too but are no axes (seed, split_seed), so that
    every coefficient compares trials of one replicate. Trials alike in all of these enter as they are.

    Source: Jiang et al. 2020, arXiv 1912.02178, section 2.2.2 (equations for psi_i and Psi).
    """
    rows = frame[np.isfinite(frame[measure].astype("float64")) & np.isfinite(frame[target].astype("float64"))]
    coefficients: dict[str, float | None] = {}
    for axis in axes:
        fixed = [name for name in (*axes, *within) if name != axis]
        cells = rows.groupby(fixed, dropna=False) if fixed else [((), rows)]
        found = [_kendall(cell[measure], cell[target]) for _, cell in cells if cell[axis].nunique(dropna=False) > 1]
        defined = [value for value in found if value is not None]
        coefficients[axis] = float(np.mean(defined)) if defined else None
    known = [value for value in coefficients.values() if value is not None]
    return GranulatedKendall(coefficients, float(np.mean(known)) if known else None)


class _StratumRanks:
    """Centred, scaled mid-ranks inside strata, for many weightings of the same points at once."""

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
        """a_i of `rank_correlation` where point i occurs weights[b, i] times; both are (B, n)."""
        tied = np.add.reduceat(weights[:, self._order], self._ties, axis=1)
        below = np.cumsum(tied, axis=1) - tied
        below -= below[:, self._strata][:, self._stratum_of_tie]
        size = np.add.reduceat(tied, self._strata, axis=1)[:, self._stratum_of_tie]
        ranks: Floats = (below + tied / 2) / np.maximum(size, 1) - 0.5
        return ranks[:, self._tie_of_point]


def _correlations(x_ranks: _StratumRanks, y_ranks: _StratumRanks, weights: npt.NDArray[Any]) -> Floats:
    """The correlation under each row of weights (B, n); NaN where a side is constant."""
    weights = weights.astype(np.float64)
    a, b = x_ranks(weights), y_ranks(weights)
    weighted = weights * a
    covariance = np.einsum("bn,bn->b", weighted, b)
    scale = np.sqrt(np.einsum("bn,bn->b", weighted, a) * np.einsum("bn,bn,bn->b", weights, b, b))
    result = np.full(len(weights), np.nan)
    np.divide(covariance, scale, out=result, where=scale > 1e-12)
    clipped: Floats = np.clip(result, -1.0, 1.0)
    return clipped


def _percentiles(values: Floats) -> Interval | None:
    defined = values[np.isfinite(values)]
    if defined.size < LEAST_DEFINED * values.size:
        return None
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def _known(rows: pd.DataFrame, value: str, scale: str) -> pd.DataFrame:
    rows = rows.assign(**{value: rows[value].astype("float64")})
    rows = rows[np.isfinite(rows[value])]
    if scale == "log":
        rows = rows[rows[value] > 0]
        rows = rows.assign(**{value: np.log(rows[value])})
    return rows


def _mean(by_replicate: Any, trials: int, scale: str) -> Mean | None:
    n = len(by_replicate)
    if n == 0:
        return None
    centre, interval = float(by_replicate.mean()), None
    back = np.exp if scale == "log" else float
    spread = float(by_replicate.std(ddof=1)) if n > 1 else 0.0
    if spread > 1e-12 * max(1.0, abs(centre)):
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * spread / n**0.5
        interval = Interval(float(back(centre - half)), float(back(centre + half)))
    return Mean(float(back(centre)), interval, n, trials)


def _kendall(measure: Any, target: Any) -> float | None:
    if measure.nunique() < 2 or target.nunique() < 2:
        return None
    return float(stats.kendalltau(measure, target).statistic)
