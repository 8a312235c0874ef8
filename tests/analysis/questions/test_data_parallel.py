"""Data-parallel steps against closed forms: all-reduce, its fit, interpolated computing, bounds, time and cost."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import law

from analysis.data.batch_unit import BatchUnit
from analysis.data.load import load_sweep
from analysis.questions.data_parallel import (
    Link,
    StepTime,
    check_lines,
    data_parallel_steps,
    fit_link,
    fit_model,
    goal_lines,
    gradient_bytes_of_rows,
    model_error_line,
    on_devices,
    step_lines,
)
from analysis.questions.time_to_result import TimeAtBatch, TimeToResult
from analysis.stats.means import Interval, Mean
from trainables.runtime.errors import UserError


def exactly(value: float) -> Mean:
    return Mean(value, None, 1, 1)


def of_line(fixed: float, per_example: float, sizes: tuple[int, ...]) -> dict[int, Mean]:
    """Throughput of c(b) = fixed + per_example b."""
    return {size: exactly(size / (fixed + per_example * size)) for size in sizes}


def all_reduces(link: Link, noise: float = 0.0, stretch: float = 1.0) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "workers": workers,
                "bytes": size,
                "stretch": stretch,
                "seconds": stretch * link.all_reduce(workers, size) * np.exp(noise * random.standard_normal()),
            }
            for workers in (2, 4)
            for size in (1e4, 1e5, 1e6)
            for _ in range(50 if noise else 1)
        ]
    )


def test_ring_by_hand() -> None:
    """Four devices, 8 MB, 1 GB/s, 1 ms: six messages of 2 MB, 6 (1 ms + 2 ms) = 18 ms. One device sends nothing."""
    link = Link(latency=1e-3, bandwidth=1e9)
    assert link.all_reduce(4, 8e6) == pytest.approx(18e-3, rel=1e-12)
    assert link.all_reduce(1, 8e6) == 0
    assert link.all_reduce(10**6, 8e6) == pytest.approx(2 * (10**6 - 1) * 1e-3 + 16e-3, rel=1e-5)  # 2 bytes / bandwidth


@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_exact_times_give_the_link_back(stretch: float) -> None:
    link = Link(latency=3e-5, bandwidth=2e9)
    found = fit_link(all_reduces(link, stretch=stretch))
    assert [found.latency, found.bandwidth] == pytest.approx([3e-5, 2e9], rel=1e-9)


def test_noisy_times_give_about_the_link() -> None:
    """300 times with 5 % noise, two parameters: each is known to about 1 %, and relative least squares is biased by
    0.25 %."""
    found = fit_link(all_reduces(Link(3e-5, 2e9), noise=0.05))
    assert [found.latency, found.bandwidth] == pytest.approx([3e-5, 2e9], rel=0.04)


def test_no_bandwidth_in_times_that_do_not_grow() -> None:
    times = all_reduces(Link(3e-5, 2e9))
    times["seconds"] = 1e-4 * (times["workers"] - 1) * (1 - 1e-7 * times["bytes"])
    with pytest.raises(UserError, match="found no bandwidth"):
        fit_link(times)


def test_step_time_is_exact_on_a_line() -> None:
    time = StepTime(of_line(2e-3, 1e-5, (16, 64, 256)))
    for size in (1, 8, 16, 20, 64, 200, 256):
        assert time(size) == pytest.approx(2e-3 + 1e-5 * size, rel=1e-12)
    assert [time.is_measured(size) for size in (8, 16, 256, 512)] == [False, True, True, False]


def test_step_time_below_the_smallest_stays_possible() -> None:
    """Where larger batches take less time than smaller ones it is constant, where much more, proportional."""
    assert StepTime({16: exactly(16 / 2.0), 64: exactly(64 / 1.0)})(4) == pytest.approx(2.0)
    assert StepTime({16: exactly(16 / 1.0), 64: exactly(64 / 9.0)})(4) == pytest.approx(0.25)
    assert StepTime({16: exactly(16 / 1.0)})(4) == pytest.approx(0.25)
    assert StepTime({16: exactly(16 / 1.0)})(32) == pytest.approx(2.0)


def test_steps_by_hand() -> None:
    """c(b) = 4 ms + b / 8 ms; 4 MB at 1 GB/s without latency: a(2) = 4 ms, a(4) = 6 ms."""
    throughput = of_line(4e-3, 1.25e-4, (16, 32, 64))
    steps = data_parallel_steps(throughput, 4e6, Link(0.0, 1e9), [64], [4, 1, 2, 128])
    assert [step.devices for step in steps] == [1, 2, 4]  # 128 devices would have no example each
    assert [step.most for step in steps] == pytest.approx([12e-3, 8e-3 + 4e-3, 6e-3 + 6e-3], rel=1e-12)
    assert [step.least for step in steps] == pytest.approx([12e-3, 8e-3, 6e-3], rel=1e-12)
    assert [step.efficiency for step in steps] == pytest.approx([1.0, 0.5, 0.25], rel=1e-12)
    assert step_lines(steps, 4e6, Link(0.0, 1e9))[2] == (
        "  batch 64 on 2 devices: 12 ms, 8 ms with overlap; speedup 1.00, efficiency 50 %"
    )
    in_tokens = step_lines(steps, 4e6, Link(0.0, 1e9), unit=BatchUnit(32))[2]
    assert in_tokens.startswith("  batch 64 (2048 tokens) on 2 devices: 12 ms, ")


def test_the_largest_share_decides() -> None:
    """Ten examples on four devices are 3, 3, 2 and 2: the step waits for three."""
    (step,) = data_parallel_steps(of_line(0.0, 1.0, (1, 10)), 4.0, Link(0.0, 1e9), [10], [4])
    assert step.computing == pytest.approx(3.0)


def test_free_communication_scales_perfectly() -> None:
    steps = data_parallel_steps(of_line(0.0, 1e-3, (1, 64)), 4e6, Link(0.0, 1e30), [64], [1, 2, 4, 64])
    assert [step.efficiency for step in steps] == pytest.approx([1.0] * 4, rel=1e-12)


def test_more_devices_than_examples() -> None:
    with pytest.raises(UserError, match="`--devices` must be no more than the largest batch"):
        data_parallel_steps(of_line(0.0, 1.0, (16, 64)), 4.0, Link(0.0, 1.0), [16, 64], [65])


def row(batch_size: int, seconds: Mean) -> TimeAtBatch:
    return TimeAtBatch(batch_size, "", exactly(1.0), exactly(1.0), seconds, None, True)


def to_result(only: TimeAtBatch) -> TimeToResult:
    return TimeToResult(0.1, (only,), only, {}, {})


def test_time_and_cost_to_a_goal() -> None:
    """As in test_steps_by_hand, with 1 ms of latency: T(64, N) = 12, 14, 18 ms, with overlap 12, 8, 12 ms."""
    throughput = of_line(4e-3, 1.25e-4, (16, 32, 64))
    steps = data_parallel_steps(throughput, 4e6, Link(1e-3, 1e9), [64], [1, 2, 4])
    on_one = Mean(3600.0, Interval(1800.0, 7200.0), 5, 5)
    assert on_devices(steps[1], on_one) == Mean(3600 * 14 / 12, Interval(1800 * 14 / 12, 7200 * 14 / 12), 5, 5)
    text = goal_lines(steps, to_result(row(64, on_one)), "test loss", 3.0)
    assert text[2] == "  batch 64 on 2 devices: 4200 (2100 to 8400) s, $7 (3.5 to 14) (2400 s with full overlap)"
    assert text[-1] == (
        "Fastest: batch 64 on 1 device (with full overlap batch 64 on 2 devices). Cheapest: batch 64 on 1 device."
    )
    in_tokens = goal_lines(steps, to_result(row(64, on_one)), "test loss", 3.0, unit=BatchUnit(32))
    assert in_tokens[-1].endswith("Cheapest: batch 64 (2048 tokens) on 1 device.")
    plain = goal_lines(steps, to_result(row(64, on_one)), "test loss", None)
    assert "8400 (4200 to 16800) device-seconds" in plain[2]
    assert goal_lines(steps, to_result(row(16, on_one)), "test loss", None) == []


def measured(link: Link, size: float, overhead: dict[tuple[int, int], float]) -> pd.DataFrame:
    """Steps with a known overhead by (workers, batch size); with four workers two processes share a core."""
    return pd.DataFrame(
        [
            {
                "workers": workers,
                "batch_size": batch_size,
                "replicate": replicate,
                "alone": alone,
                "stretch": stretch,
                "seconds": stretch * (alone + link.all_reduce(workers, size) + seconds),
            }
            for (workers, batch_size), seconds in overhead.items()
            for replicate, alone in enumerate(batch_size / workers * np.array([1e-5, 2e-5, 3e-5]))
            for stretch in [workers / 2]
        ]
    )


FOUR = [(2, 64), (2, 256), (4, 64), (4, 256)]
LINK, SIZE = Link(1e-4, 1e9), 4e6


def test_a_constant_overhead_is_recovered_and_predicts_the_other_steps() -> None:
    """All work of a step takes twice as long with two processes on each core, the overhead too."""
    model = fit_model(measured(LINK, SIZE, dict.fromkeys(FOUR, 2.3e-3)), all_reduces(LINK), SIZE)
    assert model.overhead == pytest.approx(2.3e-3, rel=1e-9)
    assert [step.ratio.value for step in model.steps] == pytest.approx([1.0] * 4, rel=1e-9)
    assert [(step.workers, step.batch_size) for step in model.steps] == FOUR
    # The first, by hand: about 0.6 ms of computing, 4.2 ms of communication, 2.3 ms of overhead.
    assert model.steps[0].measured.value == pytest.approx(7.1e-3, rel=5e-3)
    assert model.steps[0].bare_ratio.value == pytest.approx(4.8 / 7.1, rel=5e-3)
    text = check_lines(model)
    assert "(1 GB/s, 100 µs per message), overhead fitted to steps (2.3 ms per step;" in text[0]
    assert text[3].startswith("  batch 64 on 4 workers (2 processes per core): predicted 18.4 ms, measured 18.4 ms")
    assert text[-1] == (
        "Model error: predicted / measured was 1 to 1 for steps that had no part in the fit of the overhead."
    )


def test_noisy_steps_give_about_the_overhead() -> None:
    """21 steps of each kind, 7 to 20 ms long, with 5 % noise: the constant of 2.3 ms has an error of about 0.05 ms."""
    steps = measured(LINK, SIZE, dict.fromkeys(FOUR, 2.3e-3))
    steps = pd.concat([steps] * 7, ignore_index=True).assign(replicate=lambda frame: range(len(frame)))
    steps["seconds"] *= np.exp(0.05 * np.random.default_rng(0).standard_normal(len(steps)))
    model = fit_model(steps, all_reduces(LINK), SIZE)
    assert model.overhead == pytest.approx(2.3e-3, abs=0.25e-3)


def test_no_step_has_a_part_in_its_own_prediction() -> None:
    """One step has ten times the overhead of the others: its own prediction shows that, with the overhead of others."""
    model = fit_model(measured(LINK, SIZE, dict.fromkeys(FOUR, 2e-3) | {(4, 256): 20e-3}), all_reduces(LINK), SIZE)
    odd = model.steps[-1]
    assert odd.measured.value - odd.predicted.value == pytest.approx(2 * 18e-3, rel=1e-3)
    assert all(step.ratio.value > 1 for step in model.steps[:-1])


def test_one_step_is_fitted_but_not_checked() -> None:
    model = fit_model(measured(LINK, SIZE, {(2, 64): 2e-3}), all_reduces(LINK), SIZE)
    assert model.overhead == pytest.approx(2e-3, rel=1e-9)
    assert model.steps[0].ratio == model.steps[0].bare_ratio
    assert "not checked, because the overhead was fitted to the only step" in model_error_line(model)
    assert model_error_line(None).startswith("Model error: not checked on this link.")


def test_steps_faster_than_the_model_have_no_negative_overhead() -> None:
    model = fit_model(measured(LINK, SIZE, dict.fromkeys(FOUR, -1e-4)), all_reduces(LINK), SIZE)
    assert model.overhead == 0


def test_overhead_is_of_several_devices_alone() -> None:
    """As in test_steps_by_hand with 2 ms more: T(64, N) = 12, 14, 14 ms, with full overlap 12, 10, 8 ms."""
    throughput = of_line(4e-3, 1.25e-4, (16, 32, 64))
    steps = data_parallel_steps(throughput, 4e6, Link(0.0, 1e9), [64], [1, 2, 4], overhead=2e-3)
    assert [step.most for step in steps] == pytest.approx([12e-3, 14e-3, 14e-3], rel=1e-12)
    assert [step.least for step in steps] == pytest.approx([12e-3, 10e-3, 8e-3], rel=1e-12)
    assert "µs per message, 2 ms of overhead per step;" in step_lines(steps, 4e6, Link(0.0, 1e9), "muon")[0]


def test_gradient_of_a_sweep(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(law()))
    sweep.trials["parameters"], sweep.trials["frozen_parameters"] = 1000, 200
    assert gradient_bytes_of_rows(sweep) == 3200
    sweep.trials.loc[sweep.trials.index[0], "parameters"] = 2200
    with pytest.raises(UserError, match=r"`--sweep` must have one network, .* 800 and 2,000 parameters"):
        gradient_bytes_of_rows(sweep)
