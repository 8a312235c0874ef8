"""Time and money to a goal, by batch size: the examples that it takes, divided by the examples a second.

    seconds(B) = E(B) / throughput(B),    cost(B) = price per hour * seconds(B) / 3600

E(B) are the examples to the goal at the fastest setting (analysis/questions/steps_to_result.py), a geometric mean over
replicates. throughput(B) is measured on the device in question, or taken from the rows of a finished sweep: examples
trained by the seconds of training, evaluation included, a geometric mean over replicates too. Both errors are added in
squares on logarithms, with the degrees of freedom of Welch 1947 and Satterthwaite 1946.

The fastest batch size is the one with the smallest mean; on a device with a price it is the cheapest, too. Others are
"shown to be slower" where the interval of the ratio of their time to the fastest one's is above 1. As the fastest is
chosen by the same runs, the intervals are those of all pairs of batch sizes, at 95 % together (Bonferroni): with the
other batch sizes alone counted, one of eight equally fast ones was called slower in 12 % of simulations. A batch size
is on the Pareto front where no other one needs both less time and fewer examples.

Traps: the rows of a sweep hold the throughput of trials that shared the machine. Another goal may have another
fastest batch size. Errors of examples are taken as independent between batch sizes, which is conservative where
replicates share their luck.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from analysis.data.load import Sweep, attempted
from analysis.questions.steps_to_result import StepsToResult
from analysis.stats.means import CONFIDENCE, LARGEST_LOG, Interval, Mean, mean_over_replicates, student_t
from analysis.stats.wording import plain_number
from trainables.runtime.errors import UserError


@dataclass(frozen=True)
class TimeAtBatch:
    """One batch size at its fastest setting. `slower`: shown to be slower than the fastest; None of the fastest itself,
    and without intervals. `is_bound`: the goal was there at the first evaluation, so examples and seconds are upper
    bounds."""

    batch_size: int
    setting: str
    examples: Mean
    throughput: Mean
    seconds: Mean
    slower: bool | None
    on_front: bool
    is_bound: bool = False


@dataclass(frozen=True)
class TimeToResult:
    """The batch sizes that reach the `goal`, in rising order; `fastest` is one of them.

    Left out are those `without_goal`, and those `without_throughput` that reach it."""

    goal: float
    rows: tuple[TimeAtBatch, ...]
    fastest: int
    without_goal: tuple[int, ...] = ()
    without_throughput: tuple[int, ...] = ()


def throughput_of_rows(sweep: Sweep) -> dict[int, Mean]:
    """Examples a second by batch size, from the plain trials of a sweep.

    Raises UserError where no trial has a time, and where some were trained by more workers than others.
    """
    trials = attempted(sweep)
    seconds, examples = trials["train_seconds"], trials["epochs_done"] * trials["train_size"]
    trials = trials[trials["is_plain"] & trials["status"].eq("completed") & (seconds > 0) & (examples > 0)]
    if trials.empty:
        raise UserError(f"no trial in {sweep.folder} has both training time and epochs; measure with --batch-sizes")
    if len(counts := sorted(set(trials["workers"].dropna().astype(int)))) > 1:
        raise UserError(
            f"`--sweep` must hold trials with the same number of workers, got {' and '.join(map(str, counts))}; "
            "--measure measures the throughput here"
        )
    return throughput_of_passes(trials.assign(throughput=examples / seconds))


def throughput_of_passes(passes: pd.DataFrame) -> dict[int, Mean]:
    """The same from measurements: columns `batch_size`, `replicate` (of repeated passes the repeat), `throughput`."""
    found = {
        int(size): mean_over_replicates(rows, "throughput", scale="log") for size, rows in passes.groupby("batch_size")
    }
    return {size: mean for size, mean in found.items() if mean is not None}


def time_to_result(found: StepsToResult, throughput: Mapping[int, Mean]) -> TimeToResult:
    """The time of each batch size that reaches the goal and has a throughput. Raises UserError where there is none."""
    known = [
        (row, row.examples, throughput[row.batch_size])
        for row in found.rows
        if row.examples is not None and row.batch_size in throughput
    ]
    if not known:
        sizes = ", ".join(str(row.batch_size) for row in found.rows if row.examples is not None)
        raise UserError(f"`--batch-sizes` must hold one that reaches the goal ({sizes}), got none of them")
    times = [_Log.of(examples).over(_Log.of(speed)) for _, examples, speed in known]
    pairs = len(known) * (len(known) - 1) // 2
    best = min(range(len(known)), key=lambda place: times[place].value)
    rows = []
    for place, ((row, examples, speed), time) in enumerate(zip(known, times, strict=True)):
        against = None if place == best else time.over(times[best]).interval(pairs)
        better = (
            other.value < time.value and others[1].value < examples.value
            for other, others in zip(times, known, strict=True)
        )
        replicates = min(examples.replicates, speed.replicates)
        rows.append(
            TimeAtBatch(
                batch_size=row.batch_size,
                setting=row.setting,
                examples=examples,
                throughput=speed,
                seconds=Mean(float(np.exp(time.value)), time.interval(), replicates, examples.trials),
                slower=against.low > 1 if against else None,
                on_front=not any(better),
                is_bound=row.is_bound,
            )
        )
    left_out = [row for row in found.rows if row.examples is None or row.batch_size not in throughput]
    return TimeToResult(
        found.goal,
        tuple(rows),
        known[best][0].batch_size,
        without_goal=tuple(row.batch_size for row in left_out if row.examples is None),
        without_throughput=tuple(row.batch_size for row in left_out if row.examples is not None),
    )


def cost(seconds: Mean, price_per_hour: float) -> Mean:
    """The price of so much time, with its interval."""
    return seconds.times(price_per_hour / 3600)


def throughput_lines(throughput: Mapping[int, Mean], where: str = "measured here") -> list[str]:
    """A line for each batch size."""
    return [
        f"Examples per second, {where}:",
        *(f"  batch {size}: {shown(mean)}" for size, mean in sorted(throughput.items())),
    ]


def lines(found: TimeToResult, metric: str, price_per_hour: float | None, currency: str = "$") -> list[str]:
    """The answer in words: a line for each batch size, then the fastest."""
    text = [f"Time to {metric} {found.goal:g}:"]
    for row in found.rows:
        price = "" if price_per_hour is None else f", {currency}{shown(cost(row.seconds, price_per_hour))}"
        setting = f" at {row.setting}" if row.setting else ""
        marks = [
            *(["shown to be slower"] if row.slower else []),
            *([] if row.on_front else ["not on the Pareto front"]),
            *(["an upper bound: at the goal when first evaluated"] if row.is_bound else []),
        ]
        marked = f" ({', '.join(marks)})" if marks else ""
        text.append(
            f"  batch {row.batch_size}: {shown(row.seconds)} s{price}, {shown(row.examples)} examples at "
            f"{shown(row.throughput)} examples/s{setting}{marked}"
        )
    others = [row for row in found.rows if row.batch_size != found.fastest]
    also = ", ".join(str(row.batch_size) for row in others if row.slower is False)
    close = f"; not shown to be slower: {also}" if also else ""
    if any(row.slower is None for row in others):
        close = "; which others are slower is unknown without replicates that differ"
    what = "Fastest" if price_per_hour is None else "Fastest and cheapest"
    front = ", ".join(str(row.batch_size) for row in found.rows if row.on_front)
    for sizes, why in ((found.without_goal, "the goal is not reached"), (found.without_throughput, "no throughput")):
        if sizes:
            text.append(f"  batch {', '.join(map(str, sizes))}: left out, {why}")
    return [*text, f"{what}: batch {found.fastest}{close}.", f"Pareto front of time and examples: {front}."]


def shown(mean: Mean) -> str:
    """Three digits, with the interval where there is one."""
    ends = f" ({plain_number(mean.interval.low)} to {plain_number(mean.interval.high)})" if mean.interval else ""
    return f"{plain_number(mean.value)}{ends}"


@dataclass(frozen=True)
class _Log:
    """The logarithm of a geometric mean: variance and degrees of freedom of its error, None where it has none."""

    value: float
    variance: float | None
    freedom: float

    @staticmethod
    def of(mean: Mean) -> "_Log":
        value, interval = float(np.log(mean.value)), mean.interval
        if interval is None:
            return _Log(value, None, 0.0)
        error = float(np.log(interval.high / interval.low)) / 2 / student_t((1 + CONFIDENCE) / 2, mean.replicates)
        return _Log(value, error**2, mean.replicates - 1)

    def over(self, other: "_Log") -> "_Log":
        """The logarithm of self / other, whose errors are independent."""
        value = self.value - other.value
        if self.variance is None or other.variance is None:
            return _Log(value, None, 0.0)
        total = self.variance + other.variance
        return _Log(value, total, total**2 / (self.variance**2 / self.freedom + other.variance**2 / other.freedom))

    def interval(self, comparisons: int = 1) -> Interval | None:
        if self.variance is None:
            return None
        half = float(special.stdtrit(self.freedom, 1 - (1 - CONFIDENCE) / 2 / comparisons)) * self.variance**0.5
        low, high = np.exp(np.clip([self.value - half, self.value + half], -LARGEST_LOG, LARGEST_LOG))
        return Interval(float(low), float(high))
