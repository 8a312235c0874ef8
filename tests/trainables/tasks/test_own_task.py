"""Tasks of a user's own, by import path: what they may be, what they get, and what is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from narrow import as_a
from torch import Tensor, nn

from trainables.check import check_trials
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.models.of_config import build
from trainables.runtime.errors import UserError
from trainables.tasks.by_name import load_task
from trainables.tasks.outputs import changed, prediction_of, tensors_of
from trainables.training.loop import Training
from trainables.trial import run_trial

OWN = """
import numpy as np
import torch
from torch import nn

class Huber:
    metric, unit, direction = "huber", "volts", "lower"
    def loss(self, outputs, labels):
        return nn.functional.huber_loss(outputs["mean"][:, 0], labels, reduction="none")
    def metrics(self, outputs, labels):
        return {"huber": self.loss(outputs, labels), "bias": outputs["mean"][:, 0] - labels}

class Plain:
    def loss(self, outputs, labels):
        return (outputs[:, 0] - labels).square()

class Whole(Plain):
    def loss(self, outputs, labels):
        return super().loss(outputs, labels).mean()

class Wide(Plain):
    def weights(self, labels):
        return torch.ones(3)

class Negative(Plain):
    def weights(self, labels):
        return torch.zeros(len(labels)) - 1

class Classwise(Plain):
    def metrics(self, outputs, labels):
        return {"loss": torch.ones(7)}

class Other(Plain):
    metric = "recall"

class Odd(Plain):
    direction = "up"

class Text(Plain):
    def metrics(self, outputs, labels):
        return {"loss": "low"}

class Frozen(Plain):
    def set_mode(self, model, training):
        model.train(training)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm1d):
                layer.eval()

class Stirred(Plain):
    def set_mode(self, model, training):
        model.train()

class Integers(Plain):
    def loss(self, outputs, labels):
        return super().loss(outputs, labels).long()

class Listed(Plain):
    def weights(self, labels):
        return [1.0] * len(labels)

class Endless(Plain):
    def weights(self, labels):
        return torch.full((len(labels),), torch.inf)

class Nameless(Plain):
    def metrics(self, outputs, labels):
        return [labels]

class Wordless(Plain):
    metric = unit = 3

class BelowChance(Plain):
    def chance(self, labels, num_classes):
        return -1.0

class Silent(Plain):
    def num_outputs(self, num_classes, label_shape):
        return 0

class Shortens(Plain):
    def augment(self, inputs, labels, generator):
        return inputs[:1], labels[:1]

class Widens(Plain):
    def augment(self, inputs, labels, generator):
        return inputs.double(), labels

class Fails(Plain):
    def loss(self, outputs, labels):
        raise ArithmeticError("not today")

class Ends(Plain):
    def __init__(self):
        raise SystemExit("bye")

class Checks(Plain):
    def check_labels(self, labels, part):
        raise ArithmeticError("not these")

class Asks:
    def __init__(self, size):
        self.size = size
    def loss(self, outputs, labels):
        return labels

class Lossless: pass

value = 3

