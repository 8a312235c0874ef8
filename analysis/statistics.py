"""The rank statistics of a sweep: Spearman's correlation, plain, stratified and partial; granulated Kendall.

Two traps shape this file. Trials are not independent: those of one configuration differ by seed and split alone, so a
bootstrap over single trials gives intervals that are too narrow; whole configurations are resampled. Pooled
correlations mislead, as the learning rate and the split move both sides; the stratified rank correlation and the
granulated Kendall coefficient compare only what is alike. Means are in analysis.means, what is counted over pairs in
analysis.kendall.

What cannot be computed (too few points, constant values) is None, never NaN and never a warning.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.means import CONFIDENCE, Interval
from analysis.pairs import Floats, Integers, pairs_within, signs
from analysis.ranks import StratumRanks, correlations

RESAMPLES = 2000
LEAST_POINTS = 3
LEAST_GROUPS = 5  # a percentile bootstrap of fewer groups mostly redraws the same few
LEAST_DEFINED = 0.9  # of the resamples, for an interval to be given
_CHUNK = 100_000  # numbers per array while bootstrapping: they stay in the cache


@dataclass(frozen=True)
class Correlation:
    """A rank correlation in [-1, 1] over `trials` trials in `groups` groups; None where it is undefined.

    `p_value`: of no correlation, from the resamples that the interval comes from; None where there is none.
    """

    value: float | None
    interval: Interval | None
    trials: int
    groups: int
    p_value: float | None = None


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
    return partial_rank_correlation(x, y, (), groups, strata=strata, resamples=resamples, seed=seed)


def partial_rank_correlation(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    given: Sequence[npt.ArrayLike],
    groups: npt.ArrayLike,
    *,
    strata: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Correlation:
    """The rank correlation of x and y given other variables: what is left when their ranks are taken out of both.

        e = a - Z (Z' Z)^+ Z' a,   f = b - Z (Z' Z)^+ Z' b,   rho = sum_i e_i f_i / sqrt(sum_i e_i^2 sum_i f_i^2)

    a and b are the ranks of `rank_correlation`, the columns of Z those of the variables `given` (inside strata too, so
    that no intercept is needed). Without `given` it is `rank_correlation`. A category enters as its 0/1 indicators,
    which ranking leaves as they are.

    Trap: it takes out what is monotone in each given variable and additive over them, no more; with few distinct values
    of x beyond what is given, what is left is noise. x, y, groups, strata, each of given: (n,). Source: Kendall and
    Gibbons 1990, Rank Correlation Methods, chapter 8; Conover 1999, section 5.4 (residuals of ranks).
    """
    return rank_correlations([x], y, given, groups, strata=strata, resamples=resamples, seed=seed)[0]


def rank_correlations(
    xs: Sequence[npt.ArrayLike],
    y: npt.ArrayLike,
    given: Sequence[npt.ArrayLike],
    groups: npt.ArrayLike,
    *,
    strata: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Correlation]:
    """`partial_rank_correlation` of each of `xs`, from the same resamples: for many it is several times as quick."""
    columns = [np.asarray(x, dtype=np.float64) for x in xs]
    others = [np.asarray(column, dtype=np.float64) for column in (y, *given)]
    usable = np.logical_and.reduce([np.isfinite(column) for column in others])
    alike: dict[bytes, list[int]] = {}  # those that are known for the same points share their resamples
    for place, column in enumerate(columns):
        alike.setdefault((usable & np.isfinite(column)).tobytes(), []).append(place)
    found: dict[int, Correlation] = {}
    for mask, places in alike.items():
        known = np.frombuffer(mask, dtype=np.bool_)
        points = int(known.sum())
        group_codes = codes(groups, known)
        strata_codes = np.zeros(points, dtype=np.int64) if strata is None else codes(strata, known)
        order = np.argsort(strata_codes, kind="stable")
        group_codes = group_codes[order]
        number = int(group_codes.max(initial=-1)) + 1
        if points < LEAST_POINTS:
            found |= {place: Correlation(None, None, points, number) for place in places}
            continue
        entering = (*others, *(columns[place] for place in places))
        ranks = StratumRanks([column[known][order] for column in entering], strata_codes[order])

        def statistic(counts: Integers, ranks: StratumRanks = ranks, group_codes: Integers = group_codes) -> Floats:
            return correlations(ranks, len(given), np.take(counts, group_codes, axis=1))

        results = bootstrapped(statistic, points, number, resamples, seed, trials=points)
        found |= dict(zip(places, results, strict=True))
    return [found[place] for place in range(len(columns))]


def bootstrapped(
    statistic: Callable[[Integers], Floats], width: int, groups: int, resamples: int, seed: int, *, trials: int
) -> list[Correlation]:
    """Correlations with their percentile intervals and p-values, from resamples of whole groups.

        p = 2 min(#{rho* <= 0}, #{rho* >= 0}) / B, at least 1 / B and at most 1

    so that p < 0.05 where the interval leaves out 0. `statistic` takes how often each group occurs, (B, groups), and
    gives (k, B) values, with arrays of B x `width` numbers on the way. Both are None for fewer than 5 groups. Source:
    Efron and Tibshirani 1993, sections 13.3 and 15.4.
    """
    values = statistic(np.ones((1, groups), dtype=np.int64))[:, 0]
    if groups < LEAST_GROUPS:
        drawn_values = np.full((len(values), 1), np.nan)
    else:
        drawn = _drawn(groups, resamples, seed)
        chunks = min(max(1, resamples * width // _CHUNK), resamples)
        drawn_values = np.concatenate([statistic(part) for part in np.array_split(drawn, chunks)], axis=1)
    found = []
    for value, resampled in zip(values, drawn_values, strict=True):
        interval = _percentiles(resampled) if np.isfinite(value) else None
        tail = min(int(np.sum(resampled <= 0)), int(np.sum(resampled >= 0)))
        p = None if interval is None else min(1.0, max(2 * tail, 1) / resamples)
        found.append(Correlation(float(value) if np.isfinite(value) else None, interval, trials, groups, p))
    return found


@lru_cache(maxsize=4)
def _drawn(groups: int, resamples: int, seed: int) -> Integers:
    """How often each group occurs in each resample: (resamples, groups)."""
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    drawn.setflags(write=False)
    return drawn


def codes(labels: npt.ArrayLike, known: npt.NDArray[np.bool_]) -> Integers:
    """The labels of the known points as integers from 0."""
    return np.asarray(pd.factorize(np.asarray(labels)[known], sort=True)[0], dtype=np.int64)


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
    x, y = rows[measure].to_numpy(np.float64), rows[target].to_numpy(np.float64)
    coefficients: dict[str, float | None] = {}
    for axis in axes:
        fixed = [name for name in (*axes, *within) if name != axis]
        cells = rows.groupby(fixed, dropna=False).ngroup() if fixed else pd.Series(0, index=rows.index)
        varies = rows[axis].groupby(cells).transform("nunique", dropna=False).to_numpy() > 1
        pairs = pairs_within(cells[varies].to_numpy())
        a, b = signs(x[varies], pairs), signs(y[varies], pairs)
        cell = cells[varies].to_numpy()[pairs[0]]
        agreement, *squares = (np.bincount(cell, product) for product in (a * b, a * a, b * b))
        scale = np.sqrt(squares[0] * squares[1])
        defined = agreement[scale > 0] / scale[scale > 0]
        coefficients[axis] = float(defined.mean()) if defined.size else None
    known = [value for value in coefficients.values() if value is not None]
    return GranulatedKendall(coefficients, float(np.mean(known)) if known else None)


def _percentiles(values: Floats) -> Interval | None:
    defined = values[np.isfinite(values)]
    if defined.size < LEAST_DEFINED * values.size:
        return None
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))
