"""Averages of the weights: against their definitions, without a change of the training, kept over a resumption."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.remedies import Remedies
from trainables.runtime.errors import UserError
from trainables.training.loop import Training
from trainables.training.weight_averaging import WeightAverage
from trainables.trial import Trial

Make = Callable[..., TrialConfig]
EMA, SWA, LAWA = (
    {"average": "ema", "average_decay": 0.9},
    {"average": "swa", "average_from": 2.0},
    {"average": "lawa", "average_last": 3},
)
SMALL = {"train_size": 60, "measure_examples": 60, "batch_size": 20}
PLAIN = {"target_loss": None, "measures": "", "epochs": 5, "evaluate_every": "1epochs"}


class Trace(torch.nn.Module):
    """A weight, a running statistic and a count that the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.running: Tensor
        self.count: Tensor
        self.register_buffer("running", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))

    def set(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.running.fill_(10 * value)
            self.count.fill_(int(value))


@pytest.mark.parametrize(
    ("remedy", "expected"),
    [
        (EMA, 0.9 * (0.9 * (0.9 * (0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3) + 0.1 * 4) + 0.1 * 5) + 0.1 * 6),
        ({"average": "swa", "average_from": 0.0}, (2 + 4 + 6) / 3),  # two updates an epoch
        ({"average": "swa", "average_from": 1.0}, (4 + 6) / 2),
        ({"average": "swa", "average_from": 3.0}, 6),  # nothing yet: the last weights
        ({"average": "lawa", "average_last": 1}, 6),
        ({"average": "lawa", "average_last": 2}, (4 + 6) / 2),
        ({"average": "lawa", "average_last": 9}, (2 + 4 + 6) / 3),
        ({}, 6),
    ],
)
def test_averages_of_a_known_sequence(remedy: dict[str, Any], expected: float) -> None:
    model = Trace()
    average = WeightAverage(Remedies(**remedy), model)
    for update in range(1, 7):
        model.set(update)
        average.take(update / 2, at_end_of_epoch=update % 2 == 0)
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected, rel=1e-15)
        assert model.running.item() == pytest.approx(10 * expected, rel=1e-15)
        assert model.count.item() == 6
    assert (model.weight.item(), model.running.item()) == (6, 60)
    average.put()
    assert model.weight.item() == pytest.approx(expected, rel=1e-15)


def weights(training: Training) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in training.model.state_dict().values()]


@pytest.mark.parametrize(("model", "remedy"), [("mlp", EMA), ("mlp", SWA), ("c1", EMA), ("c1", LAWA)])
def test_the_training_is_the_plain_one(make_config: Make, digits: Source, remedy: dict[str, Any], model: str) -> None:
    """Before its end the weights are those of plain training; what is evaluated is the average of these."""
    network = {"model": "c1", "model_options": '{"width": 2}'} if model == "c1" else {}
    plain, averaged = (
        Trial(make_config(**PLAIN, **SMALL, **network, **change), digits).training for change in ({}, remedy)
    )
    reference = WeightAverage(Remedies(**remedy), plain.model)
    for epoch in range(1, 5):
        plain.train_epoch()
        if remedy["average"] != "ema":
            reference.take(epoch, at_end_of_epoch=True)
            with reference.in_place():
                expected = plain.evaluate()
            assert expected == _last(averaged, expected)
        else:
            averaged.train_epoch()
        assert all(torch.equal(one, two) for one, two in zip(weights(plain), weights(averaged), strict=True))
    assert averaged.epochs[-1]["train_loss"] != plain.epochs[-1]["train_loss"]
    averaged.train_epoch()
    assert averaged.finished
    kept = averaged.evaluate()  # by the weights that are kept and measured
    assert kept == {name: averaged.epochs[-1][name] for name in kept}


def _last(training: Training, names: Any) -> dict[str, Any]:
    training.train_epoch()
    return {name: training.epochs[-1][name] for name in names}


def test_a_target_is_reached_by_the_average(make_config: Make, digits: Source) -> None:
    changes = {"target_loss": 0.05, "epochs": 300, "measures": "", "evaluate_every": "1epochs"}
    plain, averaged = (Trial(make_config(**changes, **remedy), digits) for remedy in ({}, EMA))
    for trial in (plain, averaged):
        trial.train()
    assert averaged.training.epochs[-1]["train_loss"] <= 0.05 < averaged.training.epochs[-2]["train_loss"]
    assert averaged.training.evaluate()["train_loss"] == averaged.training.epochs[-1]["train_loss"]


