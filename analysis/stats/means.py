"""Means over replicates, differences paired inside them, and their ratios, with t-intervals.

The n of a mean is the number of replicates, not of trials: trials that share a replicate (a seed with its data split)
share its split and its luck. Differences are taken inside a replicate, so that this luck cancels.

What cannot be computed (too few replicates, no value known) is None, never NaN and never a warning.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special  # scipy.stats would cost half a second at each start

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95
RESOLVED = ("test_accuracy",)  # columns that are multiples of 1 / test_size
LARGEST_LOG = 700.0  # e^700 is about 1e304
ROUNDING = 1e-12  # of the values: a smaller spread is none


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

    `comparisons`: how many intervals hold together with 95 %, by Bonferroni's correction; 1 where each is alone.
    A look of a sequential sweep at the one-sided level p counts as 0.025 / p of them.
    `standard_error` and `p_value` are of means that were not taken of logarithms; the p-value is never corrected.
    """

    value: float
    interval: Interval | None
    replicates: int
    trials: int
    comparisons: float = 1

    @property
    def standard_error(self) -> float | None:
        """s / sqrt(n), which the interval is made of."""
        if self.interval is None:
            return None
        return (self.interval.high - self.interval.low) / 2 / student_t(_level(self.comparisons), self.replicates)

    @property
    def p_value(self) -> float | None:
        """The p-value of the two-sided t-test against 0: below 0.05 exactly where an interval of its own excludes 0."""
        if self.standard_error is None:
            return None
        return float(2 * special.stdtr(self.replicates - 1, -abs(self.value) / self.standard_error))

    def times(self, factor: float) -> "Mean":
        """The same of values that are `factor` times as large: another unit, or for a factor below 0 the other sign."""
        interval = self.interval
        if interval is not None:
            interval = Interval(*sorted((interval.low * factor, interval.high * factor)))
        return replace(self, value=self.value * factor, interval=interval)

    def simultaneous(self, comparisons: float) -> "Mean":
        """The same with value ± t(1 - 0.025 / comparisons, n - 1) s / sqrt(n): right for whichever of them is named."""
        if self.standard_error is None:
            return self
        half = student_t(_level(comparisons), self.replicates) * self.standard_error
        return replace(self, interval=Interval(self.value - half, self.value + half), comparisons=comparisons)


def mean_over_replicates(
    frame: pd.DataFrame,
    value: str,
    *,
    scale: Literal["linear", "log"] = "linear",
    step: float = 0.0,
    chosen: bool = False,
) -> Mean | None:
    """The mean of a column with a 95 % t-interval over replicates.

        m_r = mean of the cells of replicate r;   mean = sum_r m_r / n;   mean ± t(0.975, n - 1) s / sqrt(n)

    n is the number of replicates (column `replicate`), not of trials: the cells inside a replicate (learning
    rates, warmups) share its split and its luck, so they are averaged first.

    The interval is for new replicates: new random seeds and data splits, with this dataset and these settings. It takes
    replicates as independent, so where several seeds share a split it is too narrow for new splits.

    Args:
        scale: `log` does the same to logarithms and goes back: a geometric mean and an interval above 0, for sharpness
            that spans decades. Values that are not above 0 have no logarithm and are left out.
        step: the resolution of the values, such as 1 / m for accuracies on m examples (known where the column is
            `test_accuracy` and there is a `test_size`). s is taken to be at least step / 2 / (cells of a replicate),
            the largest standard deviation of what takes two neighbouring values, because a handful of replicates may
            agree exactly although others would not.
        chosen: by these replicates, among several settings: for each by the others, so that values are correlated, or
            for all by all, so that the best is partly the luckiest (analysis/questions/best_setting.py). The variance
            is then s^2 (1 / n + 1 / (n - 1)) instead of s^2 / n.

    Returns None where no value is known. The interval is None for one replicate, and where all agree exactly and no
    step is known. Sources: Student 1908; Nadeau and Bengio 2003, Machine Learning 52:239 (`chosen`).
    """
    by_replicate = _averages(*_known(frame, value, scale))
    sizes = [size for _, size in by_replicate.values()]
    step = (step or resolution(frame, value)) / min(sizes, default=1)
    size = _magnitude(scale, value, frame)
    return _mean([mean for mean, _ in by_replicate.values()], sum(sizes), scale, step, size, chosen)


def paired_difference(
    first: pd.DataFrame,
    second: pd.DataFrame,
    value: str,
    *,
    match: str = "matched_set",
    scale: Literal["linear", "log"] = "linear",
    chosen: bool = False,
) -> Mean | None:
    """The mean of first minus second, paired inside replicates, with a 95 % t-interval.

        d_r = mean over the matched sets of replicate r of (first - second);   then as mean_over_replicates

    A matched set (column `match`: `matched_set`, or `remedy_set` to compare remedies) holds the trials that differ in
    what is compared alone: same learning rate, warmup, seed and split. Sets that one side lacks (a trial that
    diverged) are left out on both sides, so a missing trial cannot pose as a difference. Units: those of `value`.
    With `log` it is the ratio first / second, by geometric means. `chosen`: as in mean_over_replicates. Returns None
    where nothing is matched.
    """
    differences = differences_by_replicate(first, second, value, match=match, scale=scale)
    if differences.empty:
        return None
    sizes = differences["size"]
    step = max(resolution(first, value), resolution(second, value)) / sizes.min()
    size = _magnitude(scale, value, first, second)
    return _mean(differences["mean"].tolist(), int(sizes.sum()), scale, step, size, chosen)


