"""Time to a goal: by hand, and its intervals and claims on runs of known truth."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import law
from narrow import not_none
from numpy.typing import NDArray

from analysis.charts.time_to_result import time_to_result_figure
from analysis.data.load import Sweep, load_sweep
from analysis.questions.data_parallel import gradient_bytes_of_rows
from analysis.questions.steps_to_result import StepsAtBatch, StepsToResult
from analysis.questions.sweep_parts import Part, sweep_parts
from analysis.questions.time_to_result import (
    TimeToResult,
    cost,
    lines,
    throughput_lines,
    throughput_of_passes,
    throughput_of_rows,
    time_to_result,
)
from analysis.stats.fixed_order import Boundary
from analysis.stats.means import Interval, Mean, mean_over_replicates, student_t
from trainables.runtime.errors import UserError


def geometric(values: Sequence[float] | NDArray[np.float64]) -> Mean:
    frame = pd.DataFrame({"replicate": range(len(values)), "value": values})
    found = mean_over_replicates(frame, "value", scale="log")
    assert found is not None
    return found


def alone(found: StepsToResult, throughput: dict[int, Mean]) -> TimeToResult:
    """Of a sweep with one part."""
    return time_to_result(found.goal, {"": found}, {"": throughput})


def steps(examples: dict[int, Mean]) -> StepsToResult:
    rows = [StepsAtBatch(size, "", mean, mean, None, 1, 1, False) for size, mean in examples.items()]
    return StepsToResult(0.1, tuple(rows), None, Boundary(None, None, None))


def test_one_replicate_by_hand() -> None:
    examples = {16: geometric([1000.0]), 64: geometric([1500.0]), 256: geometric([6000.0])}
    throughput = {16: geometric([500.0]), 64: geometric([1500.0]), 256: geometric([2000.0])}
    found = alone(steps(examples), throughput)
    assert [row.seconds.value for row in found.rows] == pytest.approx([2.0, 1.0, 3.0], rel=1e-12)
    assert [row.on_front for row in found.rows] == [True, True, False]
    assert found.fastest.batch_size == 64
    assert cost(found.rows[0].seconds, 3600.0).value == pytest.approx(2.0, rel=1e-12)
    text = lines(found, "test loss", 3600.0)
    assert text[1] == "  batch 16: 2 s, $2, 1000 examples at 500 examples/s"
    assert text[-2:] == [
        "Fastest and cheapest: batch 64; which others are slower is unknown without replicates that differ.",
        "Pareto front of time and examples: 16, 64.",
    ]


def test_equal_errors_on_both_sides_add_in_squares() -> None:
    """With n and n replicates of equal spread, Welch's degrees of freedom are 2 (n - 1), and the error sqrt(2) s."""
    spread = np.exp([-0.1, 0.0, 0.1])
    found = alone(steps({16: geometric(100 * spread)}), {16: geometric(10 * spread)})
    interval = found.rows[0].seconds.interval
    assert interval is not None
    half = 2.7764451051977987 * 0.1 * (2 / 3) ** 0.5  # t(0.975, 4)
    assert np.log([interval.low, interval.high]) == pytest.approx(np.log(10) + np.array([-half, half]), rel=1e-9)


def test_batch_sizes_that_were_not_measured_are_left_out() -> None:
    examples = {16: geometric([1000.0]), 64: geometric([1500.0])}
    assert len(alone(steps(examples), {64: geometric([10.0])}).rows) == 1
    with pytest.raises(UserError, match=r"`--batch-sizes` must hold one that reaches the goal \(16, 64\)"):
        alone(steps(examples), {8: geometric([10.0])})


@pytest.mark.slow
def test_intervals_and_claims_hold() -> None:
    """Two batch sizes with the same true time: the interval holds it in 95 %, and neither is called slower in 95 %."""
    random, held, slower, runs = np.random.default_rng(0), 0, 0, 1500
    for _ in range(runs):
        examples = {size: geometric(1000 * np.exp(0.2 * random.standard_normal(5))) for size in (16, 64)}
        speed = {size: geometric(100 * np.exp(0.1 * random.standard_normal(4))) for size in (16, 64)}
        found = alone(steps(examples), speed)
        held += not_none(found.rows[0].seconds.interval).holds(10.0)
        slower += any(row.slower for row in found.rows)
    assert held / runs > 0.95 - 4 * (0.05 * 0.95 / runs) ** 0.5
    assert slower / runs < 0.05 + 4 * (0.05 * 0.95 / runs) ** 0.5


