"""Local critical batches: exact on chosen numbers, and of the level that they say where the truth is known."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pandas as pd
import pytest
from narrow import not_none
from scipy import stats

from analysis.charts.branched_batch import branched_batch_figure
from analysis.data.load import load_sweep
from analysis.data.metric import Metric
from analysis.questions.batch_schedule import HALVINGS, Schedule, arm_lines, arms, as_json, proposed
from analysis.questions.branched_batch import branched_batch, judged, lines, margin_of, smoothed
from analysis.reporting.branched_batch import NO_SCHEDULE, report
from analysis.stats.noisy_quadratic import NoisyQuadratic
from trainables.records.tables import Record
from trainables.runtime.errors import UserError

EVERY = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
DECAY: dict[str, Any] = {"decay": "step", "decay_epochs": "1,2", "decay_factor": 0.5}
EXCESS = {1: {32: 0.001, 64: 0.5}, 2: {32: 0.001, 64: 0.002}}  # at t, of each batch size


def run(loss: float, length: int, **config: Any) -> Record:
    """A trial of 512 examples at batch 16 whose held-out loss is `loss` at every evaluation."""
    history = [{"epoch": at, "step": 1, "test_loss": loss, "train_loss": loss} for at in EVERY if at <= length]
    return made_up.record(
        row={"epochs_done": length, "test_loss": loss, "steps": 100, "examples": 512 * length},
        history=[{**row, "lr": 0.01, "batch_size": 16, "seconds": 0.0} for row in history],
        **{"target_loss": None, "epochs": length, **config},
    )


def branches(seeds: Iterable[int] = range(4), spread: float = 1e-4) -> list[Record]:
    """EXCESS with alternating noise of `spread`, and k = 1 in another order without any excess."""
    records = []
    for seed in seeds:
        own, noise = {"seed": seed, "split_seed": seed}, spread * (-1) ** seed
        records.append(run(1.0 + seed, 3, **own))
        switch = {"switch_learning_rate": "sqrt", "switch_optimizer_state": "keep", **own}
        for at, of_size in EXCESS.items():
            for size, excess in of_size.items():
                loss = 1.0 + seed + excess + noise
                records.append(run(loss, at + 1, switch_epoch=at, switch_batch_size=size, **switch))
            other = {"switch_epoch": at, "switch_batch_size": 16, "switch_order_seed": seed + 9, **switch}
            records.append(run(1.0 + seed + noise, at + 1, **other))
    return records


def test_the_smoothed_loss_is_the_mean_of_the_line_between_evaluations() -> None:
    """0 at 1, 2 at 2, 4 at 4: from 1.5 to 3 that is (1 + 2) / 2 over 0.5 and (2 + 3) / 2 over 1, in all 3.25 / 1.5."""
    curve = pd.DataFrame({"epoch": [1.0, 2.0, 4.0], "test_loss": [0.0, 2.0, 4.0]})
    assert smoothed(curve, 1.5, 3.0) == pytest.approx(3.25 / 1.5, rel=1e-12)
    assert np.isnan(smoothed(curve, 3.0, 4.1))
    curve = pd.DataFrame({"epoch": [1.0, 2.0, 3.0, 4.0], "test_loss": [0.0, 2.0, None, 4.0]})  # not evaluated at 3
    assert smoothed(curve, 1.5, 3.0) == pytest.approx(3.25 / 1.5, rel=1e-12)
    assert np.isnan(smoothed(curve.assign(test_loss=np.nan), 1.5, 3.0))


def test_losses_too_large_for_a_mean_are_none() -> None:
    curve = pd.DataFrame({"epoch": [1.0, 2.0, 3.0], "test_loss": [1e308, 1.5e308, 1.7e308]})
    assert np.isnan(smoothed(curve, 1.0, 3.0))
    assert smoothed(curve.assign(test_loss=[1e300, 1e300, 1e300]), 1.0, 3.0) == pytest.approx(1e300, rel=1e-12)


def test_what_is_shown_at_each_branch_point(tmp_path: Path) -> None:
    found = branched_batch(load_sweep(made_up.write(tmp_path, branches())), 0.01)
    assert (found.batch_size, found.rule, found.train_size, found.unit) == (16, "sqrt", 512, "nats")
    first, second = found.points
    assert (first.at, first.window, second.at) == (1.0, 1.0, 2.0)
    assert (first.boundary.within, first.boundary.beyond, first.boundary.best_guess) == (32, 64, 32)
    assert (second.boundary.within, second.boundary.beyond) == (64, None)
    excess = first.branches[1].excess
    assert excess is not None
    assert excess.value == pytest.approx(0.5, abs=1e-12)  # paired: the trunks are 1 nat apart
    half = stats.t.ppf(0.975, 3) * 1e-4 * np.sqrt(4 / 3) / 2  # the standard deviation of +-1e-4 over 4
    assert excess.interval is not None
    assert excess.interval.high - 0.5 == pytest.approx(half, rel=1e-6)
    assert first.noise is not None
    assert first.noise.value == pytest.approx(0, abs=1e-12)
    assert not first.differs_from_itself
    text = "\n".join(lines(found))
    start = "After 1 epoch (loss 2.5; branches of 1 epoch), within the margin: "
    assert f"{start}up to batch 32 by the means; significant up to batch 32" in text
    assert "batch 64: +0.5000 (95 % CI +0.49" in text
    assert branched_batch_figure(found).axes


def test_a_diverged_branch_is_not_within(tmp_path: Path) -> None:
    records = branches()
    lost = next(record for record in records if record.trial["switch_batch_size"] == 32)
    lost.trial["status"] = "diverged"
    point = branched_batch(load_sweep(made_up.write(tmp_path, records)), 0.01).points[0]
    assert (point.branches[0].excess, point.branches[0].diverged, point.boundary.within) == (None, 1, None)


def test_how_many_replicates_an_interrupted_sweep_has_is_told(tmp_path: Path) -> None:
    """At the first branch point seed 3 has no run at batch 64 and one of batch 32 diverged; seed 2 has no trunk."""
    records = branches()
    gone = [
        record.trial["seed"] == 3 and (record.trial["switch_epoch"], record.trial["switch_batch_size"]) == (1, 64)
        for record in records
    ]
    kept = [record for record, is_gone in zip(records, gone, strict=True) if not is_gone]
    kept = [one for one in kept if one.trial["seed"] != 2 or one.trial["switch_epoch"] is not None]
    next(one for one in kept if one.trial["switch_batch_size"] == 32).trial["status"] = "diverged"
    text = lines(branched_batch(load_sweep(made_up.write(tmp_path, kept)), 0.01))
    assert ", 4 replicates. Held-out loss" in text[0]
    assert text[2] == "  batch 32: 1 of 3 runs diverged"
    assert text[3].endswith("), 2 of 4 replicates")
    assert text[4].endswith("), 3 of 4 replicates")


def test_the_schedule_that_follows(tmp_path: Path) -> None:
    found = branched_batch(load_sweep(made_up.write(tmp_path, branches())), 0.01)
    schedule = proposed(found)
    assert schedule == Schedule(((1.0, 32), (2.0, 64)))
    assert (schedule.text(512), schedule.largest) == ("1:32,2:64", 64)
    assert Schedule(((0.5, 32),)).text(512) == "256examples:32"
    stages = json.loads(as_json(found, schedule))["stages"]
    assert [stage["from_example"] for stage in stages] == [0, 512, 1024]
    assert [stage["batch_size"] for stage in stages] == [16, 32, 64]
    assert [stage["learning_rate"] for stage in stages] == pytest.approx([0.01, 0.01 * 2**0.5, 0.02])


def test_the_halvings_are_those_of_a_cosine() -> None:
    assert [(1 + np.cos(np.pi * share)) / 2 for share in HALVINGS] == pytest.approx([1 / 2, 1 / 4, 1 / 8])


def test_the_schedule_against_other_ways_to_train(tmp_path: Path) -> None:
    """Only trials of this very schedule, of the longest length, and with the trunk's batch at the start."""
    records = branches()
    for seed in range(4, 8):
        own, luck = {"seed": seed, "split_seed": seed, **DECAY}, 1.0 + seed + 1e-3 * (-1) ** seed
        scaled = {"learning_rate_scaling": "sqrt", "base_batch_size": 16}
        schedule = {"switch_learning_rate": "sqrt", "batch_schedule": "1:32,2:64"}
        records += [
            run(1.0 + seed, 3, **own),
            run(9.0, 2, **own),
            run(luck + 0.004, 3, **own, **schedule),
            run(9.0, 3, **own, **{**schedule, "batch_schedule": "1:64"}),
            run(luck + 0.3, 3, **{**own, "batch_size": 64}, **scaled),
            run(luck - 0.1, 3, **own, decay_by="seesaw"),
        ]
    sweep = load_sweep(made_up.write(tmp_path, records))
    found = branched_batch(sweep, 0.01)
    run_arms = arms(sweep, found, not_none(proposed(found)))
    assert [arm.name for arm in run_arms] == ["constant small", "schedule", "constant large", "Seesaw"]
    values = [None if arm.excess is None else arm.excess.value for arm in run_arms]
    assert values[1:] == pytest.approx([0.004, 0.3, -0.1], abs=1e-12)
    text = "\n".join(arm_lines(found, run_arms))
    for name, verdict in (
        ("schedule", "no worse within the margin"),
        ("constant large", "worse by more than the margin"),
        ("Seesaw", "better"),
    ):
        line = next(line for line in text.splitlines() if line.startswith(f"  {name}: "))
        assert line.endswith(f": {verdict})")
    again = branched_batch(sweep, 0.0015)  # that proposes nothing else after 1 epoch
    other = not_none(proposed(again))
    assert arms(sweep, again, other) == ()
    assert arm_lines(again, ())[0].startswith("This schedule was not trained;")
    large = [one for one in records if one.trial["batch_size"] == 64]
    large[0].trial["status"] = "diverged"
    some = load_sweep(made_up.write(tmp_path / "some", records))
    run_arms = arms(some, found, not_none(proposed(found)))
    assert any(line.endswith("1 of 4 runs diverged") for line in arm_lines(found, run_arms))
    assert len(branched_batch_figure(found, run_arms).axes[2].get_legend_handles_labels()[1]) == 3
    for one in large:
        one.trial["status"] = "diverged"
    every = load_sweep(made_up.write(tmp_path / "every", records))
    run_arms = arms(every, found, not_none(proposed(found)))
    assert "  constant large: 4 of 4 runs diverged" in arm_lines(found, run_arms)
    told = report(sweep, 0.01)
    assert any(f"--remedies batch_schedule=1:32,2:64 --switch-learning-rate sqrt ({tmp_path}" in line for line in told)
    assert (tmp_path / "batch_schedule.json").exists()


