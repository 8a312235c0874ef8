"""The threshold batch size: beyond which the test accuracy falls (Keskar et al. 2017, arXiv 1609.04836, figure 4).

    score(B) = a - k max(0, log2 B - log2 T),   k > 0

with the test accuracy as the score, or that of another metric (analysis.data.metric).

Flat up to T, then k lost with each doubling. For a given T the best a and k are linear least squares; T is searched for
between the smallest and the last but one batch size, as beyond that T and k cannot be told apart. The points are means
over replicates of the settings (learning rate, warmup) that every batch size of the replicate has; plain trials.

A broken line can be fitted to anything, so there is a threshold only where the largest batch is significantly worse
than the smallest: where the 95 % interval of the gap between them, paired inside replicates, lies above 0. The
intervals of T and k are those of analysis.data.replicates; that of T is cut at the batch sizes tried. No threshold is
given where its interval covers more than MOST_COVERED of them on a log scale, and none below LEAST_REPLICATES
replicates: with three, the intervals that are narrow enough to be given held in 91.6 % of simulated sweeps
(docs/statistics.md). Source of the fit: Hinkley 1969.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from analysis.data.load import Sweep, attempted, comparable
from analysis.data.replicates import Estimate, cells, over_replicates, weighted_mean
from analysis.stats.means import Interval, Mean, paired_difference
from analysis.stats.pairs import Floats, Integers
from analysis.stats.wording import plain_number
from trainables.runtime.errors import NotEnoughError

LEAST_SIZES = 4  # three would be fitted exactly
LEAST_REPLICATES = 4
MOST_COVERED = 0.5  # share of the batch sizes tried, in log B
CANDIDATES = 400  # for T, evenly spaced in log B


@dataclass(frozen=True)
class ThresholdBatch:
    """The fit: `level` a, `slope` k (score lost per doubling, a fraction of accuracy) and `threshold` T, which is None
    without a significant fall or with few replicates. `fall`: what the largest batch loses to the smallest. `points`:
    the mean scores by batch size.

    They are over the `compared` of `attempted` combinations of setting and replicate that all these batch sizes
    completed; `without` are batch sizes that completed none."""

    threshold: Estimate | None
    level: float
    slope: Estimate
    fall: Mean
    points: dict[int, float]
    compared: int
    attempted: int
    without: tuple[int, ...]

    @property
    def has_few_replicates(self) -> bool:
        """Whether there are too few replicates for a threshold."""
        return self.slope.replicates < LEAST_REPLICATES

    @property
    def is_located(self) -> bool:
        """Whether there is a threshold beyond the smallest batch, and its interval leaves out most of the batch sizes
        tried; true without an interval."""
        if self.threshold is None or self.threshold.value <= min(self.points):
            return False
        ends = self.threshold.interval
        tried = np.log(max(self.points) / min(self.points))
        return ends is None or bool(np.log(ends.high / ends.low) <= MOST_COVERED * tried)


def fit_threshold(sizes: Floats, scores: Floats) -> tuple[float, float, float]:
    """(T, a, k) of the broken line by least squares; k is 0 and T the largest size where nothing falls.

    sizes: (n,) rising, above 0; scores: (n,).
    """
    logs = np.log2(sizes)
    candidates = np.linspace(logs[0], logs[-2], CANDIDATES)
    beyond = np.maximum(0.0, logs - candidates[:, None])
    centred, deviations = beyond - beyond.mean(axis=1, keepdims=True), scores - scores.mean()
    slopes = -(centred @ deviations) / (centred**2).sum(axis=1)
    explained = np.where(slopes > 0, slopes**2 * (centred**2).sum(axis=1), 0.0)
    best = int(explained.argmax())
    if slopes[best] <= 0:
        return float(sizes[-1]), float(scores.mean()), 0.0
    level = scores.mean() + slopes[best] * beyond[best].mean()
    return float(2 ** candidates[best]), float(level), float(slopes[best])


@lru_cache(maxsize=16)
def threshold_batch(sweep: Sweep) -> ThresholdBatch:
    """The threshold batch size. Raises UserError for fewer than four batch sizes with settings in common."""
    frame, score = comparable(sweep), sweep.metric.score
    frame = frame[frame["is_plain"]]
    found = cells(frame, score) if len(frame) else None
    common = np.zeros(0) if found is None else ~np.isnan(found.values).any(axis=0)
    if found is None or len(found.sizes) < LEAST_SIZES or not common.any():
        count = 0 if found is None else len(found.sizes)
        has = f"this sweep has {count}" if count < LEAST_SIZES else "no setting completed at all of them"
        raise NotEnoughError(
            f"`results` must hold at least {LEAST_SIZES} batch sizes with a setting in common for a threshold, "
            f"got {count} batch sizes in {sweep.folder}",
            f"A threshold needs at least {LEAST_SIZES} batch sizes; {has}.",
        )
    has_any = common.any(axis=0)  # of the replicates: the others have no part in the fit
    number = np.where(common, 1.0, np.nan)
    by_replicate = np.nansum(found.values * number, axis=1)[:, has_any] / common.sum(axis=0)[has_any]
    sizes = np.array(found.sizes, dtype=np.float64)

    def statistic(counts: Integers) -> Floats:
        scores = weighted_mean(by_replicate, counts)
        if np.isnan(scores).any():
            return np.full(3, np.nan)
        threshold, level, slope = fit_threshold(sizes, scores)
        return np.array([np.log2(threshold), slope, level])

    tried = attempted(sweep)
    tried = tried[tried["is_plain"]]
    count = int(has_any.sum())
    values, half = over_replicates(statistic, count)
    intervals: list[Interval | None] = [None, None]
    if half is not None and np.isfinite(half[:2]).all():
        intervals = [Interval(float(values[k] - half[k]), float(values[k] + half[k])) for k in range(2)]
    fall = paired_difference(
        frame[frame["batch_size"] == found.sizes[0]], frame[frame["batch_size"] == found.sizes[-1]], score
    )
    assert fall is not None
    clear = fall.interval is not None and fall.interval.low > 0 and values[1] > 0 and count >= LEAST_REPLICATES
    threshold, exponents = float(2 ** values[0]), intervals[0]
    if exponents is not None:
        ends = np.clip([2**exponents.low, 2**exponents.high], sizes[0], sizes[-1])
        exponents = Interval(float(ends[0]), float(ends[1]))
    points = weighted_mean(by_replicate, np.ones(count, dtype=np.int64))
    return ThresholdBatch(
        threshold=Estimate(threshold, exponents, count) if clear else None,
        level=float(values[2]),
        slope=Estimate(float(values[1]), intervals[1], count),
        fall=fall,
        points={int(size): float(point) for size, point in zip(found.sizes, points, strict=True)},
        compared=int(common.sum()),
        attempted=int(tried["matched_set"].nunique()),
        without=tuple(sorted(int(size) for size in set(tried["batch_size"]) - set(found.sizes))),
    )


def threshold_sentence(sweep: Sweep) -> str:
    """The threshold in words, or why there is none."""
    try:
        found = threshold_batch(sweep)
    except NotEnoughError as error:
        return error.sentence
    missing = ""
    if found.compared < found.attempted:
        missing = f" Only {found.compared} of {found.attempted} settings and replicates completed at every batch size."
    if found.without:
        missing += f" No trial completed at batch {', '.join(map(str, found.without))}."
    if found.has_few_replicates:
        return (
            f"No threshold batch size is given: with fewer than {LEAST_REPLICATES} replicates that completed at every "
            f"batch size (here {found.slope.replicates}) its 95 % interval holds too rarely. Add --seeds.{missing}"
        )
    if found.threshold is None:
        return f"No threshold batch size: the largest batch is not significantly worse than the smallest.{missing}"
    ends = found.threshold.interval
    interval = f" [{plain_number(ends.low)}, {plain_number(ends.high)}]" if ends else ""
    metric = sweep.metric
    by = f"{metric.difference(found.slope.value)} with each doubling"
    falls = "falls" if metric.direction == "higher" else "rises"
    if found.threshold.value <= min(found.points):
        smallest = min(found.points)
        return (
            f"No threshold batch size: test {metric.noun} {falls} from the smallest, {smallest}, on, by {by}.{missing}"
        )
    if not found.is_located and ends:
        return (
            f"No threshold batch size can be given: test {metric.noun} {falls} with the batch size, but where that "
            f"begins is only known to be between {plain_number(ends.low)} and {plain_number(ends.high)} (95 %), which "
            f"is most of the batch sizes tried. More seeds and batch sizes would narrow it.{missing}"
        )
    unit = sweep.batch_unit
    of_data = plain_number(found.threshold.value * unit.per_example)
    tokens = "" if unit.tokens is None else f", which is {of_data} tokens,"
    return (
        f"Test {metric.noun} is flat up to a batch size of about {plain_number(found.threshold.value)}{interval}"
        f"{tokens} and {falls} by {by} beyond.{missing}"
    )
