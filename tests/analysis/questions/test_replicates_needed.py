"""The planner on made-up pilots, by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from made_up import judged_by, record
from narrow import not_none

from analysis.data.batch_unit import BatchUnit
from analysis.data.load import Sweep, load_sweep
from analysis.questions.replicates_needed import free_up_to, replicates_needed
from analysis.stats.power import cap_for, power, replicates_for, replicates_for_all
from sweeps.studies.planning import plan_lines
from trainables.runtime.errors import UserError
from trainables.runtime.text import duration

LOST = [0.001, 0.003, -0.001, 0.005]  # mean 0.002


def pilot(
    write_sweep: Callable[..., Path], lost: Sequence[float], rates: Sequence[float] = (0.01,), name: str = "pilot"
) -> Sweep:
    records = [
        record(0.9 - (loss if size == 64 else 0.0), batch_size=size, learning_rate=rate, seed=seed, split_seed=seed)
        for seed, loss in enumerate(lost)
        for rate in rates
        for size in (16, 64)
    ]
    return load_sweep(write_sweep(records, name))


def test_by_hand(write_sweep: Callable[..., Path]) -> None:
    found = replicates_needed(pilot(write_sweep, LOST), 0.8, 4)
    (row,) = found.rows
    sigma = np.std(LOST, ddof=1)
    assert (found.margin, found.reference, row.batch_size) == (0.005, 16, 64)
    assert row.deviation == pytest.approx(sigma, rel=1e-9)
    assert row.safe_deviation == pytest.approx(1.7275872940849268 * sigma, rel=1e-9)
    assert row.if_nothing.plug_in == replicates_for(float(0.005 / sigma), 0.8)
    assert row.if_nothing.safe == replicates_for(0.005 / row.safe_deviation, 0.8)
    assert row.if_nothing.safe_cap == cap_for(0.005 / row.safe_deviation, 0.8, 4)
    assert row.as_observed.plug_in == replicates_for(float(0.003 / sigma), 0.8)
    count = not_none(row.if_nothing.plug_in)
    assert power(count - 1, float(0.005 / sigma)) < 0.8 <= power(count, float(0.005 / sigma))


def test_a_loss_above_the_margin_is_planned_to_be_shown(write_sweep: Callable[..., Path]) -> None:
    found = replicates_needed(pilot(write_sweep, [0.01 + lost for lost in LOST]), 0.8, 4)
    sigma = np.std(LOST, ddof=1)
    assert found.rows[0].as_observed.plug_in == replicates_for(float(0.007 / sigma), 0.8)  # 0.012 - 0.005


def test_time_counts_every_setting_and_the_smallest_batch_once(write_sweep: Callable[..., Path]) -> None:
    found = replicates_needed(pilot(write_sweep, LOST, rates=(0.003, 0.01)), 0.8, 4)
    assert found.reference_seconds == pytest.approx(2 * 3.0)  # 1 s of training and 2 s of measures, two rates
    assert found.seconds({64: 10}) == pytest.approx(10 * (6.0 + 6.0))


def test_batch_sizes_that_diverged_are_told(write_sweep: Callable[..., Path]) -> None:
    """Batch 64 lost a seed, batch 256 all of them: neither can be free, and only 64 has a loss to plan by."""
    records = [
        record(
            0.9 - (LOST[seed] if size == 64 else 0.0),
            batch_size=size,
            seed=seed,
            split_seed=seed,
            row={"status": "diverged", "test_accuracy": None} if size == 256 or (size, seed) == (64, 3) else None,
        )
        for seed in range(4)
        for size in (16, 64, 256)
    ]
    records += [record(0.9 - lost, batch_size=32, seed=seed, split_seed=seed) for seed, lost in enumerate(LOST)]
    sweep = load_sweep(write_sweep(records, "diverged"))
    found = replicates_needed(sweep, 0.8, 4)
    assert [(row.batch_size, row.lost.replicates) for row in found.rows] == [(32, 4), (64, 3)]
    assert found.diverged == {64: (1, 4), 256: (4, 4)}
    said = "\n".join(plan_lines(found, sweep.metric, sweep.batch_unit, "pilot", 1))
    assert "Pilot: pilot, 3 to 4 replicates. " in said
    assert "Batch 64: 1 of 4 trials of the pilot diverged where the smallest batch completed. No number of" in said
    assert "Batch 256: 4 of 4 trials of the pilot diverged" in said


def test_pilots_that_say_too_little(write_sweep: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="two or more replicates that differ, but batch 64 has one replicate"):
        replicates_needed(pilot(write_sweep, LOST[:1], name="one"), 0.8, 4)
    alone = load_sweep(write_sweep([record(batch_size=16, seed=seed, split_seed=seed) for seed in (0, 1)], "alone"))
    with pytest.raises(UserError, match="two batch sizes"):
        replicates_needed(alone, 0.8, 4)


def test_a_batch_size_without_a_standard_deviation_is_left_out(write_sweep: Callable[..., Path]) -> None:
    """Batch 256 has one replicate; no trial of batch 64 says how long it took."""
    records = [
        record(0.9 - (LOST[seed] if size > 16 else 0.0), batch_size=size, seed=seed, split_seed=seed,
               row={"train_seconds": None} if size == 64 else {})
        for size in (16, 64, 256) for seed in range(1 if size == 256 else 4)
    ]  # fmt: skip
    sweep = load_sweep(write_sweep(records))
    found = replicates_needed(sweep, 0.8, 4)
    assert [row.batch_size for row in found.rows] == [64]
    assert found.seconds({64: 10}) is None
    said = "\n".join(plan_lines(found, sweep.metric, sweep.batch_unit, "pilot", 1))
    assert "Batch 256 is left out: it has one replicate in the pilot, so its standard deviation is unknown." in said
    assert "unknown" in said.split("\n")[3]
    assert "about" not in said


def test_a_metric_without_a_margin_is_named(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(judged_by(Path(str(pilot(write_sweep, LOST).folder)), "mse", "", 1.0, -1.0))
    with pytest.raises(UserError, match="`--margin` must be given: MSE has no default"):
        replicates_needed(sweep, 0.8, 4)
    equal = [record(batch_size=size, seed=seed, split_seed=seed) for size in (16, 64) for seed in (0, 1)]
    exact = load_sweep(judged_by(write_sweep(equal, "equal"), "mse", "", 1.0, -1.0), margin=0.1)
    with pytest.raises(UserError, match="that differ, but batch 64 has replicates that agree exactly"):
        replicates_needed(exact, 0.8, 4)


def test_free_up_to_needs_the_smaller_batch_sizes_too(write_sweep: Callable[..., Path]) -> None:
    """Batch 32 and 64 have the same losses, so each alone just has the power that is asked for, and both less."""
    records = [
        record(0.9 - (LOST[seed] if size > 16 else 0.0), batch_size=size, seed=seed, split_seed=seed)
        for seed in range(4)
        for size in (16, 32, 64)
    ]
    sweep = load_sweep(write_sweep(records))
    plan = replicates_needed(sweep, 0.8, 4)
    claim = not_none(free_up_to(plan))
    effect, count = 0.005 / plan.rows[0].safe_deviation, not_none(plan.rows[0].if_nothing.safe)
    assert (claim.batch_sizes, claim.replicates) == ((32, 64), count)
    assert claim.power == pytest.approx(1 - 2 * (1 - power(count, effect)), abs=1e-9)
    assert claim.needed == replicates_for_all([effect, effect], 0.8) == replicates_for(effect, 0.9)
    said = plan_lines(plan, sweep.metric, sweep.batch_unit, "pilot", 1)
    assert (
        'The power is for each batch size on its own. "Free up to batch 64" also needs batch 32 to be free: with '
        f"{count} replicates its power is at least {int(100 * claim.power)} % (Bonferroni); 80 % needs {claim.needed} "
        "replicates."
    ) in said
    in_tokens = "\n".join(plan_lines(plan, sweep.metric, BatchUnit(32), "pilot", 1))
    assert '"Free up to batch 64 (2048 tokens)" also needs batch 32 (1024 tokens) to be free' in in_tokens
    assert "\n32 (1024 tokens) " in in_tokens
    both = f"To test all of them: {count} replicates, about {duration(count * 3 * 3.0)}. "  # three sizes, 3 s a trial
    assert any(line.startswith(both) for line in said)


@pytest.mark.parametrize("margin", [0.01, 2.0])
def test_what_to_run_next_has_the_margin_and_the_batch_sizes_of_the_plan(
    write_sweep: Callable[..., Path], margin: float
) -> None:
    """With a margin of 0.01 points batch 64 needs too many replicates, and what to run used to be for "all of them".

    The margin used to be left out, so the sweep would have had another one, or none.
    """
    records = [
        record(0.9 - {16: 0.0, 32: 0.01, 64: 1.0}[size] * LOST[seed], batch_size=size, seed=seed, split_seed=seed)
        for seed in range(4)
        for size in (16, 32, 64)
    ]
    sweep = load_sweep(write_sweep(records), margin=margin)
    plan = replicates_needed(sweep, 0.8, 4)
    assert (plan.rows[1].if_nothing.safe is None) == (margin == 0.01)
    which = "batch 32" if margin == 0.01 else "all of them"
    cap = max(row.if_nothing.safe_cap or 0 for row in plan.rows)
    said = plan_lines(plan, sweep.metric, sweep.batch_unit, "pilot", 1)
    assert sum(line.startswith(f"To test {which}: ") for line in said) == 1
    assert said[-1] == (
        f"Or, for {which}, let the sweep end as soon as it can: --until-decided --max-replicates {cap} "
        f"--margin {margin:g} (docs/planning.md)."
    )
    usual = load_sweep(sweep.folder)
    assert (
        "--margin" not in plan_lines(replicates_needed(usual, 0.8, 4), usual.metric, usual.batch_unit, "pilot", 1)[-1]
    )


def test_free_up_to_ends_before_a_batch_size_that_diverged(write_sweep: Callable[..., Path]) -> None:
    assert free_up_to(replicates_needed(pilot(write_sweep, LOST), 0.8, 4)) is None  # one batch size
    records = [
        record(
            0.9 - (LOST[seed] if size > 16 else 0.0),
            batch_size=size,
            seed=seed,
            split_seed=seed,
            row={"status": "diverged", "test_accuracy": None} if (size, seed) == (128, 3) else None,
        )
        for seed in range(4)
        for size in (16, 32, 64, 128, 256)
    ]
    claim = not_none(free_up_to(replicates_needed(load_sweep(write_sweep(records, "diverged")), 0.8, 4)))
    assert claim.batch_sizes == (32, 64)