def differences_by_replicate(
    first: pd.DataFrame, second: pd.DataFrame, value: str, *, match: str = "matched_set", scale: str = "linear"
) -> pd.DataFrame:
    """d_r of `paired_difference`, `mean`, over how many matched sets, `size`; a row for each replicate."""
    sides = [_averages(*_known(side, value, scale, match)) for side in (first, second)]
    common = sorted(sides[0].keys() & sides[1].keys())
    found = _averages([key[0] for key in common], np.array([sides[0][key][0] - sides[1][key][0] for key in common]))
    return pd.DataFrame(found.values(), index=pd.Index(found.keys(), name="replicate"), columns=["mean", "size"])


def ratio_of_means(
    numerator: pd.Series, denominator: pd.Series, *, comparisons: int = 1, step: float = 0.0
) -> Mean | None:
    """The ratio of two means over the same replicates, with Fieller's 95 % interval.

        theta = mean(g) / mean(d);   all theta with |mean(g - theta d)| <= t s(g - theta d) / sqrt(n)

    with t = t(1 - 0.025 / comparisons, n - 1). Replicates that one side lacks are left out. The interval is not
    symmetric. It is None for fewer than two replicates, and where the denominator's own interval holds zero: no ratio
    is excluded then. `step`: as in mean_over_replicates. Returns None where nothing is left or the denominator is 0.
    Source: Fieller 1954.
    """
    both = pd.concat([numerator, denominator], axis=1, join="inner").dropna().to_numpy(np.float64)
    n = len(both)
    if n == 0 or both[:, 1].mean() == 0:
        return None
    unit = _unit(both)
    both, step = both / unit, step / unit
    top, bottom = both.mean(axis=0)
    interval = None
    if n > 1:
        covariance = np.cov(both, rowvar=False)
        np.fill_diagonal(covariance, np.maximum(covariance.diagonal(), (step / 2) ** 2))
        spread = student_t(_level(comparisons), n) ** 2 * covariance / n
        a, b, c = bottom**2 - spread[1, 1], top * bottom - spread[0, 1], top**2 - spread[0, 0]
        if a > 0 and np.trace(spread) > ROUNDING**2 * (both**2).max():
            half = np.sqrt(max(0.0, b * b - a * c))
            interval = Interval(float((b - half) / a), float((b + half) / a))
    return Mean(float(top / bottom), interval, n, n, comparisons)


def _known(frame: pd.DataFrame, value: str, scale: str, match: str | None = None) -> tuple[Any, Floats]:
    """The keys (replicate, or replicate and matched set) and values of the rows that have a value."""
    values = frame[value].to_numpy(np.float64, na_value=np.nan)
    kept = np.isfinite(values) & ((values > 0) | (scale != "log"))
    values = np.log(values[kept]) if scale == "log" else values[kept]
    columns = [frame[name].to_numpy()[kept].tolist() for name in ("replicate", match) if name is not None]
    return (columns[0] if match is None else list(zip(*columns, strict=True))), values


def _averages(keys: Sequence[Any], values: Floats) -> dict[Any, tuple[float, int]]:
    """The mean and the number of the values of each key, in the order of the keys."""
    groups: dict[Any, list[float]] = {}
    for key, value in zip(keys, values.tolist(), strict=True):
        groups.setdefault(key, []).append(value)
    return {key: (sum(groups[key]) / len(groups[key]), len(groups[key])) for key in sorted(groups)}


def resolution(frame: pd.DataFrame, value: str) -> float:
    """The resolution of a column: 1 / test_size for accuracies, at the smallest test set; 0 for all other metrics."""
    if value not in RESOLVED or "test_size" not in frame or frame.empty:
        return 0.0
    return 1.0 / float(frame["test_size"].min())


def _magnitude(scale: str, value: str, *frames: pd.DataFrame) -> float:
    """The largest absolute value, which a spread by rounding is relative to; of logarithms 1."""
    if scale == "log":
        return 1.0
    values = np.concatenate([frame[value].to_numpy(np.float64, na_value=np.nan) for frame in frames])
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _mean(
    by_replicate: Sequence[float], trials: int, scale: str, step: float, magnitude: float, chosen: bool = False
) -> Mean | None:
    n = len(by_replicate)
    if n == 0:
        return None
    unit = _unit(by_replicate)
    values = np.divide(by_replicate, unit)
    centre, interval = float(np.mean(values)) * unit, None
    spread = max(float(np.std(values, ddof=1)) * unit, step / 2) if n > 1 else 0.0
    if spread > ROUNDING * max(magnitude, abs(centre)):
        half = student_t(_level(1), n) * spread * (1 / n + (1 / (n - 1) if chosen else 0)) ** 0.5
        interval = Interval(_back(centre - half, scale), _back(centre + half, scale))
    return Mean(_back(centre, scale), interval, n, trials)


def _unit(values: npt.ArrayLike) -> float:
    """The power of two of the largest value: in this unit squares of 1e300 are in the range of floats, to the digit."""
    return math.ldexp(0.5, math.frexp(np.abs(values).max())[1])


def _back(value: float, scale: str) -> float:
    """From the scale of the mean to that of the values; a logarithm beyond the range of floats ends inside it."""
    return float(np.exp(np.clip(value, -LARGEST_LOG, LARGEST_LOG))) if scale == "log" else value


def _level(comparisons: float) -> float:
    return 1 - (1 - CONFIDENCE) / 2 / comparisons


def student_t(level: float, replicates: int) -> float:
    """t(level, n - 1): the quantile of Student's distribution for n replicates."""
    return float(special.stdtrit(replicates - 1, level))