@pytest.mark.parametrize("remedy", [EMA, SWA, LAWA], ids=lambda remedy: remedy["average"])
def test_resumed_to_the_same_bits(make_config: Make, digits: Source, tmp_path: Path, remedy: dict[str, Any]) -> None:
    config = make_config(**PLAIN, **remedy)
    whole = Trial(config, digits)
    whole.train()
    trial = Trial(config, digits)
    for _ in range(3):
        trial.training.train_epoch()
    trial.save(tmp_path / "checkpoint.pt")
    resumed = Trial(config, digits)
    assert resumed.resume(tmp_path / "checkpoint.pt")
    resumed.train()
    assert all(map(torch.equal, weights(whole.training), weights(resumed.training)))
    dropped = {"seconds"}
    rows = [
        [{name: value for name, value in row.items() if name not in dropped} for row in one.training.epochs]
        for one in (whole, resumed)
    ]
    assert rows[0] == rows[1]


def test_what_is_measured_along_the_run_is_the_average(make_config: Make, digits: Source) -> None:
    config = make_config(**PLAIN | {"measures": "hessian_trace"}, measure_every=2, **SWA | {"average_from": 0.0})
    trial = Trial(config, digits)
    trial.train()
    (row,) = [row for row in trial.measures if row["epoch"] == 4]
    again = Trial(config, digits)
    for _ in range(4):
        again.training.train_epoch()
    with again.training.average.in_place():
        model = copy.deepcopy(again.training.model)
    again.training.model.load_state_dict(model.state_dict())
    again.measure()
    assert row["value"] == again.measures[0]["value"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"average": "polyak"}, "`average` must be one of ema, swa, lawa, got polyak"),
        ({"average_decay": 0.9}, "`average` must be ema for average_decay, got None"),
        ({"average": "ema", "average_last": 3}, "`average` must be lawa for average_last, got ema"),
        ({"average": "ema", "average_decay": 1.0}, "`average_decay` must be between 0 and 1, got 1.0"),
        ({"average": "swa", "average_from": -1.0}, "`average_from` must be a number of epochs, 0 or more, got -1.0"),
        ({"average": "lawa", "average_last": 0}, "`average_last` must be 1 or more, got 0"),
    ],
)
def test_bad_values(make_config: Make, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(**change)


def test_defaults_are_named(make_config: Make) -> None:
    for name, option in (("ema", {"average_decay": 0.99}), ("swa", {"average_from": 0}), ("lawa", {"average_last": 6})):
        assert make_config(average=name).trial_id == make_config(average=name, **option).trial_id


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"average": "swa", "average_from": 5.0}, {}),  # nothing is averaged
        ({"average": "swa", "average_from": 4.0}, {}),  # the last weights alone are
        ({"average": "swa", "average_from": 3.7}, {"average": "swa", "average_from": 3.0}),
        ({"average": "lawa", "average_last": 9}, {"average": "lawa", "average_last": 5}),
        ({"average": "lawa", "epochs": 1}, {"epochs": 1}),
        ({"average": "swa", "average_from": 1.0, "budget": "20steps", "epochs": None}, {"epochs": 2}),
    ],
)
def test_averages_that_mean_the_same_are_one_trial(
    make_config: Make, digits: Source, changes: dict[str, Any], same: dict[str, Any]
) -> None:
    """Five epochs of ten updates: one ID, and the numbers that the averages as they were asked for give, too."""
    config, other = (make_config(**PLAIN | one) for one in (changes, same))
    steps = {"budget": "20steps", "epochs": None}
    if "budget" in changes:
        other = make_config(**PLAIN | steps)
    assert config.trial_id == other.trial_id
    assert config.canonical() == config.canonical().canonical()
    found, expected = (training_as_asked(one, digits) for one in (config, other))
    assert [row["train_loss"] for row in found.epochs] == [row["train_loss"] for row in expected.epochs]
    assert all(map(torch.equal, weights(found), weights(expected)))


def training_as_asked(config: TrialConfig, digits: Source) -> Training:
    """Without the canonical form of the configuration, which a Trial takes."""
    training = Trial(config, digits).training
    training.average = WeightAverage(config, training.model)
    while not training.finished:
        training.train_epoch()
    return training


def test_averages_that_differ_are_two_trials(make_config: Make) -> None:
    plain = make_config(**PLAIN).trial_id
    found = {
        make_config(**PLAIN | change).trial_id
        for change in (
            {"average": "swa", "average_from": 3.0},
            {"average": "swa", "average_from": 2.0},
            {"average": "lawa", "average_last": 4},
            {"average": "lawa", "average_last": 1, "evaluate_every": "3steps"},
        )
    }
    assert len(found | {plain}) == 5
    growing = {"budget": "20steps", "epochs": None, "batch_schedule": "1:300"}  # more epochs than two
    assert (
        len({make_config(**PLAIN | growing, average="swa", average_from=start).trial_id for start in (2.0, 9.0)}) == 2
    )
