"""SVRG: no variance at the anchor, no bias elsewhere, and the same bits after a resume."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from narrow import as_a
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.data.dataset import Dataset
from trainables.runtime.errors import UserError
from trainables.tasks.by_name import load_task
from trainables.tasks.task import Task
from trainables.training.variance_reduction import VarianceReduction
from trainables.trial import Trial
from trainables.units import Amount

EXAMPLES, BATCH, CLASSES = 24, 6, 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, CLASSES)).double()


def made_up_data() -> Dataset:
    draws = torch.Generator().manual_seed(1)
    inputs = torch.randn(EXAMPLES, 5, generator=draws, dtype=torch.float64)
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=draws)
    return Dataset(inputs, labels, inputs, labels, CLASSES)


class Weighted(type(load_task("classification"))):  # type: ignore[misc]
    """Examples weigh 1, 2, 3 by their class."""

    mean_loss = Task.mean_loss

    def example_weights(self, labels: Tensor) -> Tensor:
        return labels.double() + 1

    def example_losses(self, outputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        losses: Tensor = super().example_losses(outputs, labels, smoothing)
        return losses * self.example_weights(labels)


def reduction(
    model: nn.Module, data: Dataset, every: str = "steps", value: int = 100, task: Task | None = None
) -> VarianceReduction:
    task = task or load_task("classification")

    def loss(inputs: Tensor, labels: Tensor) -> Tensor:
        return task.mean_loss(model(inputs), labels)

    return VarianceReduction(model, data, task, loss, Amount(value, every), BATCH)


def step(
    reduced: VarianceReduction, model: nn.Module, data: Dataset, rows: Tensor, task: Task | None = None
) -> list[Tensor]:
    task = task or load_task("classification")

    def closure() -> Tensor:
        model.zero_grad()
        loss = task.mean_loss(model(data.train_inputs[rows]), data.train_labels[rows])
        loss.backward()
        return loss

    reduced.gradient(closure, len(rows))
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def gradient_of(model: nn.Module, data: Dataset, rows: Tensor, task: Task | None = None) -> list[Tensor]:
    task = task or load_task("classification")
    loss = task.mean_loss(model(data.train_inputs[rows]), data.train_labels[rows])
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_at_the_anchor_every_batch_has_the_full_gradient() -> None:
    """Bit for bit the same, and equal to autograd on all examples at once."""
    model, data = network(), made_up_data()
    reduced = reduction(model, data)
    found = [step(reduced, model, data, rows) for rows in torch.arange(EXAMPLES).split(BATCH)]
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))
    torch.testing.assert_close(found[0], gradient_of(model, data, torch.arange(EXAMPLES)), rtol=1e-12, atol=1e-14)


def test_elsewhere_it_is_unbiased_and_follows_the_definition() -> None:
    """The mean over the batches of a partition is the full gradient; each is g_B(w) - g_B(a) + g(a) by autograd."""
    model, data, everything = network(), made_up_data(), torch.arange(EXAMPLES)
    reduced = reduction(model, data)
    step(reduced, model, data, everything[:BATCH])  # takes the anchor
    anchor = [parameter.detach().clone() for parameter in model.parameters()]
    batches = everything.flip(0).split(BATCH)
    at_anchor, full_at_anchor = [gradient_of(model, data, b) for b in batches], gradient_of(model, data, everything)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)).double())
    moved = [parameter.detach().clone() for parameter in model.parameters()]
    found = [step(reduced, model, data, rows) for rows in batches]
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), moved, strict=True))
    for own, rows, before in zip(found, batches, at_anchor, strict=True):
        expected = [g - a + f for g, a, f in zip(gradient_of(model, data, rows), before, full_at_anchor, strict=True)]
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-14)
    mean = [torch.stack(same).mean(0) for same in zip(*found, strict=True)]
    torch.testing.assert_close(mean, gradient_of(model, data, everything), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(found[0][0], found[1][0])
    assert not all(torch.equal(one, two) for one, two in zip(anchor, moved, strict=True))


def test_the_full_gradient_weighs_examples_as_the_task_does() -> None:
    model, data, task = network(), made_up_data(), Weighted()
    found = step(reduction(model, data, task=task), model, data, torch.arange(BATCH), task)
    expected = gradient_of(model, data, torch.arange(EXAMPLES), task)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("value", "unit", "expected"), [(3, "steps", {0, 3, 6}), (12, "examples", {0, 2, 4, 6}), (1.0, "epochs", {0, 4})]
)
def test_anchors_are_where_the_amount_says(value: int, unit: str, expected: set[int]) -> None:
    """24 examples in batches of 6: an epoch is 4 updates."""
    model, data = network(), made_up_data()
    reduced, seen = reduction(model, data, unit, value), set()
    for number in range(8):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
        step(reduced, model, data, torch.arange(BATCH))
        kept = as_a(list, reduced.state_dict()["anchor"])
        if all(torch.equal(one, two) for one, two in zip(kept, model.parameters(), strict=True)):
            seen.add(number)
    assert seen == expected


def svrg(make: Callable[..., TrialConfig], **changes: object) -> TrialConfig:
    fields = {"train_size": 40, "test_size": 20, "measure_examples": 10, "batch_size": 10, "epochs": 3, "measures": ""}
    fields |= {
        "svrg_every": "6steps",
        "optimizer": "sgd",
        "model_options": '{"widths": [8]}',
        "evaluate_every": "5steps",
    }
    return make(**fields | changes)


def test_a_resumed_trial_has_the_same_bits(
    make_config: Callable[..., TrialConfig], digits: Source, tmp_path: Path
) -> None:
    """Saved within an epoch, and between two anchors; without SVRG the weights are others."""
    config = svrg(make_config)
    straight, first, second = (Trial(config, digits) for _ in range(3))
    straight.train()
    first.training.train_epoch()
    first.save(tmp_path / "trial.pt")
    assert second.resume(tmp_path / "trial.pt")
    second.train()
    plain = Trial(dataclasses.replace(config, svrg_every=None), digits)
    plain.train()
    weights = [
        torch.cat([p.detach().flatten() for p in one.training.model.parameters()]) for one in (straight, second, plain)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": "crop_flip"}, "`svrg_every` cannot be used with augmentation"),
        ({"noise_batch_size": 5}, "`svrg_every` cannot be used with noise_batch_size"),
        ({"local_workers": 2, "local_steps": 2}, "`svrg_every` cannot be used with local_workers"),
        ({"sam_radius": 0.1}, "must take the gradient in one way, got sam_radius with svrg_every"),
        ({"noise_scale": "all"}, "`noise_scale` cannot be used with `svrg_every`"),
        ({"svrg_every": "often"}, "`svrg_every` must be a number and a unit"),
        ({"svrg_every": "0steps"}, "`svrg_every` must be a whole number of steps, 1 or more"),
        (
            {"model_options": '{"widths": [8], "batch_norm": true}'},
            "`svrg_every` cannot be used with a network with batch",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    make_config: Callable[..., TrialConfig], digits: Source, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError) as refusal:
        Trial(svrg(make_config, **changes), digits)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_trial_ids_without_it_stay(make_config: Callable[..., TrialConfig]) -> None:
    plain = svrg(make_config, svrg_every=None)
    assert "svrg_every" not in dataclasses.asdict(plain) or plain.canonical().svrg_every is None
    assert svrg(make_config, svrg_every="1").trial_id == svrg(make_config, svrg_every="1epochs").trial_id
    assert svrg(make_config).trial_id != plain.trial_id
