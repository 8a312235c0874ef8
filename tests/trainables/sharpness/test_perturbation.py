"""Random perturbations: closed forms on linear and quadratic losses, honest standard errors, invariance, bad input."""

import math
from typing import Any

import pytest
import torch
from oracles import quadratic, random
from torch import Tensor

from trainables.sharpness.objective import Loss, Objective
from trainables.sharpness.perturbation import pac_bayes_width, perturbation_sharpness

KINDS = ["gaussian", "sphere", "box"]


def symmetric(seed: int, n: int) -> Tensor:
    root = random(seed, n, n)
    return (root + root.T) / 2 + torch.eye(n, dtype=torch.float64)


def expected_rise(kind: str, scale: float, hessian: Tensor) -> float:
    """scale^2 tr(H) / 2, / (2 n) or / 6."""
    n = len(hessian)
    return scale**2 * float(hessian.trace()) * {"gaussian": 1 / 2, "sphere": 1 / (2 * n), "box": 1 / 6}[kind]


def relu_network(params: Tensor) -> Tensor:
    """Mean cross-entropy of a 5-8-3 ReLU network without biases, 64 weights, on 20 fixed examples."""
    inputs, labels = random(1, 20, 5), torch.arange(20) % 3
    hidden = (inputs.to(params) @ params[:40].view(5, 8)).relu()
    return torch.nn.functional.cross_entropy(hidden @ params[40:].view(8, 3), labels)


def rescaled(params: Tensor, a: float) -> Tensor:
    return torch.cat([a * params[:40], params[40:] / a])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("gradient_scale", [0.0, 10.0])
def test_quadratic(kind: Any, adaptive: bool, gradient_scale: float) -> None:
    x, hessian = random(0, 30), symmetric(1, 30)
    loss = quadratic(hessian, gradient_scale * random(2, 30), x, offset=0.5)
    result = perturbation_sharpness(loss, x, scale=0.1, kind=kind, adaptive=adaptive, samples=800)
    seen = torch.diag(x.abs()) @ hessian @ torch.diag(x.abs()) if adaptive else hessian
    assert abs(result.mean - expected_rise(kind, 0.1, seen)) < 4 * result.stderr
    assert result.stderr < 0.2 * abs(result.mean)
    assert result.max > result.mean
    assert result.loss_center == 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adaptive", [False, True])
def test_pairs_cancel_the_gradient(kind: Any, adaptive: bool) -> None:
    x, g = random(3, 40), random(4, 40)
    linear = perturbation_sharpness(lambda p: g @ (p - x), x, scale=2.0, kind=kind, adaptive=adaptive)
    assert linear.mean == pytest.approx(0, abs=1e-13)
    assert linear.stderr == pytest.approx(0, abs=1e-13)
    assert linear.max > 0
    flat, tilted = (
        perturbation_sharpness(quadratic(symmetric(5, 40), slope * g, x), x, scale=0.1, kind=kind, adaptive=adaptive)
        for slope in (0.0, 5.0)
    )
    assert tilted.mean == pytest.approx(flat.mean, rel=1e-9)
    assert tilted.stderr == pytest.approx(flat.stderr, rel=1e-9)
    assert tilted.max > flat.max


