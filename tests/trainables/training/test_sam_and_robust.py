"""Gradients at perturbed weights: quadratics in closed form, the maximum by a grid, and what must stay as it was."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.training.sam_and_robust import robust_gradient, sam_gradient

HESSIAN = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
POINT = torch.tensor([0.7, -0.4], dtype=torch.float64)
WAYS = [
    partial(sam_gradient, radius=0.1, adaptive=False),
    partial(sam_gradient, radius=0.1, adaptive=True),
    partial(robust_gradient, epsilon=0.1),
]


class Quadratic(nn.Module):
    """f(x) = x^T H x / 2; keeps the points that it was asked at."""

    def __init__(self, point: Tensor = POINT) -> None:
        super().__init__()
        self.x = nn.Parameter(point.clone())
        self.unused = nn.Parameter(torch.ones(2))
        self.points: list[Tensor] = []

    def closure(self) -> Tensor:
        self.points.append(self.x.detach().clone())
        loss = self.x @ HESSIAN @ self.x / 2
        loss.backward()
        return loss


def gradient_of(model: Quadratic) -> Tensor:
    assert model.x.grad is not None
    return model.x.grad


def test_sam_on_a_quadratic() -> None:
    model, g = Quadratic(), HESSIAN @ POINT
    loss = sam_gradient(model, model.closure, radius=0.3, adaptive=False)
    assert loss.item() == pytest.approx((POINT @ g / 2).item(), rel=1e-14)
    torch.testing.assert_close(gradient_of(model), HESSIAN @ (POINT + 0.3 * g / g.norm()), rtol=1e-14, atol=0)
    assert torch.equal(model.x, POINT)


def test_adaptive_sam_on_a_quadratic() -> None:
    model, g, scale = Quadratic(), HESSIAN @ POINT, POINT.abs() + 0.01
    sam_gradient(model, model.closure, radius=0.3, adaptive=True)
    offset = 0.3 * scale**2 * g / (scale * g).norm()
    torch.testing.assert_close(gradient_of(model), HESSIAN @ (POINT + offset), rtol=1e-14, atol=0)
    assert (offset / scale).norm().item() == pytest.approx(0.3)


def test_nothing_to_climb_at_a_zero_gradient() -> None:
    for way in WAYS:
        model = Quadratic(torch.zeros(2, dtype=torch.float64))
        way(model, model.closure)
        assert torch.equal(gradient_of(model), torch.zeros(2, dtype=torch.float64))


def test_one_step_of_robust_training_is_sam() -> None:
    one, two = Quadratic(), Quadratic()
    sam_gradient(one, one.closure, radius=0.3)
    robust_gradient(two, two.closure, epsilon=0.3, steps=1)
    torch.testing.assert_close(gradient_of(two), gradient_of(one), rtol=1e-14, atol=0)


def test_robust_training_finds_the_worst_point_in_the_ball() -> None:
    epsilon = 0.8
    model = Quadratic()
    robust_gradient(model, model.closure, epsilon=epsilon, steps=20)
    assert len(model.points) == 21
    assert max((point - POINT).norm().item() for point in model.points) <= epsilon * (1 + 1e-12)
    angles = torch.linspace(0, 2 * math.pi, 20001, dtype=torch.float64)
    circle = POINT + epsilon * torch.stack([angles.cos(), angles.sin()], dim=1)
    values = (circle @ HESSIAN * circle).sum(1) / 2
    found = [(point @ HESSIAN @ point / 2).item() for point in model.points]
    assert found[-1] == pytest.approx(values.max().item(), rel=2e-3)
    assert found[-1] > max(found[:10])
    torch.testing.assert_close(gradient_of(model), HESSIAN @ model.points[-1], rtol=1e-14, atol=0)
    assert torch.equal(model.x, POINT)


def network() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    return model, torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3


@pytest.mark.parametrize("way", WAYS)
def test_network_is_left_as_one_plain_pass_leaves_it(way: Callable[..., Tensor]) -> None:
    states, gradients, following = [], [], []
    for take in (way, lambda _, closure: closure()):
        model, inputs, labels = network()
        optimizer = torch.optim.SGD(model.parameters())

        def closure() -> Tensor:
            optimizer.zero_grad()  # noqa: B023
            loss = cross_entropy(model(inputs), labels)  # noqa: B023
            loss.backward()
            return loss

        take(model, closure)
        states.append(model.state_dict())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        following.append(torch.rand(2))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])  # weights and statistics
    assert torch.equal(*following)
    # The gradient is another one, but of the same dropout masks: other masks give one that is far off.
    far = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert 1e-4 < far < 0.5


@pytest.mark.parametrize("way", WAYS)
def test_weights_come_back_after_an_exception(way: Callable[..., Tensor]) -> None:
    model, inputs, labels = network()
    weights = [p.detach().clone() for p in model.parameters()]
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        way(model, closure)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), weights, strict=True))
    assert model[1].track_running_stats
