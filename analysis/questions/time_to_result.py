"""Time and money to a goal, by batch size: the examples that it takes, divided by the examples a second.

    seconds(B) = E(B) / throughput(B),    cost(B) = price per hour * seconds(B) / 3600

E(B) are the examples to the goal at the fastest setting (analysis/questions/steps_to_result.py), a geometric mean over
replicates. throughput(B) is measured on the device in question, or taken from the rows of a finished sweep: examples
trained by the seconds of training, evaluation included, a geometric mean over replicates too. Both errors are added in
squares on logarithms, with the degrees of freedom of Welch 1947 and Satterthwaite 1946.

Each part of a sweep (optimizer, network, size of the training set; analysis/questions/sweep_parts.py) has a throughput
and steps of its own. The fastest is the batch size of a part with the smallest mean; on a device with a price it is the
cheapest, too. Others are "shown to be slower" where the interval of the ratio of their time to the fastest one's is
above 1. As the fastest is chosen by the same runs, the intervals are those of all pairs, at 95 % together (Bonferroni):
with the pairs of the fastest alone counted, one of eight equally fast ones was called slower in 12 % of simulations. A
batch size is on the Pareto front where no other one needs both less time and fewer examples.

Traps: the rows of a sweep hold the throughput of trials that shared the machine. Another goal may have another
fastest batch size. Errors of examples are taken as independent between batch sizes, which is conservative where
replicates share their luck.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from analysis.data.batch_unit import EXAMPLES, BatchUnit
from analysis.data.load import Sweep
from analysis.questions.steps_to_result import StepsToResult
from analysis.questions.sweep_parts import Part, SweepParts
from analysis.stats.means import CONFIDENCE, LARGEST_LOG, Interval, Mean, mean_over_replicates, student_t
from analysis.stats.wording import capitalized, exact_number, plain_number
from trainables.runtime.errors import UserError

Throughput = Mapping[int, Mean]
"""Examples per second by batch size."""


@dataclass(frozen=True)
class TimeAtBatch:
    """One batch size at its fastest setting. `slower`: shown to be slower than the fastest; None of the fastest itself,
    and without intervals. `is_bound`: the goal was there at the first evaluation, so examples and seconds are upper
    bounds. `part`: the name of the part of the sweep, empty where there is one."""

    batch_size: int
    setting: str
    examples: Mean
    throughput: Mean
    seconds: Mean
    slower: bool | None
    on_front: bool
    is_bound: bool = False
    part: str = ""


@dataclass(frozen=True)
class TimeToResult:
    """The batch sizes that reach the `goal`, in rising order in each part; `fastest` is one of `rows`.

    Left out are, by part, batch sizes `without_goal` (none are named where no batch size of the part reaches it), and
    those `without_throughput` that reach it."""

    goal: float
    rows: tuple[TimeAtBatch, ...]
    fastest: TimeAtBatch
    without_goal: Mapping[str, tuple[int, ...]]
    without_throughput: Mapping[str, tuple[int, ...]]

    def rows_of(self, part: str) -> list[TimeAtBatch]:
        """Those of one part."""
        return [row for row in self.rows if row.part == part]


def throughput_of_rows(sweep: Sweep, parts: Sequence[Part]) -> dict[str, Throughput]:
    """Examples a second of each part by batch size, from its trials.

    Raises UserError where no trial has a time, and where some were trained by more workers than others, or on another
    kind of device.
    """
    everything = pd.concat([part.trials for part in parts])
    workers, devices = (sorted(everything[name].dropna().unique()) for name in ("workers", "device"))
    for several, of_what in ((workers, "with the same number of workers"), (devices, "on one kind of device")):
        if len(several) > 1:
            got = " and ".join(str(value) if isinstance(value, str) else f"{value:.0f}" for value in several)
            raise UserError(f"`--sweep` must hold trials {of_what}, got {got}; --measure measures the throughput here")
    found: dict[str, Throughput] = {part.name: throughput_of_passes(_timed(part.trials)) for part in parts}
    if not any(found.values()):
        raise UserError(f"no trial in {sweep.folder} has both training time and epochs; measure with --batch-sizes")
    return found


def _timed(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that have a time, with their throughput."""
    seconds, examples = trials["train_seconds"], trials["epochs_done"] * trials["train_size"]
    return trials.assign(throughput=examples / seconds)[(seconds > 0) & (examples > 0)]


def throughput_of_passes(passes: pd.DataFrame) -> dict[int, Mean]:
    """The same from measurements: columns `batch_size`, `replicate` (of repeated passes the repeat), `throughput`."""
    found = {
        int(size): mean_over_replicates(rows, "throughput", scale="log") for size, rows in passes.groupby("batch_size")
    }
    return {size: mean for size, mean in found.items() if mean is not None}


def times_to_goals(whole: SweepParts, throughput: Mapping[str, Throughput]) -> tuple[list[TimeToResult], list[float]]:
    """`time_to_result` for each goal that a part with a throughput reaches, and the other goals."""
    found, never = [], []
    for goal in whole.goals:
        steps = {part.name: part.steps[goal] for part in whole.parts if part.name in throughput}
        if any(steps.values()):
            found.append(time_to_result(goal, steps, throughput))
        else:
            never.append(goal)
    return found, never


