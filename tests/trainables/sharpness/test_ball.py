"""Worst case in a ball: closed forms, the exact trust-region maximum, corners, invariance, m-sharpness, bad input."""

import math
from typing import Any

import pytest
import torch
from oracles import Scouted, best_gain_of_corners, quadratic, random, rotated
from torch import Tensor

from trainables.sharpness.ball import ball_sharpness, m_sharpness
from trainables.sharpness.objective import Loss, Objective


def symmetric(seed: int, n: int, shift: float = 0.0) -> Tensor:
    root: Tensor = random(seed, n, n) / n**0.5
    return (root + root.T) / 2 + shift * torch.eye(n, dtype=torch.float64)


def trust_region_maximum(hessian: Tensor, gradient: Tensor, radius: float) -> float:
    """max g.d + d'Hd / 2 over ||d|| <= r: d = (m - H)^-1 g, m >= max(lambda_max, 0), and ||d|| = r where m > 0.

    By bisection of the secular equation ||(m - H)^-1 g|| = r in the eigenbasis (Nocedal and Wright, section 4.3); g
    must not be orthogonal to the top eigenvector.
    """
    values, vectors = torch.linalg.eigh(hessian)
    coefficients = vectors.T @ gradient
    low = max(float(values[-1]), 0.0)
    high = low + float(gradient.norm()) / radius + 1
    if values[-1] < 0 and (coefficients / values).norm() <= radius:  # inside the ball
        return float((coefficients**2 / -values).sum() / 2)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (coefficients / (middle - values)).norm() > radius else (low, middle)
    step = coefficients / (high - values)
    return float(coefficients @ step + (values * step**2).sum() / 2)


def relu_network(params: Tensor, examples: slice = slice(None)) -> Tensor:
    """Mean cross-entropy of a 5-8-3 ReLU network without biases, 64 weights, on 20 fixed examples."""
    inputs, labels = random(1, 20, 5)[examples], (torch.arange(20) % 3)[examples]
    hidden = (inputs.to(params) @ params[:40].view(5, 8)).relu()
    return torch.nn.functional.cross_entropy(hidden @ params[40:].view(8, 3), labels)


def rescaled(params: Tensor, a: float) -> Tensor:
    return torch.cat([a * params[:40], params[40:] / a])


def first_order_gain(loss: Loss, params: Tensor, radius: float, norm: str, reach: Tensor) -> float:
    """The rise at the (A)SAM point, naively."""
    leaf = params.clone().requires_grad_()
    gradient = reach * torch.autograd.grad(loss(leaf), leaf)[0]
    unit = gradient / gradient.norm() if norm == "l2" else gradient.sign()
    return float(loss(params + radius * reach * unit) - loss(params))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_linear_loss(norm: Any, adaptive: bool) -> None:
    """rho ||g||_2, rho ||g||_1, rho || |w| g ||_2, rho sum |w_i g_i|."""
    x, g = random(0, 40), random(1, 40)
    result = ball_sharpness(lambda p: g @ (p - x), x, radius=0.05, norm=norm, adaptive=adaptive)
    seen = x.abs() * g if adaptive else g
    assert result.value == pytest.approx(0.05 * float(seen.norm(p=2 if norm == "l2" else 1)), rel=1e-12)
    assert result.loss_center == 0
    assert result.converged


@pytest.mark.parametrize("n", [1, 2, 30, 300])
@pytest.mark.parametrize("adaptive", [False, True])
def test_l2_at_a_minimum_is_the_top_eigenvalue(n: int, adaptive: bool) -> None:
    """g = 0, a SAM step sees nothing: rho^2 lambda_max(D H D) / 2, D = I or diag |x|."""
    x, root = random(2, n), random(3, n, n) / n**0.5
    hessian = root @ root.T
    result = ball_sharpness(quadratic(hessian, torch.zeros_like(x), x), x, radius=0.1, adaptive=adaptive)
    scaled = x.abs() * hessian * x.abs()[:, None] if adaptive else hessian
    exact = 0.1**2 * float(torch.linalg.eigvalsh(scaled)[-1]) / 2
    assert 0.99 * exact <= result.value <= exact * (1 + 1e-9)
    assert result.converged


