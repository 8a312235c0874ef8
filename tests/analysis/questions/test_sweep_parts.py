"""The parts of a sweep, and time to a goal on kept sweeps whose answers are known from their own analysis."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_up import law
from narrow import not_none

from analysis.data.load import load_sweep
from analysis.questions.optimizer_ladder import load_ladder
from analysis.questions.sweep_parts import sweep_parts
from analysis.questions.time_to_result import throughput_of_rows, time_to_result
from analysis.questions.tuned_steps import load_tuned_steps
from trainables.config import TrialConfig
from trainables.records.tables import Record
from trainables.runtime.errors import UserError

KEPT = Path(__file__).resolve().parents[3] / "docs" / "kept"
LADDER, SEARCH = KEPT / "optimizer_ladder_digits", KEPT / "steps_to_result_digits"


def of(found: Record, seconds: float = 1.0, **config: object) -> Record:
    """The record with another configuration, trained in `seconds`."""
    names = [field.name for field in dataclasses.fields(TrialConfig)]
    trial = TrialConfig(**({name: found.trial[name] for name in names} | config)).canonical()
    row = {**found.trial, **vars(trial), "trial_id": trial.trial_id, "train_seconds": seconds}
    return Record(row, found.epochs, found.measures)


def test_each_optimizer_of_a_plain_sweep_has_its_own_throughput(write_sweep: Callable[..., Path]) -> None:
    """Adam in 1 s, and SGD with as many steps in 4 s: nobody's throughput is the mean of both."""
    adam = law(factors=[0.9, 1.1])
    sgd = [of(one, seconds=4.0, optimizer="sgd", momentum=0.9) for one in adam]
    sweep = load_sweep(write_sweep([*adam, *sgd]))
    whole = sweep_parts(sweep, [1e-3], "train_loss", "lower")
    assert [part.name for part in whole.parts] == ["adam", "sgd"]
    throughput = throughput_of_rows(sweep, whole.parts)
    for size, mean in throughput["adam"].items():
        assert throughput["sgd"][size].value == pytest.approx(mean.value / 4, rel=1e-12)
    steps = {part.name: part.steps[1e-3] for part in whole.parts}
    found = time_to_result(1e-3, steps, throughput)
    assert found.fastest.part == "adam"
    for fast, slow in zip(found.rows_of("adam"), found.rows_of("sgd"), strict=True):
        assert slow.seconds.value == pytest.approx(4 * fast.seconds.value, rel=1e-12)
        assert fast.setting == ""  # the optimizer is the name of the part
    assert whole.parts[1].holds({"optimizer": "sgd"})
    assert not whole.parts[1].holds({"optimizer": "adam"})
    nothing = dataclasses.replace(whole.parts[1], trials=whole.parts[1].trials[:0])
    assert not nothing.holds({"optimizer": "sgd"})


def test_goals_of_several_datasets_are_not_compared(write_sweep: Callable[..., Path]) -> None:
    records = [*law(), *[of(one, dataset="mnist", data_fingerprint="other") for one in law()]]
    with pytest.raises(UserError, match="`--sweep` must hold trials of one dataset, got digits and mnist"):
        sweep_parts(load_sweep(write_sweep(records)), [1e-3], "train_loss", "lower")


def test_a_goal_that_one_part_misses(write_sweep: Callable[..., Path]) -> None:
    late = [of(one, optimizer="sgd") for one in law()]
    late = [Record(one.trial, one.epochs[:1], one.measures) for one in late]
    sweep = load_sweep(write_sweep([*law(), *late]))
    parts = sweep_parts(sweep, [1e-3], "train_loss", "lower").parts
    assert [part.steps[1e-3] is None for part in parts] == [False, True]
    with pytest.raises(UserError, match="`goal` must be reached by every replicate"):
        sweep_parts(sweep, [1e-30], "train_loss", "lower")


def test_the_kept_ladder_takes_the_seconds_that_its_runs_took() -> None:
    """Examples by throughput are within 1 % of the time that the ladder counts up to the goal, evaluation by
    evaluation. SOAP is the fastest, and Muon at batch 300 does not have the throughput of all optimizers together."""
    sweep = load_sweep(LADDER)
    whole = sweep_parts(sweep)
    assert (whole.metric, whole.goals) == ("test_loss", (0.35,))
    steps = {part.name: part.steps[0.35] for part in whole.parts}
    found = time_to_result(0.35, steps, throughput_of_rows(sweep, whole.parts))
    (level,) = load_ladder(LADDER)
    known = {(rung.name, size): mean.value for rung in level.rungs for size, mean in rung.seconds.items()}
    assert {(row.part, row.batch_size) for row in found.rows} == set(known)
    ratios = [row.seconds.value / known[row.part, row.batch_size] for row in found.rows]
    assert ratios == pytest.approx([1.0] * len(known), abs=0.01)
    fastest = min(known, key=lambda key: known[key])
    assert (found.fastest.part, found.fastest.batch_size) == fastest == ("pytorch_optimizer:SOAP", 300)
    (muon,) = [row for row in found.rows_of("muon") if row.batch_size == 300]
    assert muon.throughput.value == pytest.approx(26_330, rel=1e-3)
    assert muon.seconds.value == pytest.approx(0.0747, rel=2e-3)


def test_the_kept_search_keeps_the_steps_of_its_own_settings() -> None:
    sweep = load_sweep(SEARCH)
    whole = sweep_parts(sweep)
    (part,) = whole.parts
    assert (part.name, whole.goals) == ("", (0.5, 0.35))
    throughput = throughput_of_rows(sweep, whole.parts)
    for tuned in load_tuned_steps(SEARCH):
        own = not_none(tuned.found)
        found = time_to_result(tuned.goal, {"": part.steps[tuned.goal]}, throughput)
        reached = [row for row in own.rows if row.examples is not None]
        assert [(row.batch_size, row.setting, row.examples) for row in found.rows] == [
            (row.batch_size, row.setting, row.examples) for row in reached
        ]
        for row in found.rows:
            expected = row.examples.value / throughput[""][row.batch_size].value
            assert np.isclose(row.seconds.value, expected, rtol=1e-12)
    assert not_none(not_none(part.steps[0.5]).rows[0].examples).value == pytest.approx(672, abs=0.5)


def test_a_search_answers_for_its_own_goals_and_metric_alone() -> None:
    sweep = load_sweep(SEARCH)
    assert sweep_parts(sweep, [0.5], "test_loss", "lower").goals == (0.5,)
    with pytest.raises(
        UserError, match=r"`--goal` must be one that the search chose settings for \(0.5 or 0.35\), got"
    ):
        sweep_parts(sweep, [0.4])
    with pytest.raises(UserError, match="`--metric` must be test_loss, by which the search chose its settings"):
        sweep_parts(sweep, None, "test_accuracy")
    with pytest.raises(UserError, match="`--direction` must be lower"):
        sweep_parts(sweep, None, None, "higher")
