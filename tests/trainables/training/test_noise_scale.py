"""The noise scale of the training steps: unbiased estimates, intervals that hold, and training that stays the same."""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from narrow import as_a, not_none
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.data import Dataset, Source
from trainables.models import build_model
from trainables.records.schemas import NOISE_COLUMNS
from trainables.runtime.errors import UserError
from trainables.sharpness import ModelLoss, per_example_noise_scale
from trainables.tasks.by_name import load_task
from trainables.training.loop import Training
from trainables.training.noise_scale import DECAY, NoiseScale, SmoothedRatio, fieller, student_t
from trainables.training.parallel import Workers
from trainables.trial import Trial, run_trial

Make = Callable[..., TrialConfig]


def tokens(examples: int = 24, context: int = 9) -> Dataset:
    torch.manual_seed(1)
    inputs, labels = torch.randint(10, (2, examples, context))
    return Dataset(inputs, labels, inputs[:4], labels[:4], 10, "language")


def gpt() -> nn.Module:
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2, "dropout": 0.1}
    return build_model("gpt", (9,), 10, input_dtype=torch.int64, **options)


def config_of(data: Dataset, **changes: Any) -> TrialConfig:
    fields: dict[str, Any] = {
        "dataset": "tokens",
        "data_fingerprint": "",
        "train_size": len(data.train_labels),
        "test_size": len(data.test_labels),
        "learning_rate": 0.01,
        "batch_size": 8,
        "epochs": 2,
        "measure_examples": 4,
    }
    return TrialConfig(**fields | changes)


def linear_problem(examples: int) -> tuple[nn.Module, Dataset]:
    torch.manual_seed(0)
    inputs, labels = torch.randn(examples, 3, dtype=torch.float64), torch.randn(examples, 2, dtype=torch.float64)
    return nn.Linear(3, 2).double(), Dataset(inputs, labels, inputs, labels, 2, "regression")


def estimates_of(model: nn.Module, data: Dataset, rows: Tensor, weights: Tensor | None = None) -> tuple[float, float]:
    """tr(Sigma) and |G|^2 of one batch, by the hooks."""
    task = load_task("regression")
    scale = NoiseScale(model, "all", data, task, Workers())

    def closure() -> Tensor:
        model.zero_grad()
        losses = task.example_losses(model(data.train_inputs[rows]), data.train_labels[rows])
        loss = losses.mean() if weights is None else (weights * losses).sum() / weights.sum()
        loss.backward()
        return loss

    scale.watched(closure, len(rows), weights)()
    columns = scale.columns()
    return columns["gradient_noise_trace"], columns["gradient_noise_squared_gradient"]


