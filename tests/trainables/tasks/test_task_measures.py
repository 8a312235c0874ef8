"""Measures of every task's loss against dense float64: value, gradient, Hessian, Gauss-Newton matrix, gradient noise.

The naive loss of each task is written out over single units; its dense derivatives are autograd's.
"""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from narrow import as_a
from oracles import random
from torch import Tensor, nn
from torch.func import functional_call

from trainables.measures.by_name import MEASURES, measure
from trainables.measuring import OF_STEPS
from trainables.sharpness import (
    GaussNewton,
    ModelLoss,
    box_sharpness,
    hessian_eigenvalues,
    hessian_trace,
    per_example_noise_scale,
)
from trainables.tasks.by_name import load_task
from trainables.tasks.task import Task

EXAMPLES = 9


class Pair(Task):
    """Two outputs by name: a mean and a log variance, the negative log-likelihood of a Gaussian."""

    name = "pair"

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        mean, spread = as_a(Tensor, outputs.mean), as_a(Tensor, outputs.spread)
        return (mean - labels).square() * (-spread).exp() / 2 + spread / 2 + 2

    def weights(self, labels: Tensor) -> Tensor:
        return labels.abs()


class Named(nn.Module):
    """A network whose outputs are the fields of an object."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, inputs: Tensor) -> Any:
        mean, spread = self.layers(inputs).unbind(1)
        return SimpleNamespace(mean=mean, spread=spread)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "pair":
        return Named().double()
    outputs = {"regression": 2, "multilabel": 3, "binary": 1, "language": 4}[name]
    first: nn.Module = nn.Embedding(4, 3) if name == "language" else nn.Linear(3, 3)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(3, outputs)).double()


def data(name: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    if name == "language":
        tokens = torch.randint(4, (EXAMPLES, 5))
        return tokens, tokens.roll(1, 1).masked_fill(torch.arange(5) > torch.randint(5, (EXAMPLES, 1)), -100)
    inputs = torch.randn(EXAMPLES, 3, dtype=torch.float64)
    labels = {
        "regression": torch.randn(EXAMPLES, 2, dtype=torch.float64),
        "multilabel": torch.randint(2, (EXAMPLES, 3)).double(),
        "binary": torch.randint(2, (EXAMPLES,)),
        "pair": torch.randn(EXAMPLES, dtype=torch.float64),
    }
    return inputs, labels[name]


def unit_losses(name: str, outputs: Any, labels: Tensor) -> list[tuple[Tensor, float]]:
    """(loss, weight) of every unit, one at a time."""
    found: list[tuple[Tensor, float]] = []
    for n in range(len(labels)):
        if name == "pair":
            mean, spread, y = outputs.mean[n], outputs.spread[n], labels[n]
            found.append(((mean - y) ** 2 / (2 * spread.exp()) + spread / 2 + 2, abs(float(y))))
        elif name == "regression":
            found.append((sum((outputs[n, d] - labels[n, d]) ** 2 for d in range(2)) / 2, 1.0))
        elif name == "language":
            for t in range(labels.shape[1]):
                if labels[n, t] != -100:
                    found.append((-outputs[n, t].log_softmax(0)[labels[n, t]], 1.0))
        else:
            signs = 2 * labels[n].double().reshape(-1) - 1
            losses = [(1 + (-sign * z).exp()).log() for sign, z in zip(signs, outputs[n], strict=True)]
            found.append((sum(losses) / len(losses), 1.0))
    return found


def naive(name: str, model: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    shapes = {key: own.shape for key, own in model.named_parameters()}

    def loss(params: Tensor) -> Tensor:
        pieces = params.split([shape.numel() for shape in shapes.values()])
        own = {key: piece.view(shapes[key]) for key, piece in zip(shapes, pieces, strict=True)}
        units = unit_losses(name, functional_call(model, own, (inputs,)), labels)
        return torch.stack([w * one for one, w in units]).sum() / sum(w for _, w in units)

    return loss


@functools.cache
def dense(name: str) -> tuple[float, Tensor, Tensor]:
    """Value, gradient and Hessian of the naive loss at the network's parameters."""
    loss, expected = bound(name)
    x = loss.params
    return float(expected(x)), torch.func.grad(expected)(x), torch.autograd.functional.hessian(expected, x)