def test_claims_hold_where_the_fastest_of_many_is_chosen() -> None:
    """Eight batch sizes with the same true time: in 95 % none is called slower than the one that happens to be fastest.

    With the seven others alone counted it was 88 %.
    """
    random, slower, runs, sizes = np.random.default_rng(1), 0, 300, [2**k for k in range(8)]

    def drawn(spread: float, replicates: int) -> Mean:
        logs = spread * random.standard_normal(replicates)
        half = student_t(0.975, replicates) * float(np.std(logs, ddof=1)) / replicates**0.5
        ends = np.exp(logs.mean() + np.array([-half, half]))
        return Mean(float(np.exp(logs.mean())), Interval(float(ends[0]), float(ends[1])), replicates, replicates)

    for _ in range(runs):
        found = alone(steps({size: drawn(0.2, 8) for size in sizes}), {size: drawn(0.1, 5) for size in sizes})
        slower += any(row.slower for row in found.rows)
    assert slower / runs < 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


def test_bounds_and_batch_sizes_that_are_left_out_are_said() -> None:
    rows = [
        StepsAtBatch(16, "", geometric([10.0]), geometric([1000.0]), None, 1, 1, True),
        StepsAtBatch(64, "", geometric([10.0]), geometric([1000.0]), None, 1, 1, False),
        StepsAtBatch(256, "", None, None, None, 0, 1, False),
    ]
    found = alone(StepsToResult(0.1, tuple(rows), None, Boundary(None, None, None)), {16: geometric([500.0])})
    text = lines(found, "test loss", None)
    assert text[1].endswith("(an upper bound: at the goal when first evaluated)")
    assert text[2:4] == ["  batch 256: left out, the goal is not reached", "  batch 64: left out, no throughput"]


def test_the_figure_marks_upper_bounds() -> None:
    """Batch 16 is one. It has a triangle in both panels, and batch 64 a circle."""
    found = steps({16: geometric([1000.0]), 64: geometric([1500.0])})
    bounded = dataclasses.replace(found, rows=(dataclasses.replace(found.rows[0], is_bound=True), found.rows[1]))
    throughput = {size: geometric([500.0]) for size in (16, 64)}
    for one, marked in ((found, []), (bounded, [(16, 2.0), (1000, 2.0)])):
        figure = time_to_result_figure([alone(one, throughput)], "test loss")
        drawn = [line for axes in figure.axes for line in axes.lines]
        shown = {line.get_marker(): line for line in figure.axes[0].lines}
        triangles = [np.asarray(line.get_xydata())[0] for line in drawn if line.get_marker() == "v"]
        assert np.array(triangles) == pytest.approx(np.array(marked))
        assert shown["o"].get_markevery() == ([1] if marked else [0, 1])
        assert ("Triangles: upper bounds" in figure.get_supxlabel()) == bool(marked)


def test_an_upper_bound_is_not_shown_to_be_slower_or_off_the_front() -> None:
    throughput = {size: geometric([500.0, 505.0]) for size in (16, 64)}
    found = steps({16: geometric([1000.0, 1010.0]), 64: geometric([9000.0, 9010.0])})
    bounded = dataclasses.replace(found, rows=(found.rows[0], dataclasses.replace(found.rows[1], is_bound=True)))
    assert [row.slower for row in alone(found, throughput).rows] == [None, True]
    assert [row.slower for row in alone(bounded, throughput).rows] == [None, False]
    assert [
        lines(alone(one, throughput), "loss", None)[2].count("not on the Pareto front") for one in (found, bounded)
    ] == [1, 0]


def parts_of(sweep: Sweep) -> Sequence[Part]:
    return sweep_parts(sweep, [1e-3], "train_loss", "lower").parts


