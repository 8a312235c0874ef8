"""The test set is evaluated where that is cheap, else at the points of a curve; and never changes what is compared."""

import dataclasses
from typing import Any

import pytest

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.training.looks import PASSES, SHARE, evaluation_line, is_look, is_test_due, times_tested
from trainables.trial import Trial

LARGE_TEST = {
    "train_size": 300,
    "test_size": 1000,
    "batch_size": 300,
    "epochs": 20,
    "target_loss": None,
    "measures": "",
}


def trained(digits: Source, config: TrialConfig) -> Trial:
    trial = Trial(config, digits)
    trial.train()
    return trial


def looked_at(trial: Trial) -> list[int]:
    """The logging points, from 1 on, at which the test set was evaluated."""
    return [place for place, row in enumerate(trial.training.epochs, 1) if row["test_loss"] is not None]


def test_a_large_test_set_is_evaluated_where_a_curve_needs_a_point(digits: Source, make_config: Any) -> None:
    trial = trained(digits, make_config(**LARGE_TEST))
    looks = [point for point in range(1, 21) if is_look(point)]
    assert looked_at(trial) == [*looks, 20]
    assert len(looked_at(trial)) == times_tested(20, 1000, 300)
    row = trial.training.epochs[4]
    assert {name for name, value in row.items() if value is None} >= {"test_loss", "test_accuracy", "test_metric"}
    assert row["train_loss"] is not None


def test_a_small_test_set_is_evaluated_at_every_point(digits: Source, make_config: Any) -> None:
    """30 examples are at most a tenth of three passes over 300, from the second point on with one point's credit."""
    trial = trained(digits, make_config(**LARGE_TEST | {"test_size": 30, "epochs": 7}))
    assert looked_at(trial) == list(range(1, 8))
    assert times_tested(7, 30, 300) == 7


@pytest.mark.parametrize("size", [30, 91, 200, 1000])
def test_more_than_the_points_of_a_curve_take_at_most_their_share(size: int) -> None:
    looked = 0
    for point in range(1, 200):
        if is_test_due(point, looked, size, 300 * point):
            looked += 1
            assert is_look(point) or looked * size <= SHARE * PASSES * 300 * point
    assert looked == times_tested(200, size, 300) - 1


@pytest.mark.parametrize(
    "change",
    [{"evaluate_every": "1epochs"}, {"measure_every": 10, "measures": "hessian_trace"}, {"target_metric": 0.999}],
)
def test_who_asks_for_points_has_the_test_set_at_each(digits: Source, make_config: Any, change: dict[str, Any]) -> None:
    trial = trained(digits, make_config(**LARGE_TEST | {"epochs": 5} | change))
    assert looked_at(trial) == [1, 2, 3, 4, 5]


def test_before_a_switch_and_at_the_target(digits: Source, make_config: Any) -> None:
    changes = {"batch_size": 32, "switch_epoch": 5, "switch_batch_size": 300, "epochs": 7}
    assert looked_at(trained(digits, make_config(**LARGE_TEST | changes))) == [1, 2, 3, 4, 5, 6, 7]
    every = trained(digits, make_config(**LARGE_TEST | {"evaluate_every": "1epochs"})).training.epochs
    stopped = trained(digits, make_config(**LARGE_TEST | {"target_loss": every[6]["train_loss"]}))
    assert looked_at(stopped) == [1, 2, 3, 4, 6, 7]


def test_nothing_that_is_compared_depends_on_it(digits: Source, make_config: Any) -> None:
    config = make_config(**LARGE_TEST | {"batch_size": 64, "epochs": 6})
    few, every = (
        trained(digits, one).training for one in (config, dataclasses.replace(config, evaluate_every="1epochs"))
    )
    assert few.epochs[4]["test_loss"] is None
    names = ("train_loss", "step", "distance")
    assert [[row[name] for name in names] for row in few.epochs] == [
        [row[name] for name in names] for row in every.epochs
    ]
    assert few.evaluate() == every.evaluate()
    assert few.epochs[-1]["test_loss"] == every.epochs[-1]["test_loss"]


def test_a_resumed_trial_goes_on_at_the_same_points(digits: Source, make_config: Any, tmp_path: Any) -> None:
    config = make_config(**LARGE_TEST)
    trial = Trial(config, digits)
    for _ in range(7):
        trial.training.train_epoch()
    trial.save(tmp_path / "checkpoint.pt")
    resumed = Trial(config, digits)
    assert resumed.resume(tmp_path / "checkpoint.pt")
    resumed.train()
    assert looked_at(resumed) == looked_at(trained(digits, config))


def test_a_trial_that_starts_from_anothers_state_has_its_own_points(
    digits: Source, make_config: Any, tmp_path: Any
) -> None:
    """The other has no switch, so it did not need the test set there."""
    trunk = Trial(make_config(**LARGE_TEST | {"batch_size": 32, "epochs": 7}), digits)
    for _ in range(5):
        trunk.training.train_epoch()
    trunk.save(tmp_path / "trunk.pt")
    assert trunk.training.epochs[-1]["test_loss"] is None
    config = make_config(**LARGE_TEST | {"batch_size": 32, "epochs": 7, "switch_epoch": 5, "switch_batch_size": 300})
    branch = Trial(config, digits)
    assert branch.resume(tmp_path / "trunk.pt")
    branch.train()
    rows = [
        [{name: row[name] for name in row if name != "seconds"} for row in one.training.epochs]
        for one in (branch, trained(digits, config))
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("target", [{"target_loss": 0.1}, {"target_metric": 0.9}, {"target_test_loss": 0.1}])
def test_states_are_not_shared_between_targets(make_config: Any, target: dict[str, Any]) -> None:
    """One trial would have ended, or been evaluated, where the other was not."""
    switch = {"switch_epoch": 2, "switch_batch_size": 300}
    assert make_config(**switch, **target).warm_start_id != make_config(**switch).warm_start_id


def test_what_is_said_of_evaluations(make_config: Any) -> None:
    """An update of an example counts as three evaluations: 10 times 1000 and 10 000 examples are 110 000 / 30 000."""
    sizes = {"train_size": 60000, "test_size": 10000, "batch_size": 10, "measure_examples": 10, "epochs": None}
    line = evaluation_line(make_config(**sizes, budget="1000steps", evaluate_every="100steps"))
    assert line == (
        "Evaluations of each trial: about 3.7 times the work of its training, 10 on 1000 training examples and 10 on "
        "10000 test examples (see --evaluate-every, --test-size)"
    )
    assert evaluation_line(make_config(**sizes, budget="1000steps", evaluate_every="500steps")) == ""
    assert evaluation_line(make_config(epochs=100)) == ""