def bound(name: str, **options: Any) -> tuple[ModelLoss, Callable[[Tensor], Tensor]]:
    model, (inputs, labels) = network(name), data(name)
    task = Pair() if name == "pair" else load_task(name, [labels])
    return ModelLoss(model, inputs, labels, task=task, **options), naive(name, model, inputs, labels)


TASKS = ("regression", "multilabel", "binary", "language", "pair")


def directions_of(params: Tensor, chunk_size: int | None) -> Tensor:
    """Every coordinate; of products in chunks, which take as many times longer, three random directions."""
    if chunk_size is None:
        return torch.eye(len(params), dtype=params.dtype)
    return random(3, 3, len(params))


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("name", TASKS)
def test_value_gradient_and_hessian(name: str, chunk_size: int | None) -> None:
    loss, (expected, expected_gradient, expected_hessian) = bound(name, chunk_size=chunk_size)[0], dense(name)
    x = loss.params
    value, gradient = loss.value_and_gradient(x)
    assert value == pytest.approx(expected, rel=1e-12)
    assert loss.value(x) == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    directions = directions_of(x, chunk_size)
    product = loss.hessian(x)
    found = torch.stack([product(one) for one in directions])
    torch.testing.assert_close(found, directions @ expected_hessian, rtol=1e-9, atol=1e-11)
    if chunk_size is None:
        largest = hessian_eigenvalues(loss, x, tol=1e-9).values[0]
        torch.testing.assert_close(largest, torch.linalg.eigvalsh(expected_hessian)[-1], rtol=1e-7, atol=1e-9)
        assert hessian_trace(loss, x, samples=len(x)).value == pytest.approx(float(expected_hessian.trace()), rel=1e-8)


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("name", TASKS)
def test_gauss_newton(name: str, chunk_size: int | None) -> None:
    """G = sum of w J' H J / sum of w over units, J the Jacobian of a unit's outputs, H the loss's Hessian in these."""
    loss, _ = bound(name, chunk_size=chunk_size)
    model, (inputs, labels) = network(name), data(name)
    shapes = {key: own.shape for key, own in model.named_parameters()}

    def outputs(params: Tensor) -> Tensor:
        pieces = params.split([shape.numel() for shape in shapes.values()])
        own = {key: piece.view(shapes[key]) for key, piece in zip(shapes, pieces, strict=True)}
        found = functional_call(model, own, (inputs,))
        return torch.stack([found.mean, found.spread], 1) if name == "pair" else found

    def of_outputs(flat: Tensor) -> Tensor:
        shaped: Any = flat.view(outputs(loss.params).shape)
        if name == "pair":
            shaped = SimpleNamespace(mean=shaped[:, 0], spread=shaped[:, 1])
        units = unit_losses(name, shaped, labels)
        return torch.stack([w * one for one, w in units]).sum() / sum(w for _, w in units)

    jacobian = torch.func.jacrev(lambda params: outputs(params).flatten())(loss.params)
    inner = torch.autograd.functional.hessian(of_outputs, outputs(loss.params).detach().flatten())
    product, directions = GaussNewton(loss).hessian(loss.params), directions_of(loss.params, chunk_size)
    found = torch.stack([product(one) for one in directions])
    torch.testing.assert_close(found, directions @ jacobian.T @ inner @ jacobian, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", TASKS)
def test_examples_of_a_batch_average_to_the_loss(name: str) -> None:
    loss, expected = bound(name)
    x = loss.params
    whole = loss.of_examples(x, torch.arange(EXAMPLES))
    assert float(whole) == pytest.approx(float(expected(x)), rel=1e-12)
    alone = [float(loss.of_examples(x, torch.tensor([n]))) for n in range(EXAMPLES)]
    assert sum(alone) / EXAMPLES == pytest.approx(float(expected(x)), rel=1e-12)
    gradients = torch.stack(
        [torch.func.grad(lambda p, n=n: loss.of_examples(p, torch.tensor([n])))(x) for n in range(EXAMPLES)]
    )
    away = gradients - gradients.mean(0)
    found = per_example_noise_scale(loss.of_examples, x, examples=EXAMPLES)
    assert found.trace == pytest.approx(float((away**2).sum() / (EXAMPLES - 1)), rel=1e-9)


def test_a_group_of_examples_is_the_loss_of_these_alone() -> None:
    loss, _ = bound("language")
    model, (inputs, labels) = network("language"), data("language")
    part = slice(2, 6)
    own = naive("language", model, inputs[part], labels[part])
    assert loss.on(part).value(loss.params) == pytest.approx(float(own(loss.params)), rel=1e-12)
    assert loss.on(part).weight == float((labels[part] != -100).sum())


REFUSED = {
    "regression": {
        "laplace_log_evidence",
        "logit_normalized_l2_ball_sharpness",
        "logit_normalized_linf_ball_sharpness",
    },
    "multilabel": {
        "laplace_log_evidence",
        "logit_normalized_l2_ball_sharpness",
        "logit_normalized_linf_ball_sharpness",
    },
    "binary": {"logit_normalized_l2_ball_sharpness", "logit_normalized_linf_ball_sharpness"},
    "pair": {"laplace_log_evidence", "logit_normalized_l2_ball_sharpness", "logit_normalized_linf_ball_sharpness"},
    "language": set(),
}


SEE_THE_TASK = {
    "gauss_newton_max_eig",
    "gauss_newton_trace",
    "gradient_noise_scale",
    "curvature_noise_scale",
    "m_sharpness",
}.union(*REFUSED.values())
OTHERS = sorted(set(MEASURES) - OF_STEPS - SEE_THE_TASK)  # work on the loss as a function of the parameters


@pytest.mark.parametrize("name", TASKS)
def test_every_measure_has_a_value_or_is_refused_in_a_line(name: str) -> None:
    """Those that see more than a function of the parameters in every task, the others in one each."""
    loss, _ = bound(name)
    for one in (*sorted(SEE_THE_TASK), *OTHERS[TASKS.index(name) :: len(TASKS)]):
        if one in REFUSED[name]:
            with pytest.raises(ValueError, match=f"^[^\n]*{name}[^\n]*$"):
                measure(loss, [one])
        else:
            assert measure(loss, [one])


def test_padding_alone_is_refused() -> None:
    model, (inputs, labels) = network("language"), data("language")
    with pytest.raises(ValueError, match="padding alone"):
        ModelLoss(model, inputs, torch.full_like(labels, -100), task=load_task("language"))


def test_a_relative_rise_needs_a_loss_above_minus_one() -> None:
    loss, _ = bound("regression")
    center = loss.value(loss.params)
    assert box_sharpness(loss, loss.params).value > 0
    with pytest.raises(ValueError, match=r"`loss` must be above -1 .* add a constant"):
        box_sharpness(lambda x: (x**2).sum() - center - 2, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("chunk_size", [2, 4])
def test_recalibrated_batch_norm_of_weighted_examples(chunk_size: int) -> None:
    """Statistics are means over examples, the loss is one over weights: chunks come to what all data at once does."""
    torch.manual_seed(0)
    model, (inputs, labels) = Named().double(), data("pair")
    model.layers[1] = nn.Sequential(nn.BatchNorm1d(4, dtype=torch.float64), nn.Tanh())
    options: dict[str, Any] = {"task": Pair(), "batch_norm": "recalibrated"}
    whole, parts = (ModelLoss(model, inputs, labels, chunk_size=size, **options) for size in (EXAMPLES, chunk_size))
    x = whole.params
    direction = torch.linspace(-1, 1, len(x), dtype=torch.float64)
    assert parts.value(x) == pytest.approx(whole.value(x), rel=1e-12)
    for found, expected in zip(
        (parts.value_and_gradient(x)[1], parts.hessian(x)(direction), GaussNewton(parts).hessian(x)(direction)),
        (whole.value_and_gradient(x)[1], whole.hessian(x)(direction), GaussNewton(whole).hessian(x)(direction)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
