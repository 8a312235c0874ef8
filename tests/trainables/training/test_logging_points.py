"""Budgets, warmups, switches and rows in steps, examples and epochs: where they are, and that nothing else changes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import duration
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.flag_names import ENDED_BY_TEST_SET, MISSED_METRIC
from trainables.runtime.errors import UserError
from trainables.runtime.seeds import generator
from trainables.training.evaluate import evaluate
from trainables.trial import Trial, run_trial
from trainables.units import Amount

Make = Callable[..., TrialConfig]

CONVOLUTIONS: dict[str, Any] = {
    "model": "c1", "model_options": "{}", "train_size": 40, "test_size": 30, "measure_examples": 25, "batch_size": 16,
    "measures": "",
}  # fmt: skip
DROPOUT_AND_AUGMENTATION = CONVOLUTIONS | {
    "optimizer": "sgd", "momentum": 0.9, "warmup_steps": 4, "augmentation": "paper", "noise_batch_size": 8,
    "switch_epoch": 2.4, "switch_batch_size": 40, "switch_optimizer_state": "keep", "epochs": None,
    "budget": "10steps",
}  # fmt: skip


@pytest.fixture(scope="module")
def images(digits: Source) -> Source:
    return Source("images", digits.inputs.reshape(-1, 1, 8, 8), digits.labels, None, None, 10)


def weights(trial: Trial) -> list[torch.Tensor]:
    return list(trial.training.model.state_dict().values())


def places(trial: Trial, *names: str) -> list[Any]:
    return [tuple(row[name] for name in names) for row in trial.training.epochs]


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("3steps", [3, 6, 9, 10]),
        ("40examples", [3, 6, 8, 9, 10]),  # batches of 16, 16, 8 and from 2.4 epochs on of 40
        ("0.5epochs", [2, 3, 5, 6, 8, 9, 10]),
        (None, [3, 6, 8, 9, 10]),
    ],
)
def test_rows_are_written_at_multiples_and_at_the_end(
    make_config: Make, images: Source, every: str | None, steps: list[int]
) -> None:
    trial = Trial(make_config(**DROPOUT_AND_AUGMENTATION, evaluate_every=every), images)
    assert trial.train()
    assert [step for (step,) in places(trial, "step")] == steps
    assert trial.training.epochs[-1]["examples"] == trial.training.examples


@pytest.mark.parametrize(("state", "order"), [("keep", None), ("reset", 7)])
def test_a_trial_resumed_at_any_logging_point_is_bit_identical(
    make_config: Make, images: Source, tmp_path: Path, state: str, order: int | None
) -> None:
    """Dropout, augmentation and matched noise go on within an epoch, as do a switch and an order of its own."""
    changes = DROPOUT_AND_AUGMENTATION | {"switch_optimizer_state": state, "switch_order_seed": order}
    config = make_config(**changes, evaluate_every="2steps")
    whole = Trial(config, images)
    whole.train()
    first = Trial(config, images)
    files = [tmp_path / f"{place}.pt" for place in range(1, len(whole.training.epochs))]
    for file in files:
        first.training.train_epoch()
        first.save(file)
        torch.rand(5)  # other trials draw meanwhile
    assert len(files) == 4
    for place, file in enumerate(files, 1):
        second = Trial(config, images)
        assert second.resume(file)
        assert len(second.training.epochs) == place
        second.train()
        for one, other in zip(whole.training.epochs, second.training.epochs, strict=True):
            assert {**one, "seconds": 0} == {**other, "seconds": 0}
        assert all(torch.equal(one, other) for one, other in zip(weights(whole), weights(second), strict=True))


def test_rows_between_change_no_weights(make_config: Make, images: Source) -> None:
    plain, often = (
        Trial(make_config(**DROPOUT_AND_AUGMENTATION, evaluate_every=every), images) for every in (None, "1step")
    )
    plain.train()
    often.train()
    assert all(torch.equal(one, other) for one, other in zip(weights(plain), weights(often), strict=True))
    by_step = {row["step"]: row for row in often.training.epochs}
    for row in plain.training.epochs:
        for name in ("epoch", "examples", "train_loss", "test_accuracy", "lr", "batch_size", "distance"):
            assert by_step[row["step"]][name] == row[name]


def test_a_budget_ends_within_an_epoch(make_config: Make, digits: Source) -> None:
    """300 examples, batches of 32: 10 a epoch, the last of 12."""
    trial = Trial(make_config(epochs=None, budget="13steps"), digits)
    trial.train()
    assert places(trial, "epoch", "step", "examples") == [(1, 10, 300), (1 + 96 / 300, 13, 396)]
    data = trial.training.data
    found = evaluate(trial.training.model, data.train_inputs, data.train_labels)
    assert trial.training.epochs[-1]["train_loss"] == pytest.approx(found.loss, rel=1e-6)  # of all of them
    trial = Trial(make_config(epochs=None, budget="400examples"), digits)
    trial.train()
    assert places(trial, "step", "examples")[-1] == (14, 428)  # the first update that reaches it
    row = run_trial(make_config(epochs=None, budget="13steps", measures=""), digits).trial
    assert (row["epochs_done"], row["steps"], row["examples"], row["tokens"]) == (1.32, 13, 396, None)
    assert (row["epochs"], row["budget"]) == (None, "13steps")


def test_whole_epochs_have_one_form(make_config: Make) -> None:
    plain = make_config(epochs=4)
    for budget in ("4epochs", "1200examples", "1.2kexamples"):
        assert make_config(epochs=None, budget=budget).trial_id == plain.trial_id
    every = make_config(epochs=4, evaluate_every="1epochs")
    assert make_config(epochs=4, evaluate_every="300examples").trial_id == every.trial_id != plain.trial_id
    assert make_config(epochs=4, evaluate_every="2epochs").trial_id != plain.trial_id
    assert make_config(epochs=None, budget="40steps").trial_id != plain.trial_id  # as at no other batch size
    halves = [make_config(epochs=None, budget=budget).trial_id for budget in ("450examples", "1.5epochs")]
    assert halves[0] != plain.trial_id


def test_a_target_ends_at_a_logging_point(make_config: Make, digits: Source) -> None:
    trial = Trial(make_config(epochs=20, target_loss=0.5, evaluate_every="1step"), digits)
    trial.train()
    losses = [row["train_loss"] for row in trial.training.epochs]
    assert losses[-1] <= 0.5 < min(losses[:-1])
    assert trial.training.epochs_done != int(trial.training.epochs_done)


def test_a_target_metric_ends_training_on_held_out_data(make_config: Make, digits: Source) -> None:
    """The first row with at least this accuracy is the last one; a lower one is reached before the loss is."""
    plain = Trial(make_config(epochs=6, evaluate_every="5steps", measures=""), digits)
    plain.train()
    goal = plain.training.epochs[5]["test_accuracy"]
    first = next(row for row in plain.training.epochs if row["test_accuracy"] >= goal)
    config = make_config(epochs=6, evaluate_every="5steps", measures="", target_metric=goal, target_loss=1e-9)
    row = run_trial(config, digits).trial
    assert (row["steps"], row["steps_to_target"]) == (first["step"], first["step"])
    assert (row["examples_to_target"], row["reached_target"]) == (first["examples"], True)
    assert ENDED_BY_TEST_SET in row["flags"]
    held_out = make_config(
        epochs=2, measures="", target_metric=1.1, test_size=1000, validation_size=400, evaluate_every="5steps"
    )
    missed = run_trial(held_out, digits).trial
    assert (missed["steps_to_target"], missed["reached_target"]) == (None, False)
    assert missed["flags"] == [MISSED_METRIC]  # no test example has been seen


def test_a_target_test_loss_ends_training_on_held_out_data(make_config: Make, digits: Source) -> None:
    """The first row with at most this test loss is the last one, also where the training loss is lower long before."""
    plain = Trial(make_config(epochs=6, evaluate_every="5steps", measures=""), digits)
    plain.train()
    goal = plain.training.epochs[5]["test_loss"]
    first = next(row for row in plain.training.epochs if row["test_loss"] <= goal)
    config = make_config(epochs=6, evaluate_every="5steps", measures="", target_test_loss=goal)
    row = run_trial(config, digits).trial
    assert (row["steps"], row["steps_to_target"], row["reached_target"]) == (first["step"], first["step"], True)
    assert ENDED_BY_TEST_SET in row["flags"]
    missed = run_trial(dataclasses.replace(config, epochs=1, target_test_loss=-1.0), digits).trial
    assert "missed target loss" in missed["flags"]
    assert missed["reached_target"] is False


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epochs": 2}, None),
        ({"epochs": 2, "evaluate_every": "6000examples"}, None),  # a tenth of the 60000
        ({"epochs": 2, "evaluate_every": "5999examples"}, 5999),
        ({"epochs": 2, "evaluate_every": "100steps"}, 1600),
        ({"epochs": 2, "evaluate_every": "1step"}, 1000),
        ({"epochs": None, "budget": "200steps"}, 3200),
        ({"epochs": 2, "evaluate_every": "100steps", "target_loss": 0.1}, None),
        ({"epochs": 2, "evaluate_every": "1step", "train_size": 1000}, None),
    ],
)
def test_of_many_examples_the_training_loss_is_of_some(
    make_config: Make, changes: dict[str, Any], expected: int | None
) -> None:
    config = make_config(**{"train_size": 60000, "batch_size": 16, "measure_examples": 10, **changes})
    assert config.train_loss_examples == expected


def test_a_training_loss_of_some_examples(make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 of 300; the weights are those of a trial that evaluates all."""
    config = make_config(epochs=None, budget="4steps", evaluate_every="1step", batch_size=8, measures="")
    whole = Trial(config, digits)
    whole.train()
    assert whole.record().trial["train_loss_examples"] is None
    key = config.trial_id
    monkeypatch.setattr(duration, "LEAST_EVALUATED", 40)
    assert config.trial_id != key
    trial = Trial(config, digits)
    trial.train()
    assert all(torch.equal(one, other) for one, other in zip(weights(whole), weights(trial), strict=True))
    data, last = trial.training.data, trial.training.epochs[-1]
    chosen = torch.randperm(300, generator=generator(config.seed, "training loss"))[:40]
    found = evaluate(trial.training.model, data.train_inputs[chosen], data.train_labels[chosen])
    assert (last["train_loss"], last["train_accuracy"]) == (pytest.approx(found.loss, rel=1e-6), found.accuracy)
    assert last["test_loss"] == whole.training.epochs[-1]["test_loss"]
    assert trial.record().trial["train_loss_examples"] == 40