def test_trials_of_several_workers_are_no_measure_of_one_device(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(law()))
    sweep.trials["workers"], sweep.trials["parameters"] = 2, 1000
    assert sorted(throughput_of_rows(sweep, parts_of(sweep))[""]) == [8, 32, 128, 512]
    with pytest.raises(UserError, match="needs the throughput of one device, but trials of the sweep had 2 workers"):
        gradient_bytes_of_rows(sweep)
    mixed = load_sweep(write_sweep(law(), "mixed"))
    mixed.trials["workers"] = [1, 1, 1, 2]
    with pytest.raises(UserError, match="must hold trials with the same number of workers, got 1 and 2"):
        throughput_of_rows(mixed, parts_of(mixed))
    devices = load_sweep(write_sweep(law(), "devices"))
    devices.trials["device"] = ["cpu", "cpu", "cpu", "NVIDIA H200"]
    with pytest.raises(UserError, match="must hold trials on one kind of device, got NVIDIA H200 and cpu"):
        throughput_of_rows(devices, parts_of(devices))


def test_from_a_sweep(write_sweep: Callable[..., Path]) -> None:
    """S = 50 (1 + 100 / B) times the factor of the seed, in whole epochs of 512 examples, each trial in 1 s."""
    factors = np.array([0.9, 1.0, 1.1])
    sweep = load_sweep(write_sweep(law(factors=factors.tolist())))
    parts = parts_of(sweep)
    throughput = throughput_of_rows(sweep, parts)
    speed = throughput[""]
    assert sorted(speed) == [8, 32, 128, 512]
    for size, mean in speed.items():
        epochs = np.ceil(50 * (1 + 100 / size) * size / 512 * factors - 1e-9)
        assert mean.value == pytest.approx(512 * np.exp(np.log(epochs).mean()), rel=1e-9)
    found = time_to_result(1e-3, {"": parts[0].steps[1e-3]}, throughput)
    expected = [row.examples.value / speed[row.batch_size].value for row in found.rows]
    assert [row.seconds.value for row in found.rows] == pytest.approx(expected, rel=1e-12)
    assert found.fastest == found.rows[int(np.argmin(expected))]
    assert len(time_to_result_figure([found], "train loss", 1.0).axes) == 2


def test_throughput_of_repeats() -> None:
    passes = pd.DataFrame(
        {"batch_size": [16, 16, 64, 64], "replicate": [0, 1, 0, 1], "throughput": [1.0, 4.0, 9.0, 9.0]}
    )
    found = throughput_of_passes(passes)
    assert {size: mean.value for size, mean in found.items()} == pytest.approx({16: 2.0, 64: 9.0})
    assert throughput_lines({"": found})[2] == "  batch 64: 9"


def test_the_fastest_of_several_parts_is_the_one_with_the_fewest_seconds() -> None:
    """Muon needs fewer examples than SGD at a quarter of its throughput, so SGD is faster. LBFGS reaches the goal
    nowhere."""
    sgd, muon = {16: geometric([1000.0]), 64: geometric([1200.0])}, {16: geometric([500.0]), 64: geometric([900.0])}
    speed = {16: geometric([400.0]), 64: geometric([1200.0])}
    throughput = {"sgd": speed, "muon": {size: mean.times(0.25) for size, mean in speed.items()}, "lbfgs": {}}
    found = time_to_result(0.1, {"sgd": steps(sgd), "muon": steps(muon), "lbfgs": None}, throughput)
    assert [row.seconds.value for row in found.rows] == pytest.approx([2.5, 1.0, 5.0, 3.0])
    assert (found.fastest.part, found.fastest.batch_size) == ("sgd", 64)
    text = lines(found, "test loss", None)
    assert text[3] == "  muon, batch 16: 5 s, 500 examples at 100 examples/s"
    assert text[5:] == [
        "  lbfgs: left out, the goal is not reached",
        "Fastest: sgd, batch 64; which others are slower is unknown without replicates that differ.",
        "Pareto front of time and examples: sgd batch 16, sgd batch 64, muon batch 16, muon batch 64.",
    ]
    labels = [text.get_text() for text in time_to_result_figure([found], "test_loss").legends[0].get_texts()]
    assert labels == ["sgd", "muon"]