class Both(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layer = nn.Linear(inputs, 2)
    def forward(self, x):
        return {"mean": self.layer(x)[:, :1], "other": self.layer(x)[:, 1:]}

def both(input_shape, num_classes):
    return Both(input_shape[0])

def numbers(count=40):
    x = np.random.default_rng(0).normal(size=(count, 3))
    return x, x @ [1.0, 2.0, 3.0], None, None, "own_tasks:Plain"
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_tasks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def config_of(source: Source, **changes: Any) -> TrialConfig:
    fields: dict[str, Any] = {
        "dataset": source.name,
        "data_fingerprint": source.fingerprint,
        "train_size": 30,
        "test_size": 10,
        "split_seed": 0,
        "model_options": '{"widths": [4]}',
        "learning_rate": 0.05,
        "batch_size": 8,
        "epochs": 3,
        "measure_examples": 30,
    }
    return TrialConfig(**fields | changes)


def test_a_trial_of_an_own_task() -> None:
    source = load_source("own_tasks:numbers")
    record = run_trial(config_of(source, task="own_tasks:Huber", model="own_tasks:both", model_options="{}"), source)
    row = record.trial
    assert row["status"] == "completed"
    assert (row["task"], row["dataset_task"]) == ("own_tasks:Huber", "own_tasks:Plain")
    assert (row["metric"], row["metric_unit"], row["metric_direction"]) == ("huber", "volts", "lower")
    assert row["train_metric"] == pytest.approx(row["train_loss"], rel=1e-6)
    assert row["train_accuracy"] is row["test_accuracy"] is row["test_perplexity"] is None
    assert row["generalization_gap"] == row["test_metric"] - row["train_metric"]
    assert json.loads(row["metrics"]).keys() == {"train_bias", "test_bias"}
    assert row["box_sharpness"] > 0
    assert record.epochs[0]["train_loss"] > record.epochs[-1]["train_loss"]


def test_without_a_metric_the_loss_is_the_metric() -> None:
    source = load_source("own_tasks:numbers")
    row = run_trial(config_of(source, measures=""), source).trial
    assert (row["metric"], row["metric_direction"], row["metrics"]) == ("loss", "lower", None)
    assert row["test_metric"] == row["test_loss"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("regresion", "one of classification, language, regression, multilabel, binary or `package.module:Class`"),
        ("own_tasks:absent", "must be an importable"),
        ("own_tasks:Lossless", "a class with a method `loss`"),
        ("own_tasks:value", "must name a function, got"),
        ("own_tasks:Asks", "a class without arguments"),
        ("own_tasks:Odd", "higher or lower, got 'up'"),
        ("own_tasks:Whole", r"a loss for each example, of shape \(2,\) .* got shape \(\) .* do not take its mean"),
        ("own_tasks:Wide", r"a weight for each loss, of shape \(2,\), got \(3,\)"),
        ("own_tasks:Negative", "weights of 0 or more, got -1 from"),
        ("own_tasks:Classwise", r"a value per example, Sums or Kept, got shape \(7,\) for loss"),
        ("own_tasks:Other", "return its metric recall from `metrics`"),
        ("own_tasks:Text", "tensors of a value per example, Sums or Kept, got str for loss"),
        ("own_tasks:Integers", "losses of a floating-point type, got torch.int64"),
        ("own_tasks:Listed", r"a weight for each loss, of shape \(2,\), got list"),
        ("own_tasks:Endless", "finite weights of 0 or more, got inf"),
        ("own_tasks:Nameless", r"metrics by name, a dictionary, got \[tensor"),
        ("own_tasks:Wordless", "a `metric` in words, got 3"),
        ("own_tasks:BelowChance", "a finite `chance` of 0 or more, or None, got -1.0"),
        ("own_tasks:Silent", "a whole number of outputs, got 0"),
        ("own_tasks:Shortens", r"inputs and labels of 2 examples from `augment`, got \(1, 3\) and \(1,\)"),
        ("own_tasks:Widens", "inputs of torch.float32 from `augment`, got torch.float64"),
        ("own_tasks:Ends", r"a class without arguments, got own_tasks:Ends \(SystemExit: bye\)"),
        ("own_tasks:Stirred", "must leave 3, Dropout, in evaluation mode"),
    ],
)
def test_refused_before_any_trial_starts(task: str, message: str) -> None:
    source = load_source("own_tasks:numbers")
    options = '{"widths": [4], "dropout": 0.5}' if task.endswith("Stirred") else '{"widths": [4]}'
    with pytest.raises(UserError, match=f"^`task` .*{message}[^\n]*$"):
        check_trials([config_of(source, task=task, model_options=options)], source, None, None, 1)


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("regression", torch.linspace(-1, 1, 40, dtype=torch.float64)),
        ("classification", torch.arange(40) % 3),
        ("binary", torch.arange(40) % 2),
        ("multilabel", (torch.arange(120).reshape(40, 3) % 5 < 2).double()),
    ],
)
def test_a_built_in_task_passes(task: str, labels: Tensor) -> None:
    """A regression has a chance of 0 there, where the few examples that are tried have one label."""
    inputs = np.random.default_rng(0).normal(size=(40, 3))
    outputs = {"regression": 1, "binary": 2}.get(task, 3)
    source = Source("own:load", inputs, labels.numpy(), None, None, outputs, task=task)
    check_trials([config_of(source, task=task)], source, None, None, 1, (source.labels, None))


def test_an_error_in_a_task_names_the_task() -> None:
    source = load_source("own_tasks:numbers")
    with pytest.raises(UserError, match=r"^`--task` own_tasks:Fails with --model mlp cannot train on two examples: it"):
        check_trials([config_of(source, task="own_tasks:Fails")], source, None, None, 1)
    with pytest.raises(
        UserError, match=r"^`--task` own_tasks:Checks cannot check the training labels: ArithmeticError"
    ):
        check_trials([config_of(source, task="own_tasks:Checks")], source, None, None, 1, (source.labels, None))


def test_layers_can_be_kept_in_the_other_mode() -> None:
    source = load_source("own_tasks:numbers")
    config = config_of(source, model_options='{"widths": [4], "batch_norm": true}', measures="")

    def statistics(task: str) -> Tensor:
        data = source.split(30, 10, 0)
        training = Training(config_of(source, task=task, model_options=config.model_options), build(config, data), data)
        training.train_epoch()
        layer = next(layer for layer in training.model.modules() if isinstance(layer, nn.BatchNorm1d))
        assert layer.running_mean is not None
        return layer.running_mean

    assert not torch.equal(statistics("own_tasks:Plain"), torch.zeros(4))
    assert torch.equal(statistics("own_tasks:Frozen"), torch.zeros(4))


class Output(NamedTuple):
    first: Tensor
    second: Tensor