@pytest.mark.parametrize(("every", "steps"), [(Amount(4, "steps"), [4, 8]), (Amount(40, "examples"), [4, 6, 8, 10])])
def test_checkpoints_are_due_after_amounts(make_config: Make, images: Source, every: Amount, steps: list[int]) -> None:
    """Rows after 2, 4, 6, 8 and 10 steps, at 32, 56, 80, 120 and 200 examples."""
    trial = Trial(make_config(**DROPOUT_AND_AUGMENTATION, evaluate_every="2steps"), images)
    found = []
    trial.after_epoch = lambda: found.append(trial.training.step) if trial.has_passed(every) else None
    trial.train()
    assert [row["step"] for row in trial.training.epochs] == [2, 4, 6, 8, 10]
    assert found == steps


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"budget": "5epochs"}, "`epochs` must be given, or a budget in its place, got both"),
        ({"epochs": None}, "got none"),
        ({"epochs": None, "budget": "0steps"}, "`budget` must be a whole number of steps, 1 or more"),
        ({"epochs": None, "budget": "5tokens"}, "`budget` must be in steps, examples, epochs, got 5tokens"),
        ({"epochs": None, "budget": "10steps", "warmup_steps": 11}, "`warmup` must be at most the length of the trial"),
        ({"epochs": None, "budget": "10steps", "warmup_epochs": 1.5}, "`warmup` must be at most the length"),
        ({"epochs": 1, "warmup_steps": 11}, "`warmup` must be at most the length of the trial \\(1 epoch\\)"),
        ({"warmup_steps": 0}, "`warmup_steps` must be 1 or more"),
        ({"warmup_steps": 3, "warmup_epochs": 1.0}, "`warmup_epochs` must be 0 with warmup_steps"),
        ({"evaluate_every": "0steps"}, "`evaluate_every` must be a whole number"),
        ({"target_metric": float("nan")}, "`target_metric` must be a number"),
        ({"target_test_loss": float("inf")}, "`target_test_loss` must be a number"),
    ],
)
def test_what_is_refused(make_config: Make, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        make_config(**changes)
