"""What data-parallel training on N devices gains: step time, efficiency, time and cost to a goal.

Each device takes b = ceil(B / N) examples of a batch, then all devices sum the gradient with a ring all-reduce:

    T(B, N) = c(b) + a(N) + w for N > 1,    a(N) = 2 (N - 1) latency + 2 (N - 1) / N * bytes / bandwidth

c(b) is the measured time of a step with b examples on one device, update of the weights included; T(B, 1) = c(B).
a(N) is the alpha-beta model of Thakur, Rabenseifner and Gropp 2005 (Int. J. High Performance Computing Applications
19:49) for the ring of Patarasuk and Yuan 2009 (J. Parallel and Distributed Computing 69:117): N - 1 steps that sum and
N - 1 that distribute, each of bytes / N. The time of the additions is part of the bandwidth. The overhead w is what a
step of several workers takes beyond that, such as joining gradients into a message and copying them back. It is fitted
to steps of workers on this machine. To check the model, each step is predicted with the overhead of the others.

The sum is an upper bound, without any overlap of communication and computation, which is how trials with
`--workers-per-trial` work. With full overlap a step takes max(c(b) + w, a(N)), a lower bound: only the backward pass
can really overlap. Efficiency is T(B, 1) / (N T(B, N)).

The number of steps to the goal depends on B alone, so time(B, N) = time(B, 1) T(B, N) / T(B, 1). Its interval is that
of one device, scaled; the error of the communication model is not part of it.

Traps: one link between all devices (no slower link between machines), equal devices, no stragglers, and no other
messages: synchronized batch norm sends four more per layer. On a busy machine steps of several workers wait for each
other, which no constant describes (docs/planning.md). Between measured batch sizes c is interpolated linearly. Below
the smallest it follows the line through the smallest two, which is a guess.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize

from analysis.data.batch_unit import EXAMPLES, BatchUnit
from analysis.data.load import Sweep
from analysis.questions.time_to_result import TimeToResult, cost, shown
from analysis.stats.means import Mean, mean_over_replicates
from analysis.stats.wording import exact_number, plain_number
from trainables.runtime.errors import UserError


@dataclass(frozen=True)
class Link:
    """`latency` of one message in seconds, and `bandwidth` in bytes per second."""

    latency: float
    bandwidth: float

    def all_reduce(self, devices: int, size: float) -> float:
        """Seconds to sum `size` bytes over `devices` in a ring; 0 for one device."""
        return 2 * (devices - 1) * (self.latency + size / devices / self.bandwidth)


def fit_link(all_reduces: pd.DataFrame) -> Link:
    """The link that minimizes the squared relative errors of measured all-reduces, with neither term below 0.

    `all_reduces` has the columns `workers`, `bytes`, `seconds` and `stretch`: by how much the work of a process is
    slowed down because several share a core. Raises UserError where time does not grow with the bytes.
    """
    messages = 2 * (all_reduces["workers"] - 1) * all_reduces["stretch"] / all_reduces["seconds"]
    columns = np.column_stack([messages, messages * all_reduces["bytes"] / all_reduces["workers"]])
    scale = np.abs(columns).max(axis=0)
    latency, per_byte = optimize.nnls(columns / scale, np.ones(len(columns)))[0] / scale
    if per_byte == 0:
        raise UserError("`--measure-workers` found no bandwidth: messages of all sizes took equally long; try again")
    return Link(float(latency), float(1 / per_byte))


def fit_overhead(measured: pd.DataFrame, link: Link, size: float) -> float:
    """The seconds per step that minimize the squared relative errors of measured steps, 0 or more.

    `measured` as in `fit_model`, `size` is that of the gradient in bytes.
    """
    weights = measured["stretch"] / measured["seconds"]
    missing = 1 - weights * _without_overhead(measured, link, size)
    return max(0.0, float((weights * missing).sum() / (weights**2).sum()))


def _without_overhead(measured: pd.DataFrame, link: Link, size: float) -> pd.Series:
    """c(b) + a(N), before it is stretched."""
    sums = {workers: link.all_reduce(int(workers), size) for workers in measured["workers"].unique()}
    return measured["alone"] + measured["workers"].map(sums)


@dataclass(frozen=True)
class CheckedStep:
    """A step of several workers: seconds `measured`, and `predicted` with the overhead that fits all other steps, or
    without any where there is no other step. `ratio` is predicted / measured, `bare_ratio` that without overhead."""

    batch_size: int
    workers: int
    stretch: float
    predicted: Mean
    measured: Mean
    ratio: Mean
    bare_ratio: Mean


@dataclass(frozen=True)
class WorkerModel:
    """The link, fitted to `sums` all-reduces, and the overhead in seconds per step, fitted to all `steps`."""

    link: Link
    overhead: float
    sums: int
    steps: tuple[CheckedStep, ...]

    @property
    def is_checked(self) -> bool:
        """Whether there were other steps to fit the overhead to."""
        return len(self.steps) > 1


def fit_model(measured: pd.DataFrame, all_reduces: pd.DataFrame, size: float) -> WorkerModel:
    """The model of steps on this machine.

    `measured` has the columns `workers`, `batch_size`, `replicate`, `alone` (c(b), measured in turns with `seconds` of
    a whole step) and `stretch`. No step is predicted from its own time. Raises UserError as `fit_link` does.
    """
    link = fit_link(all_reduces)
    steps = []
    for (workers, batch_size), rows in measured.groupby(["workers", "batch_size"]):
        others = measured.drop(rows.index)
        overhead = fit_overhead(others, link, size) if len(others) else 0.0
        bare = rows["stretch"] * _without_overhead(rows, link, size)
        predicted = bare + rows["stretch"] * overhead
        rows = rows.assign(predicted=predicted, ratio=predicted / rows["seconds"], bare_ratio=bare / rows["seconds"])
        said, took, ratio, bare_ratio = (
            mean_over_replicates(rows, name, scale="log") for name in ("predicted", "seconds", "ratio", "bare_ratio")
        )
        if said and took and ratio and bare_ratio:
            stretch = float(rows["stretch"].iloc[0])
            steps.append(CheckedStep(int(batch_size), int(workers), stretch, said, took, ratio, bare_ratio))
    return WorkerModel(link, fit_overhead(measured, link, size), len(all_reduces), tuple(steps))


def gradient_bytes_of_rows(sweep: Sweep) -> float:
    """The size of the gradient of a sweep's network: 4 bytes for each trained parameter.

    Raises UserError where the sweep has networks of several sizes, or none is known, and where its trials were trained
    by several workers: their throughput is not that of one device.
    """
    if (workers := sweep.trials["workers"].max()) > 1:
        raise UserError(
            f"`--devices` needs the throughput of one device, but trials of the sweep had {workers:.0f} workers; add "
            "--measure"
        )
    trained = sweep.trials["parameters"] - sweep.trials["frozen_parameters"].fillna(0)
    sizes = sorted({int(count) for count in trained.dropna()})
    if len(sizes) != 1:
        said = f"networks with {' and '.join(f'{count:,}' for count in sizes)} parameters" if sizes else "none"
        raise UserError(f"`--sweep` must have one network, whose gradient is sent, got {said}")
    return 4.0 * sizes[0]


class StepTime:
    """c(b): seconds of a step with b examples on one device, from examples per second at several batch sizes."""

    def __init__(self, throughput: Mapping[int, Mean]) -> None:
        self._sizes = sorted(throughput)
        self._seconds = [size / throughput[size].value for size in self._sizes]

    def is_measured(self, examples: int) -> bool:
        """Whether b is not outside the measured batch sizes."""
        return self._sizes[0] <= examples <= self._sizes[-1]

    def __call__(self, examples: int) -> float:
        """c(b); below the smallest batch size between proportional and constant, above the largest proportional."""
        sizes, seconds = self._sizes, self._seconds
        if examples > sizes[-1]:
            return seconds[-1] * examples / sizes[-1]
        if examples >= sizes[0]:
            return float(np.interp(examples, sizes, seconds))
        slope = (seconds[1] - seconds[0]) / (sizes[1] - sizes[0]) if len(sizes) > 1 else seconds[0] / sizes[0]
        slope = min(max(slope, 0.0), seconds[0] / sizes[0])
        return seconds[0] - slope * (sizes[0] - examples)


@dataclass(frozen=True)
class Step:
    """A step of batch size B on N `devices`; seconds. `single` is c(B), `is_measured` whether c(b) is. `overhead` is 0
    on one device."""

    batch_size: int
    devices: int
    computing: float
    communicating: float
    single: float
    is_measured: bool
    overhead: float = 0.0

    @property
    def most(self) -> float:
        """Without overlap."""
        return self.computing + self.communicating + self.overhead

    @property
    def least(self) -> float:
        """With full overlap."""
        return max(self.computing + self.overhead, self.communicating)

    @property
    def efficiency(self) -> float:
        """Without overlap; 1 where N devices are N times as fast as one."""
        return self.single / self.devices / self.most


def data_parallel_steps(
    throughput: Mapping[int, Mean],
    size: float,
    link: Link,
    batch_sizes: Sequence[int],
    devices: Sequence[int],
    overhead: float = 0.0,
) -> list[Step]:
    """All steps with an example or more for each device; `size` is that of the gradient in bytes, `overhead` in seconds
    for each step of several devices.

    Raises UserError where there are more devices than examples in every batch.
    """
    time = StepTime(throughput)
    steps = []
    for batch_size in sorted(set(batch_sizes)):
        for count in sorted({n for n in devices if n <= batch_size}):
            own = -(-batch_size // count)
            steps.append(
                Step(
                    batch_size,
                    count,
                    computing=time(own),
                    communicating=link.all_reduce(count, size),
                    single=time(batch_size),
                    is_measured=time.is_measured(own),
                    overhead=overhead if count > 1 else 0.0,
                )
            )
    if not steps:
        raise UserError(f"`--devices` must be no more than the largest batch ({max(batch_sizes)}), got more")
    return steps


def on_devices(step: Step, seconds: Mean) -> Mean:
    """The time to a goal on the devices of `step` without overlap, from that on one device."""
    return seconds.times(step.most / step.single)


def step_lines(
    steps: Sequence[Step], size: float, link: Link, part: str = "", *, unit: BatchUnit = EXAMPLES
) -> list[str]:
    """The link, and a line for each step; `part` of the sweep, where it has several."""
    overhead = max(step.overhead for step in steps)
    more = f", {_milliseconds(overhead)} ms of overhead per step" if overhead else ""
    text = [
        f"Data parallel{f', {part}' if part else ''}: {plain_number(size / 1e6)} MB of gradient, ring all-reduce at "
        f"{plain_number(link.bandwidth / 1e9)} GB/s and {plain_number(link.latency * 1e6)} µs per message{more}; "
        "steps without overlap of communication and computation, and with full overlap:"
    ]
    for step in steps:
        guess = "" if step.is_measured else " (guess: fewer examples per device than measured)"
        text.append(
            f"  {_named(step, unit)}: {_milliseconds(step.most)} ms, "
            f"{_milliseconds(step.least)} ms with overlap; speedup {step.single / step.most:.2f}, "
            f"efficiency {100 * step.efficiency:.0f} %{guess}"
        )
    return text


def left_out_lines(batch_sizes: Iterable[int], devices: Iterable[int], *, unit: BatchUnit = EXAMPLES) -> list[str]:
    """A line for each batch size that is smaller than some of the numbers of devices."""
    too_many = {size: sorted({count for count in devices if count > size}) for size in sorted(batch_sizes)}
    return [
        f"  batch {unit.batch(size)} on {', '.join(map(str, counts))} devices: left out, fewer examples than devices"
        for size, counts in too_many.items()
        if counts
    ]


def goal_lines(
    steps: Sequence[Step],
    found: TimeToResult,
    metric: str,
    price_per_hour: float | None,
    currency: str = "$",
    part: str = "",
    *,
    unit: BatchUnit = EXAMPLES,
) -> list[str]:
    """Time and cost to the goal on several devices, the fastest and the cheapest; the price is per device."""
    on_one = {row.batch_size: row.seconds for row in found.rows_of(part)}
    times = [(step, on_devices(step, on_one[step.batch_size])) for step in steps if step.batch_size in on_one]
    if not times:
        return []
    text = [
        f"Time to {metric} {exact_number(found.goal)} on several devices{f', {part}' if part else ''}, without overlap "
        "(intervals without the error of the model):"
    ]
    for step, seconds in times:
        paid = seconds.times(step.devices)
        price = f"{shown(paid)} device-seconds"
        if price_per_hour is not None:
            price = f"{currency}{shown(cost(paid, price_per_hour))}"
        least = plain_number(seconds.value * step.least / step.most)
        text.append(f"  {_named(step, unit)}: {shown(seconds)} s, {price} ({least} s with full overlap)")
    fastest = min(times, key=lambda one: one[1].value)[0]
    cheapest = min(times, key=lambda one: one[1].value * one[0].devices)[0]
    overlapped = min(times, key=lambda one: one[1].value * one[0].least / one[0].most)[0]
    also = "" if overlapped is fastest else f" (with full overlap {_named(overlapped, unit)})"
    return [*text, f"Fastest: {_named(fastest, unit)}{also}. Cheapest: {_named(cheapest, unit)}."]


def check_lines(model: WorkerModel, *, unit: BatchUnit = EXAMPLES) -> list[str]:
    """What was fitted, then each step as predicted and as measured."""
    text = [
        f"Model against workers on this machine: link fitted to {model.sums} all-reduces "
        f"({plain_number(model.link.bandwidth / 1e9)} GB/s, {plain_number(model.link.latency * 1e6)} µs per message), "
        f"overhead fitted to steps ({_milliseconds(model.overhead)} ms per step; to predict a step, fitted to the "
        "others):"
    ]
    for step in model.steps:
        shared = f" ({step.stretch:g} processes per core)" if step.stretch > 1 else ""
        text.append(
            f"  batch {unit.batch(step.batch_size)} on {step.workers} workers{shared}: predicted "
            f"{_milliseconds(step.predicted.value)} ms, measured {_milliseconds(step.measured.value)} ms, ratio "
            f"{shown(step.ratio)}; without overhead {plain_number(step.bare_ratio.value)}"
        )
    return [*text, model_error_line(model)]


def model_error_line(model: WorkerModel | None) -> str:
    """How far the model was from measured steps; None: the link was not measured."""
    if model is None:
        return (
            "Model error: not checked on this link. docs/planning.md shows predicted / measured times of workers on "
            "one machine; a prediction without overhead is too short where steps take a few milliseconds."
        )
    ratios = [step.ratio.value for step in model.steps]
    if not model.is_checked:
        return (
            "Model error: not checked, because the overhead was fitted to the only step measured; give several "
            "--batch-sizes or --measure-workers."
        )
    return (
        f"Model error: predicted / measured was {plain_number(min(ratios))} to {plain_number(max(ratios))} for steps "
        "that had no part in the fit of the overhead."
    )


def _counted(devices: int) -> str:
    return f"{devices} device{'s' if devices > 1 else ''}"


def _named(step: Step, unit: BatchUnit) -> str:
    return f"batch {unit.batch(step.batch_size)} on {_counted(step.devices)}"


def _milliseconds(seconds: float) -> str:
    return plain_number(1000 * seconds)
