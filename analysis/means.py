"""Means over replicates, differences paired inside them, and their ratios, with t-intervals.

The n of a mean is the number of replicates, not of trials: trials that share a replicate (a seed with its data split)
share its split and its luck. Differences are taken inside a replicate, so that this luck cancels.

What cannot be computed (too few replicates, no value known) is None, never NaN and never a warning.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import special  # scipy.stats would cost half a second at each start

CONFIDENCE = 0.95


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
    """A mean over replicates (of `trials` trials in all); the interval is None for a single replicate.

    `p_value` and `upper_bound` are of means that were not taken of logarithms.
    """

    value: float
    interval: Interval | None
    replicates: int
    trials: int

    @property
    def standard_error(self) -> float | None:
        """s / sqrt(n), which the interval is made of."""
        if self.interval is None:
            return None
        return (self.interval.high - self.interval.low) / 2 / student_t((1 + CONFIDENCE) / 2, self.replicates)

    @property
    def p_value(self) -> float | None:
        """That of the two-sided t-test against 0: below 0.05 exactly where the interval leaves 0 out."""
        if self.standard_error is None:
            return None
        return float(2 * special.stdtr(self.replicates - 1, -abs(self.value) / self.standard_error))

    def upper_bound(self) -> float | None:
        """The upper end of the one-sided 95 % interval: mean + t(0.95, n - 1) s / sqrt(n)."""
        if self.standard_error is None:
            return None
        return self.value + student_t(CONFIDENCE, self.replicates) * self.standard_error


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


def paired_difference(
    first: pd.DataFrame,
    second: pd.DataFrame,
    value: str,
    *,
    match: str = "matched_set",
    scale: Literal["linear", "log"] = "linear",
) -> Mean | None:
    """The mean of first minus second, paired inside replicates, with a 95 % t-interval.

        d_r = mean over the matched sets of replicate r of (first - second);   then as mean_over_replicates

    A matched set (column `match`: `matched_set`, or `remedy_set` to compare remedies) holds the trials that differ in
    what is compared alone: same learning rate, warmup, seed and split. Sets that one side lacks (a trial that
    diverged) are left out on both sides, so a missing trial cannot pose as a difference. Units: those of `value`.
    With `log` it is the ratio first / second, by geometric means. Returns None where nothing is matched.
    """
    differences = differences_by_replicate(first, second, value, match=match, scale=scale)
    return _mean(differences["mean"], int(differences["size"].sum()), scale)


def differences_by_replicate(
    first: pd.DataFrame, second: pd.DataFrame, value: str, *, match: str = "matched_set", scale: str = "linear"
) -> pd.DataFrame:
    """d_r of `paired_difference`, `mean`, over how many matched sets, `size`; a row for each replicate."""
    keys = ["replicate", match]
    sides = [_known(side[[*keys, value]], value, scale).groupby(keys)[value].mean() for side in (first, second)]
    found: pd.DataFrame = (sides[0] - sides[1]).dropna().groupby("replicate").agg(["mean", "size"])
    return found


def ratio_of_means(numerator: pd.Series, denominator: pd.Series) -> Mean | None:
    """The ratio of two means over the same replicates, with Fieller's 95 % interval.

        theta = mean(g) / mean(d);   all theta with |mean(g - theta d)| <= t(0.975, n - 1) s(g - theta d) / sqrt(n)

    Replicates that one side lacks are left out. The interval is None for fewer than two, and where the denominator's
    own interval holds zero: no ratio is excluded then. Returns None where nothing is left or the denominator is 0.
    Source: Fieller 1954.
    """
    both = pd.concat([numerator, denominator], axis=1, join="inner").dropna().to_numpy(np.float64)
    n = len(both)
    if n == 0 or both[:, 1].mean() == 0:
        return None
    top, bottom = both.mean(axis=0)
    interval = None
    if n > 1:
        spread = student_t((1 + CONFIDENCE) / 2, n) ** 2 * np.cov(both, rowvar=False) / n
        a, b, c = bottom**2 - spread[1, 1], top * bottom - spread[0, 1], top**2 - spread[0, 0]
        if a > 0 and np.trace(spread) > 1e-24:
            half = np.sqrt(max(0.0, b * b - a * c))
            interval = Interval(float((b - half) / a), float((b + half) / a))
    return Mean(float(top / bottom), interval, n, n)


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
        half = student_t((1 + CONFIDENCE) / 2, n) * spread / n**0.5
        interval = Interval(float(back(centre - half)), float(back(centre + half)))
    return Mean(float(back(centre)), interval, n, trials)


def student_t(level: float, replicates: int) -> float:
    """t(level, n - 1): the quantile of Student's distribution for n replicates."""
    return float(special.stdtrit(replicates - 1, level))
