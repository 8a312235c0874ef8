"""Data-parallel steps against closed forms: all-reduce, its fit, interpolated computing, bounds, time and cost."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import law

from analysis.data.load import load_sweep
from analysis.questions.data_parallel import (
    Link,
    StepTime,
    check_lines,
    data_parallel_steps,
    fit_link,
    goal_lines,
    gradient_bytes_of_rows,
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


def test_time_and_cost_to_a_goal() -> None:
    """As in test_steps_by_hand, with 1 ms of latency: T(64, N) = 12, 14, 18 ms, with overlap 12, 8, 12 ms."""
    throughput = of_line(4e-3, 1.25e-4, (16, 32, 64))
    steps = data_parallel_steps(throughput, 4e6, Link(1e-3, 1e9), [64], [1, 2, 4])
    on_one = Mean(3600.0, Interval(1800.0, 7200.0), 5, 5)
    assert on_devices(steps[1], on_one) == Mean(3600 * 14 / 12, Interval(1800 * 14 / 12, 7200 * 14 / 12), 5, 5)
    text = goal_lines(steps, TimeToResult(0.1, (row(64, on_one),), 64), "test loss", 3.0)
    assert text[2] == "  batch 64 on 2 devices: 4200 (2100 to 8400) s, $7 (3.5 to 14) (2400 s with full overlap)"
    assert text[-1] == (
        "Fastest: batch 64 on 1 device (with full overlap batch 64 on 2 devices). Cheapest: batch 64 on 1 device."
    )
    plain = goal_lines(steps, TimeToResult(0.1, (row(64, on_one),), 64), "test loss", None)
    assert "8400 (4200 to 16800) device-seconds" in plain[2]
    assert goal_lines(steps, TimeToResult(0.1, (row(16, on_one),), 16), "test loss", None) == []


def test_check_of_a_model_that_is_right() -> None:
    """Two processes on each core: all work takes twice as long, and the ratio is 1 for all replicates."""
    link, size = Link(1e-4, 1e9), 4e6
    measured = pd.DataFrame(
        {
            "workers": 4,
            "batch_size": 64,
            "replicate": [0, 1, 2],
            "alone": [1e-3, 2e-3, 3e-3],
            "stretch": 2.0,
            "seconds": 2 * (np.array([1e-3, 2e-3, 3e-3]) + link.all_reduce(4, size)),
        }
    )
    text = check_lines(measured, all_reduces(link), size)
    assert text[0].endswith("link fitted to 6 all-reduces: 1 GB/s, 100 µs per message")
    assert text[1].startswith(
        "  batch 64 on 4 workers (2 processes per core): predicted 17.1 ms, measured 17.1 ms, ratio 1"
    )


def test_gradient_of_a_sweep(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(law()))
    sweep.trials["parameters"], sweep.trials["frozen_parameters"] = 1000, 200
    assert gradient_bytes_of_rows(sweep) == 3200
    sweep.trials.loc[sweep.trials.index[0], "parameters"] = 2200
    with pytest.raises(UserError, match=r"`--sweep` must have one network, .* 800 and 2,000 parameters"):
        gradient_bytes_of_rows(sweep)
