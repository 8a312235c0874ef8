"""The verdict between optimizers: exact on chosen numbers, and rarely wrong by simulation."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.data.batch_unit import EXAMPLES
from analysis.questions.optimizer_ladder import Fewest, LadderAtGoal, RungAtGoal, fewest_steps
from analysis.questions.steps_to_result import StepsAtBatch, StepsToResult
from analysis.reporting.optimizer_ladder import _sentence
from analysis.stats.fixed_order import Boundary
from analysis.stats.means import Mean


def judged(steps: dict[int, list[float]]) -> pd.DataFrame:
    """Runs of one optimizer: the steps of replicates 0, 1, ... at each batch size."""
    rows = [(size, replicate, value) for size, values in steps.items() for replicate, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["batch_size", "replicate", "steps"]).assign(matched_set=0, is_bound=False)


def test_the_ratio_is_paired_by_seed_and_corrected_for_all_pairs() -> None:
    """At batch 64, the largest that two have: log 2 + (0.1, 0, -0.1) of the same seeds; three pairs of optimizers."""
    fast = [10.0, 20.0, 40.0]
    slow = [2 * value * math.exp(extra) for value, extra in zip(fast, (0.1, 0.0, -0.1), strict=True)]
    found = fewest_steps(
        {
            "slow": judged({8: [1.0, 1.0, 1.0], 64: slow}),
            "fast": judged({8: [9.0, 9.0, 9.0], 64: fast}),
            "same": judged({64: fast, 256: [3.0, 3.0, 3.0]}),
        }
    )
    assert found is not None
    assert (found.batch_size, found.name) == (64, "fast")
    assert found.steps.value == pytest.approx(20.0)
    (slower, ratio), (same, one) = found.ratios
    assert (slower, same) == ("slow", "same")
    half = stats.t.ppf(1 - 0.025 / 3, 2) * 0.1 / math.sqrt(3)
    assert ratio.value == pytest.approx(2.0)
    assert ratio.interval is not None
    assert (ratio.interval.low, ratio.interval.high) == pytest.approx((2 * math.exp(-half), 2 * math.exp(half)))
    assert one.value == 1.0
    assert fewest_steps({"alone": judged({8: fast, 64: fast})}) is None
    assert fewest_steps({"small": judged({8: fast}), "large": judged({64: fast})}) is None


def test_steps_that_are_upper_bounds_do_not_show_that_an_optimizer_needs_more() -> None:
    fast, slow = judged({64: [10.0, 11.0, 12.0]}), judged({64: [99.0, 100.0, 101.0]})
    for is_bound in (False, True):
        found = fewest_steps({"fast": fast, "slow": slow.assign(is_bound=is_bound)})
        assert found is not None
        ((_, ratio),) = found.ratios
        assert ratio.interval is not None
        assert (ratio.interval.low > 1) != is_bound


def rung(name: str, steps: dict[int, float | None]) -> RungAtGoal:
    """An optimizer with the steps at each batch size; None where it does not reach the goal."""
    means = {size: None if value is None else Mean(value, None, 1, 1) for size, value in steps.items()}
    rows = tuple(StepsAtBatch(size, "", mean, mean, None, 1, 1, False) for size, mean in means.items())
    found = StepsToResult(0.5, rows, None, Boundary(None, None, None))
    tuned: Any = SimpleNamespace(found=found if any(steps.values()) else None)
    return RungAtGoal(name, tuned, {size: {} for size in steps}, {}, {})


def test_the_sentence_names_those_that_do_not_get_there() -> None:
    rungs = (
        rung("fast", {8: 5.0, 64: 2.0, 256: 1.0}),
        rung("slow", {8: 9.0, 64: 4.0, 256: None}),
        rung("late", {8: 9.0, 64: None, 256: None}),
        rung("never", {8: None, 64: None, 256: None}),
    )
    ratios = [("slow", Mean(2.0, None, 1, 1))]
    said = _sentence(
        LadderAtGoal(0.5, rungs, None, Fewest(64, "fast", Mean(2.0, None, 1, 1), tuple(ratios))), "0.5", EXAMPLES
    )
    assert said == (
        "At batch 64, fast needs the fewest steps to 0.5: 2. slow takes 2 times as many (no interval: one replicate). "
        "Not reached there in every replicate: late, never. Larger batches that one optimizer alone reaches it with: "
        "batch 256 (fast)."
    )
    agreed = Mean(2.0, None, 3, 3)
    said = _sentence(
        LadderAtGoal(0.5, rungs[:1], None, Fewest(256, "fast", agreed, (("slow", agreed),))), "0.5", EXAMPLES
    )
    assert said.endswith("slow takes 2 times as many (no interval: all replicates agree exactly).")


@pytest.mark.slow
def test_equal_optimizers_are_rarely_said_to_differ() -> None:
    """Four optimizers, five seeds whose luck is shared in part; a wrong "needs more" in at most 5 % of sweeps, within
    three standard errors of the simulation."""
    draws, sweeps, wrong = np.random.default_rng(0), 600, 0
    for _ in range(sweeps):
        luck = draws.normal(0, 0.3, 5)
        frames = {name: judged({8: list(np.exp(3 + luck + draws.normal(0, 0.2, 5)))}) for name in "abcd"}
        found = fewest_steps(frames)
        assert found is not None
        wrong += any(ratio.interval is not None and ratio.interval.low > 1 for _, ratio in found.ratios)
    assert wrong / sweeps <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / sweeps)