def test_the_noise_scale_of_the_trunk_stands_at_each_branch_point(tmp_path: Path) -> None:
    """The last one until there, over the seeds where |G|^2 is resolved: 10 e^(0.1, -0.1) after 1 epoch, then twice."""
    records = branches()
    for entry in records:
        seed, is_trunk = entry.trial["seed"], entry.trial["switch_epoch"] is None
        scale = 10 * np.exp(0.1 * (-1) ** seed) if is_trunk else 1e6
        for row in entry.epochs:
            row |= {"gradient_noise_scale": scale * np.ceil(row["epoch"]), "gradient_noise_trace": 1.0}
            row["gradient_noise_scale_high"] = None if seed > 1 else 1e7
    found = branched_batch(load_sweep(made_up.write(tmp_path / "watched", records)), 0.01)
    assert [not_none(point.noise_scale).value for point in found.points] == pytest.approx([10.0, 20.0])
    assert not_none(found.points[0].noise_scale).replicates == 2
    half = stats.t.ppf(0.975, 1) * 0.1
    ends = (f"{10 * np.exp(sign * half):.3g}" for sign in (-1, 1))
    assert f"  gradient noise scale of the trunk: 10 examples (95 % CI {next(ends)} to {next(ends)})" in lines(found)
    plain = branched_batch(load_sweep(made_up.write(tmp_path / "plain", branches())), 0.01)
    assert not any("noise scale" in line for line in lines(plain))


