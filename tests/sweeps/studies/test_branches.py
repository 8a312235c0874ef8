"""The trials of branched_batch.py: trunk, branches and ways to train, and what mistakes say."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.data.load import load_sweep
from analysis.questions.batch_schedule import Schedule
from sweeps import branched_batch
from sweeps.cli.branched_options import parse
from sweeps.studies.branched_batch import Branches
from trainables.data import Source
from trainables.records.tables import read_tables
from trainables.runtime.errors import UserError

QUICK = "--seeds 0 1 --factors 2 4 --branch-at 1epochs 2epochs --window 1epochs"


def planned(source: Source, arguments: str) -> Branches:
    return Branches(parse(arguments.split()), source)


def test_a_trunk_and_branches_of_it(digits: Source) -> None:
    trials = [trial.canonical() for trial in planned(digits, QUICK).trials()]
    trunks = [trial for trial in trials if trial.switch_epoch is None]
    assert trials[:2] == trunks
    assert [(trunk.seed, trunk.epochs, trunk.batch_size) for trunk in trunks] == [(0, 3, 8), (1, 3, 8)]
    branches = trials[2:]
    found = Counter((trial.switch_epoch, trial.switch_batch_size, trial.epochs) for trial in branches)
    assert found == {(at, size, at + 1): 2 for at in (1, 2) for size in (8, 16, 32)}
    for branch in branches:
        assert branch.warm_start_id == trunks[branch.seed].warm_start_id  # the same run up to the switch
        assert (branch.switch_learning_rate, branch.switch_optimizer_state) == ("sqrt", "keep")
        assert (branch.switch_order_seed is not None) == (branch.switch_batch_size == 8)
    assert len({trial.trial_id for trial in trials}) == len(trials)


def test_the_noise_scale_of_every_trial_without_another_identity(digits: Source) -> None:
    plain, watched = (planned(digits, f"{QUICK} {more}").trials() for more in ("", "--noise-scale all"))
    assert {trial.noise_scale for trial in watched} == {"all"}
    assert [trial.trial_id for trial in watched] == [trial.trial_id for trial in plain]


@pytest.mark.parametrize(
    ("options", "rule"),
    [("", "sqrt"), ("--optimizer sgd", "linear"), ("--optimizer sgd --scale-learning-rate keep", "keep")],
)
def test_the_learning_rate_follows_the_optimizer(digits: Source, options: str, rule: str) -> None:
    assert planned(digits, f"{QUICK} {options}").trials()[-1].switch_learning_rate == rule


def test_branch_points_are_updates_of_the_trunk(digits: Source) -> None:
    """3 steps of 8 are 24 of 300 examples, and so are 20 examples, as the update that comes to them ends there."""
    found = planned(digits, "--branch-at 3steps 20examples 0.1epochs --window 300examples --factors 2")
    assert found.at == [24 / 300, 32 / 300]
    assert {trial.budget for trial in found.trials()} == {"332examples", "324examples"}


def test_the_ways_to_train(digits: Source) -> None:
    """Fresh seeds, equal examples, one decay: at 1/2, 2/3 and 0.7699 of 900 examples."""
    ways = planned(digits, f"{QUICK} --run-schedule").ways_to_train(Schedule(((1.0, 16), (2.0, 32))))
    assert {way.seed for way in ways} == {2, 3}
    assert {(way.epochs, way.decay_epochs) for way in ways} == {(3, "450examples,600examples,693examples")}
    of_seed = [way.canonical() for way in ways if way.seed == 2]
    about = [(way.batch_size, way.batch_schedule, way.decay_by, way.learning_rate_scaling) for way in of_seed]
    assert about == [
        (8, None, "learning_rate", None),
        (8, "1:16,2:32", "learning_rate", None),
        (32, None, "learning_rate", "sqrt"),
        (8, None, "seesaw", None),
    ]
    longer = planned(digits, f"{QUICK} --run-schedule --epochs 9").ways_to_train(Schedule(((1.0, 16),)))
    assert {way.epochs for way in longer} == {9}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("--factors 2 64", "`--factors`: 64 times batch 8 is larger than the training set"),
        ("--window 100examples", "`--window` must hold 4 updates of the largest batch"),
        ("--branch-at 100tokens", "which has no tokens"),
    ],
)
def test_amounts_that_do_not_fit(digits: Source, options: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        planned(digits, f"--train-size 300 {options}")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("--seeds 3", "--seeds: must be two or more"),
        ("--branch-at 0epochs", "--branch-at"),
        ("--factors 1", "--factors: must be a whole number of 2 or more"),
        ("--margin 0", "--margin: must be a number above 0"),
        ("--epochs 3", "--epochs: has no effect without --run-schedule"),
        ("--schedule cosine", "--schedule: cannot be used"),
        ("--target-loss 0.1", "--target-loss: cannot be used"),
        ("--optimizer sgd adam", "--optimizer: must be one"),
    ],
)
def test_options_that_are_wrong(options: str, what: str, refusal: Callable[..., str]) -> None:
    assert what in refusal(branched_batch.main, options.split())


@pytest.mark.slow
def test_branches_then_the_schedule_then_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Branches start from their trunk's state; the schedule is added to the folder; a third run trains nothing."""
    run = f"{QUICK} --margin 100 --plain --no-dashboard --results {tmp_path} --name here".split()
    assert branched_batch.main(run) == 0
    trials = load_sweep(tmp_path / "here").trials
    switched = trials[trials["switch_epoch"].notna()]
    assert (len(trials), len(switched)) == (14, 12)
    assert (switched["resumed_epoch"] == switched["switch_epoch"]).any()
    first = capsys.readouterr().out
    assert "Proposed: --batch-sizes 8 --remedies batch_schedule=1:32 --switch-learning-rate sqrt" in first
    assert branched_batch.main([*run, "--resume", "--run-schedule"]) == 0
    second = capsys.readouterr().out
    assert "Seesaw: " in second
    stages = json.loads((tmp_path / "here" / "batch_schedule.json").read_text())["stages"]
    assert [stage["batch_size"] for stage in stages] == [8, 32]
    ended = sorted(read_tables(tmp_path / "here").trials["finished_at"].to_pylist())
    assert len(ended) == 22
    assert branched_batch.main([*run, "--resume", "--run-schedule"]) == 0
    assert sorted(read_tables(tmp_path / "here").trials["finished_at"].to_pylist()) == ended