def test_outputs_of_every_kind() -> None:
    z, other, ids = torch.ones(2, 3), torch.zeros(2), torch.arange(2)
    kinds: list[Any] = [
        z, (z, other), [z], {"logits": z, "hidden": other}, {"hidden": other, "out": z}, Output(z, other),
        SimpleNamespace(logits=z, hidden=other),
    ]  # fmt: skip
    for outputs in kinds:
        assert prediction_of(outputs) is z
        doubled = changed(outputs, Tensor.double)
        assert type(doubled) is type(outputs)
        assert prediction_of(doubled).dtype == torch.float64
        assert prediction_of(outputs).dtype == torch.float32  # what was given stays as it is
    assert [tuple(one.shape) for one in tensors_of({"ids": ids, "both": (z, other)})] == [(2, 3), (2,)]
    for nothing in (None, {}, (), {"hidden": z}, SimpleNamespace(hidden=z)):
        with pytest.raises(UserError, match="`model` must return a tensor"):
            prediction_of(nothing)


LABELS: dict[str, tuple[str, Any, str]] = {
    "classes of regression": ("regression", np.array([1.0, np.inf] * 5), "must be finite"),
    "dates": ("regression", np.arange(10) + 2**24, "numbers that float32 holds, got 16777217 in the training set"),
    "constant": ("regression", np.ones(10), "must vary for regression"),
    "three": ("binary", np.arange(10) % 3, "must be 0 or 1 for the task binary, got 0 to 2"),
    "one": ("binary", np.zeros(10, int), "got only 0 in the training set; AUC needs both"),
    "no class": ("multilabel", np.zeros((10, 2)), "must have a class somewhere"),
    "shares": ("multilabel", np.full((10, 2), 0.5), "0 or 1 for each class"),
}


@pytest.mark.parametrize("case", LABELS)
def test_sets_of_labels_that_cannot_be_judged(case: str) -> None:
    name, labels, message = LABELS[case]
    with pytest.raises(UserError, match=message):
        load_task(name).check_labels(torch.from_numpy(labels), "training")


SHAPES: dict[str, tuple[str, tuple[int, ...], Tensor, str]] = {
    "columns": ("regression", (2, 1), torch.ones(4, 3), "1 numbers per example that the model puts out"),
    "cube": ("regression", (2, 1), torch.ones(4, 3, 2), r"of shape \(N,\) or \(N, D\)"),
    "classes": ("multilabel", (2, 3), torch.ones(4), "0 or 1 for each class, of shape"),
    "odds": ("binary", (2, 3), torch.ones(4), "one or two numbers per example"),
    "pairs": ("binary", (2, 1), torch.ones(4, 2), "0 or 1 for each example"),
    "vocabulary": (
        "language",
        (2, 5, 3),
        torch.full((4, 5), 3),
        "from 0 to 2 of shape .* got 3 to 3; -100 marks padding",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_labels_that_do_not_fit_the_outputs(case: str) -> None:
    name, shape, labels, message = SHAPES[case]
    with pytest.raises(UserError, match=message):
        load_task(name).check(torch.zeros(shape), labels)


def test_smoothing_needs_classes() -> None:
    with pytest.raises(UserError, match="`label_smoothing` cannot be used with the task regression"):
        load_task("regression").mean_loss(torch.ones(2, 1), torch.ones(2), smoothing=0.1)


def test_smoothed_binary_is_smoothed_cross_entropy_of_two_classes(make_config: Callable[..., TrialConfig]) -> None:
    logits = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0, 1])
    found, expected = (
        load_task(name).mean_loss(logits, labels, smoothing=0.2) for name in ("binary", "classification")
    )
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("name", "labels", "chance"), [
    ("classification", torch.arange(3), np.log(7)),
    ("regression", torch.tensor([0.0, 2.0]), 1.0),
    ("binary", torch.arange(2), np.log(2)),
    ("multilabel", torch.ones(3, 2), np.log(2)),
    ("own_tasks:Plain", torch.ones(2), None),
])  # fmt: skip
def test_a_hundred_times_chance_has_diverged(name: str, labels: Tensor, chance: float | None) -> None:
    found = load_task(name).chance(labels, 7)
    assert found is None if chance is None else found == pytest.approx(chance, rel=1e-15)


@pytest.mark.parametrize(("share", "diverged"), [(99.0, False), (101.0, True), (float("nan"), True)])
def test_divergence_and_target_are_in_the_unit_of_the_loss(share: float, diverged: bool) -> None:
    """A regression has diverged at a hundred times the variance of its labels, whatever their unit is."""
    source = load_source("own_tasks:numbers", task="regression")
    data = source.split(30, 10, 0)
    config = config_of(source, task="regression", target_loss=200.0)
    training = Training(config, build(config, data), data)
    variance = float(as_a(Tensor, data.train_labels).double().var(correction=0))
    training.epochs.append({"train_loss": share * variance})
    assert training.diverged == diverged
    assert training.reached_target == (share * variance <= 200)