def test_without_a_larger_batch_no_schedule_is_proposed(tmp_path: Path) -> None:
    told = report(load_sweep(made_up.write(tmp_path, branches(spread=1.0))), 0.01)
    assert told[-1] == NO_SCHEDULE
    assert not (tmp_path / "batch_schedule.json").exists()


def test_mistakes(tmp_path: Path) -> None:
    plain = made_up.write(tmp_path / "plain", [run(1.0, 3)])
    with pytest.raises(UserError, match="must hold branches and the trunk that they leave, got none"):
        branched_batch(load_sweep(plain))
    others = [run(1.0, 3, learning_rate=0.1, seed=seed) for seed in range(2)]
    switch = {"switch_epoch": 1, "switch_batch_size": 32, "switch_optimizer_state": "keep"}
    others += [run(1.0, 2, learning_rate=0.1, seed=seed, **switch) for seed in range(2)]
    with pytest.raises(UserError, match="the branches of one trunk"):
        branched_batch(load_sweep(made_up.write(tmp_path / "two", [*branches(), *others])))
    sweep = load_sweep(made_up.write(tmp_path / "damaged", branches()))
    of_branch = sweep.trials.loc[sweep.trials["switch_batch_size"].eq(32) & sweep.trials["seed"].eq(0), "trial_id"]
    lost = sweep.epochs[~sweep.epochs["trial_id"].isin(of_branch)]
    first = branched_batch(dataclasses.replace(sweep, epochs=lost)).points[0]
    assert [branch.diverged for branch in first.branches] == [0, 0]
    lost = sweep.epochs[~sweep.epochs["trial_id"].isin(sweep.trials.loc[sweep.trials["seed"] == 0, "trial_id"])]
    whole = load_sweep(made_up.write(tmp_path / "whole", branches(range(1, 4))))
    assert branched_batch(dataclasses.replace(sweep, epochs=lost)).points == branched_batch(whole).points
    with pytest.raises(UserError, match=r"held-out losses of the trunk in epochs\.parquet"):
        branched_batch(dataclasses.replace(sweep, epochs=sweep.epochs[:0]))
    for wrong in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(UserError, match="above 0"):
            margin_of(Metric(), wrong)
    with pytest.raises(UserError, match="not in nats"):
        margin_of(Metric("mse", "", "lower"), None)