def gradients_of(model: nn.Module, data: Dataset) -> Tensor:
    """(N, n), one after another."""
    task, found = load_task("regression"), []
    for x, y in zip(data.train_inputs.split(1), data.train_labels.split(1), strict=True):
        gradients = torch.autograd.grad(task.example_losses(model(x), y).sum(), list(model.parameters()))
        found.append(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    return torch.stack(found)


def test_both_estimates_are_unbiased() -> None:
    """Over all batches of 3 of 6 examples their means are the variance and the squared mean gradient of the 6."""
    model, data = linear_problem(6)
    batches = [torch.tensor(rows) for rows in itertools.combinations(range(6), 3)]
    found = torch.tensor([estimates_of(model, data, rows) for rows in batches], dtype=torch.float64).mean(0)
    gradients = gradients_of(model, data)
    trace = float(gradients.var(0).sum())
    expected = [trace, float(gradients.mean(0).square().sum()) - trace / 6]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_examples_with_weights() -> None:
    """Against the formulas at the top of the file, example by example; one weighs nothing."""
    model, data = linear_problem(5)
    weights = torch.tensor([1.0, 4.0, 0.0, 2.0, 3.0], dtype=torch.float64)
    shares = weights / weights.sum()
    gradients = gradients_of(model, data)
    single, whole = float(shares @ gradients.square().sum(1)), float((shares @ gradients).square().sum())
    q = float(shares.square().sum())
    expected = ((single - whole) / (1 - q), (whole - q * single) / (1 - q))
    assert estimates_of(model, data, torch.arange(5), weights) == pytest.approx(expected, rel=1e-12)


def test_a_step_with_all_examples_agrees_with_the_measure(make_config: Make, digits: Source) -> None:
    config = make_config(batch_size=300, epochs=1, noise_scale="all", learning_rate=1e-3)
    trial = Trial(config, digits)
    data, model = trial.training.data, trial.training.model
    loss = ModelLoss(
        model, as_a(Tensor, data.train_inputs), as_a(Tensor, data.train_labels), dtype=torch.float64
    )  # at the first weights
    expected = per_example_noise_scale(loss.of_examples, loss.params, examples=300)
    trial.train()
    (row,) = trial.training.epochs
    assert row["gradient_noise_trace"] == pytest.approx(expected.trace, rel=1e-5)
    assert row["gradient_noise_squared_gradient"] == pytest.approx(expected.squared_gradient, rel=1e-4)
    assert row["gradient_noise_scale"] == pytest.approx(expected.value, rel=1e-4)
    layers = json.loads(row["gradient_noise_layers"])
    assert math.fsum(layer["trace"] for layer in layers.values()) == pytest.approx(row["gradient_noise_trace"])
    assert (row["gradient_noise_scale_low"], row["gradient_noise_scale_high"]) == (None, None)  # after one step


@pytest.mark.parametrize(
    ("which", "changes"),
    [
        ("all", {}),
        ("normalization", {"micro_batch_size": 3}),
        ("all", {"sam_radius": 0.05}),
        ("normalization", {"proximal": 0.1}),
        ("all", {"precision": "bfloat16"}),
    ],
)
def test_the_training_stays_the_same(which: str, changes: dict[str, Any]) -> None:
    fields = dict(changes)
    micro_batch_size, data = fields.pop("micro_batch_size", None), tokens()
    states, epochs = [], []
    for noise_scale in (None, which):
        training = Training(config_of(data, noise_scale=noise_scale, **fields), gpt(), data, None, micro_batch_size)
        while not training.finished:
            training.train_epoch()
        states.append(training.model.state_dict())
        epochs.append(
            [{k: v for k, v in row.items() if k not in (*NOISE_COLUMNS, "seconds")} for row in training.epochs]
        )
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert epochs[0] == epochs[1]
    assert training.epochs[-1]["gradient_noise_trace"] > 0


def test_micro_batches_find_the_same(make_config: Make, digits: Source) -> None:
    rows = []
    for micro_batch_size in (None, 7):
        trial = Trial(make_config(noise_scale="all", epochs=1), digits, micro_batch_size=micro_batch_size)
        trial.train()
        rows.append(trial.training.epochs[-1])
    for name in ("gradient_noise_trace", "gradient_noise_squared_gradient", "gradient_noise_scale_low"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-3)


def test_after_the_first_steps_a_third_is_watched() -> None:
    """Those of 0 to 59 are 0 to 39, and 42, 45, ...; a resumed trial goes on with the same ones."""
    model, data = linear_problem(6)
    watched: list[int] = []

    def run(scale: NoiseScale, steps: range) -> None:
        for step in steps:

            def closure(step: int = step) -> Tensor:
                model.zero_grad()
                loss: Tensor = model(data.train_inputs).square().mean()
                loss.backward()
                watched.extend([step] * scale._is_watching)
                return loss

            scale.watched(closure, 6, None)()

    scales = [NoiseScale(model, "all", data, load_task("regression"), Workers()) for _ in range(2)]
    run(scales[0], range(50))
    scales[1].load_state_dict(scales[0].state_dict())
    run(scales[1], range(50, 60))
    assert watched == [*range(40), *range(42, 60, 3)]


def test_averages_are_of_the_last_steps() -> None:
    """Against the weights DECAY^(age), written out."""
    torch.manual_seed(0)
    a, b = torch.rand(2, 30, dtype=torch.float64)
    average = SmoothedRatio(1)
    for one, two in zip(a, b, strict=True):
        average.add(one[None], two[None])
    average.add(torch.tensor([math.nan]), torch.tensor([1.0]))  # left out
    weights = DECAY ** torch.arange(29, -1, -1, dtype=torch.float64)
    weights /= weights.sum()
    ratio, low, high, trace, squared = (not_none(part) for part in average.results()[0])
    assert (trace, squared) == pytest.approx((float(weights @ a), float(weights @ b)), rel=1e-12)
    assert ratio == pytest.approx(trace / squared, rel=1e-12)
    assert low < ratio < high
    q = float(weights.square().sum())
    away = torch.stack([a, b]) - torch.tensor([[trace], [squared]])
    covariance = (weights * away @ away.T) * q / (1 - q)
    t = student_t(1 / q - 1)
    for end in (low, high):  # where the ratio is rejected exactly
        distance = (trace - end * squared) ** 2
        variance = covariance[0, 0] - 2 * end * covariance[0, 1] + end**2 * covariance[1, 1]
        assert distance == pytest.approx(float(t**2 * variance), rel=1e-9)


def test_quantiles_and_ratios_of_known_means() -> None:
    table = {1: 12.70620, 4: 2.776445, 10: 2.228139, 38: 2.024394, 1e9: 1.959964}
    assert [student_t(freedom) for freedom in table] == pytest.approx([*table.values()], rel=1e-6)
    assert fieller(2.0, 1.0, 0.04, 0.0, 0.0) == pytest.approx((1.8, 2.2))  # of a known denominator
    assert fieller(2.0, 1.0, 0.0, 0.25, 0.0) == pytest.approx((2 / 1.5, 2 / 0.5))  # of a known numerator
    low, high = fieller(2.0, 0.1, 0.0, 0.25, 0.0)
    assert low == pytest.approx(2 / 0.6)
    assert high is None  # the denominator may be 0
    assert fieller(0.1, 0.1, 1.0, 1.0, 0.0) == (None, None)
    assert fieller(0.5, -0.5, 1.0, 1.0, 1.0) == (None, None)  # up to 1/3 and from 3 on


@pytest.mark.parametrize(
    ("steps", "length"),
    [(30, 1.0), *(pytest.param(100, length, marks=pytest.mark.slow) for length in (1.0, 0.3))],
)
def test_intervals_hold_the_noise_scale(steps: int, length: float) -> None:
    """In 95 % of 4000 trainings: Gaussian gradients of 8 examples, G = (length, 0, ...), Sigma = diag(1, ..., 5)."""
    torch.manual_seed(0)
    trainings, examples, sigma = 4000, 8, torch.arange(1.0, 6.0)
    average = SmoothedRatio(trainings)
    for _ in range(steps):
        gradients = torch.randn(trainings, examples, 5) * sigma.sqrt()
        gradients[..., 0] += length
        single, whole = gradients.square().sum(2).mean(1), gradients.mean(1).square().sum(1)
        q = 1 / examples
        average.add((single - whole) / (1 - q), (whole - q * single) / (1 - q))
    truth = float(sigma.sum()) / length**2
    intervals = [(low or 0.0, math.inf if high is None else high) for _, low, high, _, _ in average.results()]
    share = sum(low <= truth <= high for low, high in intervals) / trainings
    assert 0.93 <= share <= 0.97


def test_a_trial_with_a_noise_scale(make_config: Make, digits: Source, tmp_path: Path) -> None:
    """Resumed to the same rows; part of no identity; null before a batch has a variance."""
    config = make_config(noise_scale="all", epochs=3)
    assert config.trial_id == make_config(epochs=3).trial_id
    whole = run_trial(config, digits)
    assert whole.trial["noise_scale"] == "all"
    assert whole.trial["noise_scale_parameters"] == whole.trial["parameters"]
    first = Trial(config, digits)
    first.train(seconds=0)
    first.save(tmp_path / "checkpoint.pt")
    second = Trial(config, digits)
    assert second.resume(tmp_path / "checkpoint.pt")
    second.train()
    assert [row["gradient_noise_layers"] for row in second.training.epochs] == [
        row["gradient_noise_layers"] for row in whole.epochs
    ]
    without = Trial(make_config(epochs=3), digits)
    without.train(seconds=0)
    without.save(tmp_path / "without.pt")
    assert not Trial(config, digits).resume(tmp_path / "without.pt")  # its first steps were not followed
    (row, *_) = run_trial(make_config(noise_scale="all", batch_size=1, epochs=1, measures=""), digits).epochs
    assert [row[name] for name in NOISE_COLUMNS] == [None] * len(NOISE_COLUMNS)


def test_measuring_more_keeps_the_noise_scale(make_config: Make, digits: Source) -> None:
    config = make_config(noise_scale="all", epochs=2, measures="")
    before = run_trial(config, digits)
    more = dataclasses.replace(config, measures="hessian_trace").lacking(before.trial["measured"])
    assert more is not None
    trial = Trial(more, digits, known=before)
    trial.train()
    trial.measure()
    after = trial.record()
    names = ("noise_scale", "noise_scale_parameters")
    assert [after.trial[name] for name in names] == [before.trial[name] for name in names]
    assert after.epochs == before.epochs


def test_what_is_refused(make_config: Make, digits: Source) -> None:
    for changes, message in (
        ({"model_options": '{"widths": [16], "batch_norm": true}'}, "batch norm mixes examples"),
        ({"noise_scale": "normalization"}, "`noise_scale` normalization needs trainable layers of supported types"),
        ({"noise_scale": "some"}, "`noise_scale` must be one of normalization, all"),
        ({"noise_batch_size": 16}, "`noise_scale` cannot be used with `noise_batch_size`"),
        ({"trial": "module:Class"}, "`noise_scale` cannot be used with --trial"),
    ):
        with pytest.raises(UserError, match=message):
            Trial(make_config(**{"noise_scale": "all", **changes}), digits)