def time_to_result(
    goal: float, steps: Mapping[str, StepsToResult | None], throughput: Mapping[str, Throughput]
) -> TimeToResult:
    """The time of each batch size that reaches the goal and has a throughput; steps and throughput are by part.

    Raises UserError where there is none.
    """
    reached = [(part, row, row.examples) for part, found in steps.items() if found for row in found.rows]
    known = [
        (part, row, examples, throughput[part][row.batch_size])
        for part, row, examples in reached
        if examples is not None and row.batch_size in throughput[part]
    ]
    if not known:
        sizes = sorted({row.batch_size for _, row, examples in reached if examples is not None})
        raise UserError(
            f"`--batch-sizes` must hold one that reaches the goal ({', '.join(map(str, sizes))}), got none of them"
        )
    times = [_Log.of(examples).over(_Log.of(speed)) for _, _, examples, speed in known]
    pairs = len(known) * (len(known) - 1) // 2
    best = min(range(len(known)), key=lambda number: times[number].value)
    rows = []
    for number, ((part, row, examples, speed), time) in enumerate(zip(known, times, strict=True)):
        against = None if number == best else time.over(times[best]).interval(pairs)
        better = (
            other.value < time.value and others[2].value < examples.value
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
                slower=against.low > 1 and not row.is_bound if against else None,
                on_front=not any(better),
                is_bound=row.is_bound,
                part=part,
            )
        )
    without_goal: dict[str, tuple[int, ...]] = {part: () for part, found in steps.items() if found is None}
    without_throughput: dict[str, tuple[int, ...]] = {}
    for part, row, needed in reached:
        if needed is None:
            without_goal[part] = (*without_goal.get(part, ()), row.batch_size)
        elif row.batch_size not in throughput[part]:
            without_throughput[part] = (*without_throughput.get(part, ()), row.batch_size)
    return TimeToResult(goal, tuple(rows), rows[best], without_goal, without_throughput)


def cost(seconds: Mean, price_per_hour: float) -> Mean:
    """The price of so much time, with its interval."""
    return seconds.times(price_per_hour / 3600)


def throughput_lines(
    throughput: Mapping[str, Throughput], where: str = "measured here", *, unit: BatchUnit = EXAMPLES
) -> list[str]:
    """A line for each part and batch size."""
    return [
        f"{capitalized(unit.of_data)} per second, {where}:",
        *(
            f"  {place(part, unit.batch(size))}: {shown(mean.times(unit.per_example))}"
            for part, of_part in throughput.items()
            for size, mean in sorted(of_part.items())
        ),
    ]


def lines(
    found: TimeToResult,
    metric: str,
    price_per_hour: float | None,
    currency: str = "$",
    *,
    unit: BatchUnit = EXAMPLES,
) -> list[str]:
    """The answer in words: a line for each batch size, then the fastest."""
    text = [f"Time to {metric} {exact_number(found.goal)}:"]
    for row in found.rows:
        price = "" if price_per_hour is None else f", {currency}{shown(cost(row.seconds, price_per_hour))}"
        setting = f" at {row.setting}" if row.setting else ""
        data, speed = (
            f"{shown(mean.times(unit.per_example))} {unit.of_data}" for mean in (row.examples, row.throughput)
        )
        marks = [
            *(["shown to be slower"] if row.slower else []),
            *([] if row.on_front or row.is_bound else ["not on the Pareto front"]),
            *(["an upper bound: at the goal when first evaluated"] if row.is_bound else []),
        ]
        marked = f" ({', '.join(marks)})" if marks else ""
        text.append(
            f"  {place(row.part, unit.batch(row.batch_size))}: {shown(row.seconds)} s{price}, {data} at {speed}/s"
            f"{setting}{marked}"
        )
    others = [row for row in found.rows if row is not found.fastest]
    also = _listed([row for row in others if row.slower is False])
    close = f"; not shown to be slower: {also}" if also else ""
    if any(row.slower is None for row in others):
        close = "; which others are slower is unknown without replicates that differ"
    what = "Fastest" if price_per_hour is None else "Fastest and cheapest"
    for left_out, why in ((found.without_goal, "the goal is not reached"), (found.without_throughput, "no throughput")):
        for part, sizes in left_out.items():
            said = place(part, ", ".join(map(unit.batch, sizes))) if sizes else part
            text.append(f"  {said}: left out, {why}")
    return [
        *text,
        f"{what}: {place(found.fastest.part, unit.batch(found.fastest.batch_size))}{close}.",
        f"Pareto front of time and {unit.of_data}: {_listed([row for row in found.rows if row.on_front])}.",
    ]


def place(part: str, batch_size: int | str) -> str:
    """`batch 64`, or `muon, batch 64`."""
    return f"{part}, batch {batch_size}" if part else f"batch {batch_size}"


def _listed(rows: Sequence[TimeAtBatch]) -> str:
    """`16, 64`, or `muon batch 16, muon batch 64`."""
    return ", ".join(f"{row.part} batch {row.batch_size}" if row.part else f"{row.batch_size}" for row in rows)


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