RATE, START, WINDOW, REPLICATES, SWEEPS = 0.1, 64, 128, 8, 800
PROBLEM = NoisyQuadratic.of_size(20)


def _means(batch_size: int, steps: int, moments: Any) -> Any:
    """E x_i^2 after 1, ..., `steps` updates at k times the rate, k = `batch_size`: exact."""
    rate, found = RATE * batch_size, []
    for _ in range(steps):
        moments = (1 - rate * PROBLEM.h) ** 2 * moments + rate**2 * PROBLEM.c / batch_size
        found.append(moments)
    return np.array(found)


def _losses(batch_size: int, start: Any, random: np.random.Generator) -> Any:
    """The loss of SGD after every 32 examples from `start` (..., K) on, at k times the rate: (4, ...)."""
    rate, x, found = RATE * batch_size, start, []
    for step in range(1, WINDOW // batch_size + 1):
        noise = random.normal(size=x.shape) * np.sqrt(PROBLEM.c / batch_size)
        x = x - rate * (PROBLEM.h * x + noise)
        if step * batch_size % 32 == 0:
            found.append(0.5 * (x**2) @ PROBLEM.h)
    return np.array(found)


def _smoothed(found: Any) -> Any:
    """The mean over the last quarter, which is the line between the last two of four evaluations."""
    return (found[-1] + found[-2]) / 2


@pytest.fixture(scope="module")
def judged_sweeps() -> tuple[float, list[tuple[bool, int | None, int | None]]]:
    """The true excess of k = 8, and of each sweep, with it as margin, what is said."""
    random = np.random.default_rng(0)
    start = random.normal(size=(SWEEPS, REPLICATES, 20))
    for _ in range(START):
        start = start - RATE * (PROBLEM.h * start + random.normal(size=start.shape) * np.sqrt(PROBLEM.c))
    at_start = _means(1, START, np.ones(20))[-1]

    def truth(size: int) -> float:
        losses = 0.5 * _means(size, WINDOW // size, at_start) @ PROBLEM.h
        return float((losses[-1] + losses[-1 - 32 // size]) / 2)

    base = _smoothed(_losses(1, start, random))
    found = {size: _smoothed(_losses(size, start, random)) for size in (1, 2, 4, 8)}
    np.testing.assert_allclose(base.mean(), truth(1), rtol=0.02)  # 6400 runs
    np.testing.assert_allclose(found[8].mean(), truth(8), rtol=0.02)
    true = truth(8) - truth(1)
    said = []
    for sweep in range(SWEEPS):
        rows = [
            {"at": 1.0, "window": 1.0, "batch_size": size, "is_noise": size == 1, "replicate": replicate,
             "loss": found[size][sweep, replicate], "base": base[sweep, replicate]}
            for size in found for replicate in range(REPLICATES)
        ]  # fmt: skip
        (point,) = judged(pd.DataFrame(rows), true)
        said.append((point.differs_from_itself, point.boundary.within, point.boundary.beyond))
    return true, said


@pytest.mark.slow
def test_levels_on_the_noisy_quadratic(judged_sweeps: Any) -> None:
    """k = 1 against itself is rejected at 5 %; at a margin that is the truth of k = 8, each claim of it at 2.5 %."""
    true, said = judged_sweeps
    assert true > 0
    rejected = sum(differs for differs, _, _ in said)
    within, beyond = sum(size == 8 for _, size, _ in said), sum(size is not None for _, _, size in said)
    most = {level: stats.binom.ppf(0.999, SWEEPS, level) for level in (0.05, 0.025)}
    least = stats.binom.ppf(0.001, SWEEPS, 0.025)
    assert least < rejected <= most[0.05]  # nor never, as a test that cannot fail would
    assert within <= most[0.025]
    assert beyond <= most[0.025]
