"""Arrays over batch size, setting and replicate, and intervals for whatever is computed from them.

A fit, a choice of the best learning rate or a threshold has no formula for its interval, so replicates (a seed with its
data split) are resampled whole and everything is done anew. With few replicates, as sweeps have, percentiles of such a
bootstrap are far too narrow (with four replicates half as wide as they should be), so its standard error is used with
Student's t and the factor that makes it exact for a mean:

    value +- t(0.975, n - 1) sd* sqrt(n / (n - 1))

which for a mean over n replicates is the t-interval, and is given from 3 replicates on. Batch sizes are taken as
logarithms, where such an interval is about symmetric. Sources: Efron and Tibshirani 1993, section 13.3; Hesterberg
2015, The American Statistician 69:371 (narrowness bias).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.stats.means import CONFIDENCE, Interval, student_t
from analysis.stats.pairs import Floats, Integers

LEAST_REPLICATES = 3
LEAST_DEFINED = 0.9  # of the resamples, for an interval to be given
RESAMPLES = 500
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A number that was fitted, with its 95 % interval over replicates (None for fewer than 3)."""

    value: float
    interval: Interval | None
    replicates: int

    def times(self, factor: float) -> "Estimate":
        """The same in another unit, for a factor above 0."""
        ends = self.interval and Interval(self.interval.low * factor, self.interval.high * factor)
        return Estimate(self.value * factor, ends, self.replicates)


@dataclass(frozen=True, eq=False)
class Cells:
    """The mean of a column in every cell: `values` (sizes, settings, replicates), NaN where there is no trial."""

    values: Floats
    sizes: tuple[int, ...]
    settings: tuple[int, ...]
    replicates: tuple[int, ...]


def cells(frame: pd.DataFrame, column: str) -> Cells:
    """`column` by batch size, `setting` (learning rate, warmup, ...) and `replicate`, trials of one cell averaged."""
    axes = [sorted(frame[name].unique().tolist()) for name in ("batch_size", "setting", "replicate")]
    total, number = np.zeros([len(axis) for axis in axes]), np.zeros([len(axis) for axis in axes])
    place = tuple(
        np.searchsorted(axis, frame[name])
        for axis, name in zip(axes, ("batch_size", "setting", "replicate"), strict=True)
    )
    np.add.at(total, place, frame[column].astype("float64").to_numpy())
    np.add.at(number, place, 1.0)
    values = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
    return Cells(values, *(tuple(int(value) for value in axis) for axis in axes))


def weighted_mean(values: Floats, counts: Integers) -> Floats:
    """The mean over the last axis with replicate r counted counts[r] times, NaN left out; NaN where nothing is left."""
    known = ~np.isnan(values)
    weights = counts * known
    total = np.where(weights > 0, np.where(known, values, 0.0), 0.0) * weights
    size = weights.sum(axis=-1)
    mean = np.full(size.shape, np.nan)
    np.divide(total.sum(axis=-1), size, out=mean, where=size > 0)
    return mean


def over_replicates(statistic: Callable[[Integers], Floats], replicates: int) -> tuple[Floats, Floats | None]:
    """The values of `statistic` on all replicates once, and the half-widths of their intervals (None: too few).

    `statistic` takes how often each replicate is drawn, (n,), and gives k numbers, NaN where undefined; a half-width is
    NaN where fewer than 90 % of the resamples are defined.
    """
    values = statistic(np.ones(replicates, dtype=np.int64))
    if replicates < LEAST_REPLICATES:
        return values, None
    drawn = np.random.default_rng(SEED).multinomial(replicates, np.full(replicates, 1 / replicates), size=RESAMPLES)
    distinct, occurs = np.unique(drawn, axis=0, return_counts=True)
    found = np.repeat([statistic(counts) for counts in distinct], occurs, axis=0)
    defined = np.isfinite(found)
    enough = defined.mean(axis=0) >= LEAST_DEFINED
    spread = np.array([found[defined[:, k], k].std() if enough[k] else np.nan for k in range(found.shape[1])])
    t = student_t((1 + CONFIDENCE) / 2, replicates)
    half: Floats = t * spread * np.sqrt(replicates / (replicates - 1))
    return values, half