def test_sphere_on_an_isotropic_quadratic_is_exact() -> None:
    x = random(6, 50)
    loss = quadratic(3 * torch.eye(50, dtype=torch.float64), random(7, 50), x)
    result = perturbation_sharpness(loss, x, scale=0.7, kind="sphere")
    assert result.mean == pytest.approx(3 * 0.7**2 / 2, rel=1e-12)
    assert result.stderr < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_reach_of_each_kind(kind: Any) -> None:
    """The largest distance from x, as the loss sees it: ||d|| = scale on the sphere, |d_i| <= scale in the box."""
    x, order = random(8, 10), 2 if kind == "sphere" else math.inf
    largest = perturbation_sharpness(
        lambda p: torch.linalg.vector_norm(p - x, ord=order), x, scale=0.3, kind=kind, samples=400
    ).max
    if kind == "gaussian":
        assert 0.75 < largest < 1.8  # the largest of 4000 normal numbers, 2.5 to 6 scales
    else:
        assert largest == pytest.approx(0.3, rel=1e-9 if kind == "sphere" else 1e-2)
        assert largest <= 0.3 * (1 + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_standard_error_covers(kind: Any) -> None:
    """200 seeds, a gradient that would mislead an error of single samples: 94.6 % within 2 errors (Student)."""
    x, hessian = random(9, 20), symmetric(10, 20)
    loss = quadratic(hessian, 5 * random(11, 20), x)
    exact = expected_rise(kind, 0.1, hessian)
    scores = []
    for seed in range(200):
        result = perturbation_sharpness(loss, x, scale=0.1, kind=kind, seed=seed)
        scores.append(abs(result.mean - exact) / result.stderr)
    inside = sum(score < 2 for score in scores) / 200
    assert 0.89 <= inside <= 0.99  # 4 binomial errors below 0.946


@pytest.mark.parametrize("kind", KINDS)
def test_only_adaptive_is_free_of_rescaling(kind: Any) -> None:
    x = random(12, 64)
    plain, adaptive = (
        [perturbation_sharpness(relu_network, p, scale=0.3, kind=kind, adaptive=a).mean for p in (x, rescaled(x, 10))]
        for a in (False, True)
    )
    assert adaptive[1] == pytest.approx(adaptive[0], rel=1e-9)
    assert abs(plain[1] / plain[0] - 1) > 0.5


def test_zero_weights_do_not_move() -> None:
    x = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    assert perturbation_sharpness(lambda p: p[0] ** 2 + p[2], x, scale=1.0, adaptive=True).max == 0
    assert perturbation_sharpness(lambda p: p[1] ** 2, x, scale=1.0, adaptive=True).max > 0


def test_float32_agrees_with_float64() -> None:
    x = random(13, 64)
    double = perturbation_sharpness(relu_network, x, scale=0.2)
    single = perturbation_sharpness(relu_network, x.float(), scale=0.2)
    assert single.mean == pytest.approx(double.mean, rel=1e-4)


@pytest.mark.parametrize("target", [1e-6, 0.1, 10.0])
def test_width_of_an_isotropic_quadratic(target: float) -> None:
    """sigma = sqrt(2 target / tr H), within the tolerance and 4 sampling errors, also with a gradient."""
    x = random(14, 1000)
    loss = quadratic(3 * torch.eye(1000, dtype=torch.float64), 0.01 * random(15, 1000), x)
    result = pac_bayes_width(loss, x, target=target)
    exact = math.sqrt(2 * target / 3000)
    assert abs(result.value - exact) <= 4 * result.stderr
    bracket = 0.01 * exact / 3**0.5
    assert result.stderr == pytest.approx(exact * result.rise_stderr / (2 * target), rel=0.02, abs=bracket)
    assert result.rise <= target
    assert result.converged


def test_adaptive_width_of_a_quadratic() -> None:
    x, curvatures = random(16, 1000), random(17, 1000) ** 2
    result = pac_bayes_width(quadratic(torch.diag(curvatures), torch.zeros_like(x), x), x, adaptive=True)
    exact = math.sqrt(0.2 / float((curvatures * x**2).sum()))
    assert abs(result.value - exact) <= 4 * result.stderr


@pytest.mark.parametrize(
    ("power", "curvatures"),
    [pytest.param(power, kind, marks=pytest.mark.slow) for power, kind in ((2, "equal"), (2, "harmonic"), (4, "equal"))]
    + [(4, "harmonic")],
)
def test_standard_error_of_a_width_covers(power: int, curvatures: str) -> None:
    """f = sum h_i |d_i|^power, so sigma = (target / (c sum h))^(1 / power), c the Gaussian moment 1 or 3. Of 100 seeds
    93.6 % are within 2 errors (Student, 15 degrees of freedom) where the rise is nearly normal; with the bracket in
    the error more, and less where a few curvatures rule the rise: 4 binomial errors below 93.6 % is 84 %."""
    h = torch.ones(50) if curvatures == "equal" else 1 / torch.arange(1, 51)
    x, h = torch.zeros(50, dtype=torch.float64), h.double()
    exact = (0.1 / ({2: 1, 4: 3}[power] * float(h.sum()))) ** (1 / power)
    results = [pac_bayes_width(lambda p: h @ p.abs() ** power, x, seed=seed) for seed in range(100)]
    scores = torch.tensor([abs(result.value - exact) / result.stderr for result in results])
    assert float((scores <= 2).double().mean()) >= 0.84
    assert 0.7 < float(scores.square().mean().sqrt()) < 1.4  # neither too small nor too large


LOSSES: dict[str, Loss] = {
    "quartic": lambda p: ((p - 1) ** 4).sum(),
    "kink": lambda p: (p - 1).abs().sum(),
    "bounded": lambda p: ((p - 1) ** 2).sum().tanh(),
    "wall": lambda p: torch.where((p - 1).abs().max() > 0.05, torch.inf, 1.0) * ((p - 1) ** 2).sum(),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_width_brackets_the_target(name: str, tol: float) -> None:
    """By the definition: the same draws rise to at most the target at sigma, and beyond it at (1 + tol) sigma."""
    loss, x = LOSSES[name], torch.ones(30, dtype=torch.float64)
    result = pac_bayes_width(loss, x, tol=tol, samples=16)
    assert result.converged
    at, beyond = (
        perturbation_sharpness(loss, x, scale=scale * result.value, samples=16).mean for scale in (1, 1 + tol * 1.001)
    )
    assert at == pytest.approx(result.rise, rel=1e-12)
    assert at <= 0.1
    assert not beyond <= 0.1


def test_only_the_adaptive_width_is_free_of_rescaling() -> None:
    x = random(18, 64)
    plain, adaptive = (
        [pac_bayes_width(relu_network, p, adaptive=a).value for p in (x, rescaled(x, 10))] for a in (False, True)
    )
    assert adaptive[1] == pytest.approx(adaptive[0], rel=1e-6)
    assert abs(plain[1] / plain[0] - 1) > 0.5


def test_width_without_a_crossing_is_infinite() -> None:
    x = torch.ones(5, dtype=torch.float64)
    for loss in (lambda p: -((p - 1) ** 2).sum(), lambda p: 0.01 * ((p - 1) ** 2).sum().tanh()):
        result = pac_bayes_width(loss, x)
        assert result.value == math.inf
        assert math.isnan(result.stderr)
        assert not result.converged


def test_not_finite_is_a_result() -> None:
    x = torch.ones(3, dtype=torch.float64)
    for loss in (lambda p: p.sum() / 0.0, lambda p: torch.where(p[0] > 1, torch.inf, 1.0) * p.sum()):
        result = perturbation_sharpness(loss, x, scale=0.1)
        assert all(math.isnan(number) for number in (result.mean, result.max, result.stderr))
    nowhere = pac_bayes_width(lambda p: p.sum() / 0.0, x)
    assert math.isnan(nowhere.value)
    assert not nowhere.converged
    step = pac_bayes_width(lambda p: torch.where(p[0] != 1, torch.inf, 1.0) * p.sum(), x)
    assert (step.value, step.converged) == (0, False)


def test_repeated_calls_agree_and_leave_the_global_random_state() -> None:
    x, state = random(19, 64), torch.get_rng_state()
    assert perturbation_sharpness(relu_network, x, scale=0.1) == perturbation_sharpness(relu_network, x, scale=0.1)
    assert pac_bayes_width(relu_network, x) == pac_bayes_width(relu_network, x)
    one, other = (perturbation_sharpness(relu_network, x, scale=0.1, seed=seed).mean for seed in (0, 1))
    assert one != other
    assert torch.equal(state, torch.get_rng_state())


def test_evaluations_are_counted() -> None:
    objective = Objective(relu_network)
    result = perturbation_sharpness(objective, random(20, 64), scale=0.1, samples=10)
    assert result.evaluations == objective.evaluations == 12
    width = pac_bayes_width(objective, random(20, 64), samples=10)
    assert width.evaluations == objective.evaluations - 12


@pytest.mark.parametrize(
    ("measure", "arguments", "message"),
    [
        (perturbation_sharpness, {"scale": 0.0}, "`scale` must be a number above 0"),
        (perturbation_sharpness, {"scale": math.inf}, "`scale` must be a number above 0"),
        (perturbation_sharpness, {"scale": 1.0, "kind": "cube"}, "`kind` must be 'gaussian', 'sphere' or 'box'"),
        (perturbation_sharpness, {"scale": 1.0, "samples": 5}, "`samples` must be even and at least 4"),
        (pac_bayes_width, {"samples": 2}, "`samples` must be even and at least 4"),
        (pac_bayes_width, {"target": -1.0}, "`target` must be a number above 0"),
        (pac_bayes_width, {"tol": math.nan}, "`tol` must be a number above 0"),
    ],
)
def test_bad_arguments(measure: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(lambda p: p.sum(), torch.ones(4).double(), **arguments)
    with pytest.raises(ValueError, match="must be deterministic"):
        perturbation_sharpness(lambda p: (p * torch.rand(4)).sum(), torch.ones(4).double(), scale=1.0)