@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("gradient_scale", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_l2_against_the_exact_trust_region(shift: float, gradient_scale: float, seed: int) -> None:
    """Definite and indefinite quadratics, the maximum on the sphere or inside: at least 99 %, and never above."""
    x, hessian, g = random(seed, 30), symmetric(10 + seed, 30, shift), gradient_scale * random(20 + seed, 30)
    result = ball_sharpness(quadratic(hessian, g, x), x, radius=0.7, seed=seed)
    exact = trust_region_maximum(hessian, g, 0.7)
    assert 0.99 * exact <= result.value <= exact * (1 + 1e-9)
    assert result.converged


@pytest.mark.parametrize("radius", [0.05, 5.0])
@pytest.mark.parametrize("gradient_scale", [1e-3, 1.0])
@pytest.mark.parametrize("top", [None, 0.0, 0.01])
@pytest.mark.parametrize("decades", [1, 3])
def test_l2_on_very_different_negative_curvatures(
    decades: int, top: float | None, gradient_scale: float, radius: float
) -> None:
    """Concave, or nearly, with curvatures from 10^-decades to 10^decades: where ascent along gradients crawls."""
    values = -torch.logspace(-decades, decades, 30, dtype=torch.float64)
    if top is not None:
        values[0] = top
    x, hessian, g = random(1, 30), rotated(values), gradient_scale * random(2, 30)
    result = ball_sharpness(quadratic(hessian, g, x), x, radius=radius)
    exact = trust_region_maximum(hessian, g, radius)
    assert 0.99 * exact <= result.value <= exact * (1 + 1e-9)
    assert result.converged


def test_l2_on_a_concave_loss_that_is_not_quadratic() -> None:
    """-sum h_i (cosh(d_i - a_i) - cosh(a_i)), greatest at d = a."""
    h, a, x = torch.logspace(-2, 2, 30, dtype=torch.float64), 0.1 * random(3, 30), random(4, 30)
    result = ball_sharpness(lambda p: -(h * ((p - x - a).cosh() - a.cosh())).sum(), x, radius=2.0)
    assert result.value == pytest.approx(float((h * (a.cosh() - 1)).sum()), rel=0.01)
    assert result.converged


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gradient_scale", [0.0, 1e-3, 1.0])
def test_linf_reaches_a_good_corner(seed: int, gradient_scale: float) -> None:
    """Dense convex quadratics, all 2^10 corners tried: at least 85 % of the best (a hard problem), never above it."""
    root, x = random(seed, 10, 10), random(100 + seed, 10)
    hessian, gradient = root @ root.T, gradient_scale * random(200 + seed, 10)
    result = ball_sharpness(quadratic(hessian, gradient, x), x, radius=0.01, norm="linf")
    best = best_gain_of_corners(hessian, gradient, torch.full_like(x, 0.01))
    assert 0.85 * best <= result.value <= best * (1 + 1e-9)


@pytest.mark.parametrize("adaptive", [False, True])
def test_linf_on_a_separable_quadratic(adaptive: bool) -> None:
    x, g, h = random(4, 50), 1e-4 * random(5, 50), random(6, 50).abs()
    result = ball_sharpness(quadratic(torch.diag(h), g, x), x, radius=0.02, norm="linf", adaptive=adaptive)
    reach = 0.02 * (x.abs() if adaptive else torch.ones_like(x))
    assert result.value == pytest.approx(float((g.abs() * reach + h * reach**2 / 2).sum()), rel=1e-9)
    assert result.converged


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_concave_at_its_top_has_no_rise(norm: Any, adaptive: bool) -> None:
    x = random(7, 10)
    loss = quadratic(-torch.eye(10, dtype=torch.float64), torch.zeros_like(x), x)
    result = ball_sharpness(loss, x, radius=0.3, norm=norm, adaptive=adaptive)
    assert result.value == 0
    assert result.converged


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_maximum_inside(norm: Any) -> None:
    """g.d - ||d||^2 / 2 has its maximum ||g||^2 / 2 at d = g, inside the ball."""
    x, g = random(8, 20), 0.01 * random(9, 20)
    result = ball_sharpness(quadratic(-torch.eye(20, dtype=torch.float64), g, x), x, radius=1.0, norm=norm)
    assert result.value == pytest.approx(float(g @ g) / 2, rel=1e-3)
    assert result.converged


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_never_below_the_first_order_point(norm: Any, adaptive: bool) -> None:
    for seed in range(2):
        x = random(30 + seed, 64)
        for radius in (1e-3, 0.1, 3.0):
            result = ball_sharpness(relu_network, x, radius=radius, norm=norm, adaptive=adaptive)
            reach = x.abs() if adaptive else torch.ones_like(x)
            sam = first_order_gain(relu_network, x, radius, norm, reach)
            assert result.value >= max(0.0, sam) * (1 - 1e-12)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_only_adaptive_is_free_of_rescaling(norm: Any) -> None:
    x = random(10, 64)
    plain, adaptive = (
        [ball_sharpness(relu_network, p, radius=0.1, norm=norm, adaptive=a).value for p in (x, rescaled(x, 10))]
        for a in (False, True)
    )
    assert adaptive[1] == pytest.approx(adaptive[0], rel=1e-6)
    assert abs(plain[1] / plain[0] - 1) > 0.5


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_zero_weights_do_not_move(norm: Any) -> None:
    x = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    assert ball_sharpness(lambda p: p[0] + p[2] ** 2, x, radius=1.0, norm=norm, adaptive=True).value == 0
    moved = ball_sharpness(lambda p: p[1] + p[2] ** 2, x, radius=0.5, norm=norm, adaptive=True)
    assert moved.value == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_float32_agrees_with_float64(norm: Any) -> None:
    x = random(11, 64)
    double, single = (ball_sharpness(relu_network, p, radius=0.1, norm=norm) for p in (x, x.float()))
    assert single.value == pytest.approx(double.value, rel=1e-2)
    tiny = torch.full((4,), 1e-30)  # squares underflow in float32
    assert ball_sharpness(lambda p: tiny @ p, torch.zeros(4), radius=1.0).value == pytest.approx(2e-30, rel=1e-5)


def test_repeated_calls_agree_and_leave_the_global_random_state() -> None:
    x, state = random(12, 64), torch.get_rng_state()
    assert ball_sharpness(relu_network, x, radius=0.1) == ball_sharpness(relu_network, x, radius=0.1)
    assert torch.equal(state, torch.get_rng_state())
    assert x.grad is None


def test_evaluations_are_counted() -> None:
    for norm in ("l2", "linf"):
        objective = Objective(relu_network)
        assert (
            ball_sharpness(objective, random(13, 64), radius=0.1, norm=norm).evaluations == objective.evaluations <= 185
        )


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_not_finite_is_a_result(norm: Any) -> None:
    nowhere = ball_sharpness(lambda p: p.sum() / 0.0, torch.ones(3).double(), radius=0.1, norm=norm)
    assert math.isnan(nowhere.value)
    assert not nowhere.converged
    wall = ball_sharpness(
        lambda p: torch.where(p[0] > 0.02, torch.inf, 1.0) * (1 + p[0] + p[1]),
        torch.zeros(2).double(),
        radius=0.1,
        norm=norm,
    )
    assert 0 < wall.value < math.inf  # the best finite point


def test_m_sharpness_is_the_mean_of_the_groups() -> None:
    """Linear groups with gradients g_j: sum m_j rho ||g_j|| / sum m_j, above rho ||mean g||."""
    x, gradients = random(14, 10), random(15, 4, 10)
    losses: list[Loss] = [lambda p, g=g: g @ p for g in gradients]  # type: ignore[misc]
    result = m_sharpness(iter(losses), x, radius=0.1, sizes=[1, 2, 3, 2])
    weights = torch.tensor([1.0, 2.0, 3.0, 2.0]).double() / 8
    assert result.value == pytest.approx(0.1 * float(weights @ gradients.norm(dim=1)), rel=1e-9)
    assert result.values == pytest.approx((0.1 * gradients.norm(dim=1)).tolist(), rel=1e-9)
    assert result.converged
    whole = ball_sharpness(lambda p: weights @ gradients @ p, x, radius=0.1)
    assert whole.value < result.value
    alone = m_sharpness(losses[:1], x, radius=0.1)
    assert alone.value == ball_sharpness(losses[0], x, radius=0.1).value
    assert result.evaluations == sum(ball_sharpness(loss, x, radius=0.1).evaluations for loss in losses)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_smaller_groups_are_sharper(norm: Any) -> None:
    x = random(16, 64)
    by_size = [
        m_sharpness(
            [lambda p, group=slice(s, s + m): relu_network(p, group) for s in range(0, 20, m)],  # type: ignore[misc]
            x,
            radius=0.1,
            norm=norm,
        ).value
        for m in (20, 10, 5)
    ]
    assert by_size[0] < by_size[1] < by_size[2]


def test_m_sharpness_with_a_group_that_is_not_finite() -> None:
    result = m_sharpness([lambda p: p.sum(), lambda p: p.sum() / 0.0], torch.ones(2).double(), radius=0.1)
    assert math.isnan(result.value)
    assert not result.converged
    assert math.isfinite(result.values[0])


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("factor", [1.0, 1.001, 0.5, math.nan])
def test_the_search_in_float32_is_measured_in_float64(factor: float, norm: str) -> None:
    """The rise is that of the loss itself, and where its float32 form tells another one, all of its own search's."""
    x, loss = random(1, 40), quadratic(symmetric(0, 40, 2.0), 1e-2 * random(2, 40), random(1, 40))
    plain = ball_sharpness(loss, x, radius=0.1, norm=norm)  # type: ignore[arg-type]
    objective = Scouted(loss, lambda p: factor * loss(p))
    result = ball_sharpness(objective, x, radius=0.1, norm=norm)  # type: ignore[arg-type]
    assert result.value == plain.value if factor == 1.0 else result.value == pytest.approx(plain.value, rel=0.01)
    assert result.converged
    assert objective.scout.evaluations > 5
    if abs(factor - 1) < 0.01:
        assert result.evaluations - objective.scout.evaluations < plain.evaluations / 2
    else:
        assert result.evaluations - objective.scout.evaluations > plain.evaluations / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": 0.0}, "`radius` must be a number above 0"),
        ({"radius": math.nan}, "`radius` must be a number above 0"),
        ({"radius": 1.0, "norm": "l1"}, "`norm` must be 'l2' or 'linf'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ball_sharpness(lambda p: p.sum(), torch.ones(4).double(), **arguments)


def test_bad_losses() -> None:
    x = torch.ones(4).double()
    with pytest.raises(ValueError, match="must be deterministic"):
        ball_sharpness(lambda p: (p * torch.rand(4)).sum(), x, radius=0.1)
    with pytest.raises(ValueError, match="`losses` must be some"):
        m_sharpness([], x, radius=0.1)
    with pytest.raises(ValueError, match="as many as `sizes`, got 1 and 2"):
        m_sharpness([lambda p: p.sum()], x, radius=0.1, sizes=[1, 2])
    with pytest.raises(ValueError, match="`sizes` must be above 0, got 0"):
        m_sharpness([lambda p: p.sum()], x, radius=0.1, sizes=[0])
