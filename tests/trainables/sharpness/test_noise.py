"""Noise scales against known per-example gradients, unbiasedness; stability against the descents themselves."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from oracles import quadratic, random
from torch import Tensor, nn

from trainables.sharpness.edge_of_stability import Form, stability, stability_threshold
from trainables.sharpness.model_loss import ModelLoss
from trainables.sharpness.noise import (
    BatchLoss,
    GradientNoiseScale,
    curvature_noise_scale,
    gradient_noise_scale,
    noise_scale_from_norms,
    per_example_noise_scale,
    sgd_noise_scale,
)
from trainables.sharpness.objective import Objective


def pull(centers: Tensor) -> BatchLoss:
    """Mean of |p - c_i|^2 / 2: example i has the gradient p - c_i."""
    return lambda params, indices: ((params - centers[indices]) ** 2).sum(dim=1).mean() / 2


def exact(gradients: Tensor) -> tuple[float, float]:
    """tr(Sigma) with N - 1, and |g|^2 - tr(Sigma) / N."""
    mean = gradients.mean(dim=0)
    trace = float(((gradients - mean) ** 2).sum()) / (len(gradients) - 1)
    return trace, float(mean @ mean) - trace / len(gradients)


@pytest.mark.parametrize("chunk_size", [None, 7, 1])
def test_per_example_is_exact(chunk_size: int | None) -> None:
    centers, x = random(0, 30, 4) + 1, random(1, 4)
    trace, squared = exact(x - centers)
    result = per_example_noise_scale(pull(centers), x, examples=30, chunk_size=chunk_size)
    assert result.trace == pytest.approx(trace, rel=1e-12)
    assert result.squared_gradient == pytest.approx(squared, rel=1e-12)
    assert result.value == pytest.approx(trace / squared, rel=1e-12)


def test_examples_are_taken_one_after_another_where_they_must_be() -> None:
    centers, x = random(0, 30, 4) + 1, random(1, 4)

    def branching(params: Tensor, indices: Tensor) -> Tensor:
        return pull(centers)(params, indices) if int(indices[0]) >= 0 else params.sum()  # no vmap can look

    expected = per_example_noise_scale(pull(centers), x, examples=30)
    result = per_example_noise_scale(branching, x, examples=30, chunk_size=7)
    assert result.trace == pytest.approx(expected.trace, rel=1e-12)
    assert result.squared_gradient == pytest.approx(expected.squared_gradient, rel=1e-12)


def curved(matrix: Tensor, centers: Tensor) -> BatchLoss:
    """Mean of (p - c_i)'A(p - c_i) / 2: the Hessian is A, and example i has the gradient A (p - c_i)."""

    def loss(params: Tensor, indices: Tensor) -> Tensor:
        away = params - centers[indices]
        return (away @ matrix * away).sum(dim=1).mean() / 2

    return loss


def measured_with_curvature(matrix: Tensor, centers: Tensor, x: Tensor, **options: int) -> GradientNoiseScale:
    loss = curved(matrix, centers)
    everything = torch.arange(len(centers))
    return curvature_noise_scale(lambda p: loss(p, everything), loss, x, examples=len(centers), **options)


def test_the_noise_scale_with_curvature_by_hand() -> None:
    """With a group for each example tr(H Sigma) and G'HG - tr(H Sigma) / N are those of the N gradients."""
    root, centers, x = random(0, 4, 4), random(1, 30, 4) + 1, random(2, 4)
    matrix = root @ root.T
    gradients = (x - centers) @ matrix
    mean, covariance = gradients.mean(0), torch.cov(gradients.T)
    trace = float((matrix @ covariance).trace())
    along = float(mean @ matrix @ mean) - trace / 30
    found = measured_with_curvature(matrix, centers, x, groups=30)
    assert (found.trace, found.squared_gradient) == pytest.approx((trace, along), rel=1e-12)
    assert found.value == pytest.approx(trace / along, rel=1e-12)


def test_with_equal_curvature_everywhere_it_is_that_of_the_gradient() -> None:
    centers, x = random(0, 30, 4) + 1, random(1, 4)
    plain = per_example_noise_scale(pull(centers), x, examples=30)
    found = measured_with_curvature(3 * torch.eye(4).double(), centers, x, groups=30)
    assert (found.value, found.stderr) == pytest.approx((plain.value, plain.stderr), rel=1e-12)


def test_groups_estimate_the_parts_of_the_population() -> None:
    """Of 400 sets of 24 examples in 8 groups: the means of both parts within four of their standard errors."""
    spread, x = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([1.0, -0.5, 2.0]).double()
    matrix = torch.diag(torch.tensor([3.0, 0.5, 1.0]).double())  # gradients A (x - c), c of covariance diag(spread^2)
    trace = float((matrix.diagonal() ** 3 * spread**2).sum())
    along = float((matrix.diagonal() ** 3 * x**2).sum())
    found = [measured_with_curvature(matrix, spread * random(seed, 24, 3), x, groups=8) for seed in range(400)]
    for expected, values in (
        (trace, torch.tensor([one.trace for one in found])),
        (along, torch.tensor([one.squared_gradient for one in found])),
    ):
        assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / 20


def test_a_saddle_may_have_no_noise_scale_with_curvature() -> None:
    matrix, x = torch.diag(torch.tensor([-1.0, 0.1]).double()), torch.tensor([1.0, 0.0]).double()
    found = measured_with_curvature(matrix, 0.1 * random(0, 30, 2), x, groups=30)
    assert found.squared_gradient < 0
    assert math.isnan(found.value)
    assert not found.converged


def left_out(groups: Tensor) -> Tensor:
    """The jackknife's covariance of (tr(Sigma), |G|^2), by leaving out one group gradient after another, (K, n)."""
    values = torch.tensor([exact(torch.cat([groups[:k], groups[k + 1 :]])) for k in range(len(groups))]).double()
    away = values - values.mean(dim=0)
    return away.T @ away * (len(groups) - 1) / len(groups)


def check_errors(result: GradientNoiseScale, covariance: Tensor) -> None:
    trace, squared = result.trace, result.squared_gradient
    ratio = covariance[0, 0] / trace**2 + covariance[1, 1] / squared**2 - 2 * covariance[0, 1] / (trace * squared)
    stderrs = torch.tensor([result.trace_stderr, result.squared_gradient_stderr, result.stderr]).double()
    expected = torch.stack([covariance[0, 0].sqrt(), covariance[1, 1].sqrt(), abs(trace / squared) * ratio.sqrt()])
    torch.testing.assert_close(stderrs, expected, rtol=1e-5, atol=0)


def test_jackknife_leaves_each_example_out() -> None:
    centers, x = random(2, 20, 3) + 1, random(3, 3)
    check_errors(per_example_noise_scale(pull(centers), x, examples=20), left_out(x - centers))


def test_jackknife_leaves_each_small_batch_out() -> None:
    """One draw of all examples: the groups that it is cut into, each a mean of 4, whose covariance is Sigma / 4."""
    centers, x = random(2, 24, 3) + 1, random(3, 3)
    options = {"examples": 24, "small_batch": 4, "big_batch": 24}
    result = gradient_noise_scale(pull(centers), x, **options, draws=1, seed=7)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(7))
    groups = (x - centers[order]).view(6, 4, 3).mean(dim=1)
    trace, squared = exact(groups)
    assert (result.trace, result.squared_gradient) == pytest.approx((4 * trace, squared), rel=1e-12)
    units = torch.tensor([4.0, 1.0]).double()
    check_errors(result, left_out(groups) * units[:, None] * units)
    single = gradient_noise_scale(pull(centers), x, examples=24, small_batch=1, big_batch=24, draws=3)
    check_errors(single, left_out(x - centers))  # the same examples one by one, three times over


def test_two_groups_have_no_errors() -> None:
    result = gradient_noise_scale(pull(random(2, 8, 3) + 9), torch.zeros(3), examples=8, small_batch=4, big_batch=8)
    assert math.isfinite(result.value)
    assert math.isnan(result.squared_gradient_stderr)
    assert not result.converged


RUNS, MOST_MISSES = 100, 13  # more have a probability of 0.05 % where 5 % are expected
METHODS: dict[str, Callable[[BatchLoss, Tensor], GradientNoiseScale]] = {
    "two batch sizes": lambda loss, x: gradient_noise_scale(loss, x, examples=64, small_batch=4, big_batch=64, draws=2),
    "smaller big batches": lambda loss, x: gradient_noise_scale(
        loss, x, examples=64, small_batch=2, big_batch=32, draws=4
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parameters", [1, 60])
def test_a_population_without_a_gradient_is_not_resolved(method: str, parameters: int) -> None:
    """Fresh examples from N(0, 1) at x = 0, where |G|^2 = 0: `converged` is a false claim."""
    x = torch.zeros(parameters).double()
    found = [METHODS[method](pull(random(seed, 64, parameters)), x).converged for seed in range(RUNS)]
    assert sum(found) <= MOST_MISSES


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_standard_errors_are_of_the_population(method: str) -> None:
    """Fresh examples from N(0.5, 1) at x = 0: |G|^2 = n / 4 and tr(Sigma) = n lie within two errors."""
    parameters = 20
    x = torch.zeros(parameters).double()
    found = [METHODS[method](pull(0.5 + random(seed, 64, parameters)), x) for seed in range(RUNS)]
    assert all(result.converged for result in found)
    misses = [
        [abs(result.squared_gradient - parameters / 4) > 2 * result.squared_gradient_stderr for result in found],
        [abs(result.value - 4) > 2 * result.stderr for result in found],
    ]
    assert all(sum(each) <= MOST_MISSES for each in misses)


@pytest.mark.slow
@pytest.mark.parametrize(("small", "big"), [(1, 2), (2, 10), (5, 40)])
def test_two_batch_sizes_are_unbiased(small: int, big: int) -> None:
    """Over seeds, for the population that the examples stand for; big = N gives both without the noise of draws."""
    centers, x = random(4, 40, 3) + 1, random(5, 3)
    trace, squared = exact(x - centers)
    results = [
        gradient_noise_scale(pull(centers), x, examples=40, small_batch=small, big_batch=big, draws=4, seed=seed)
        for seed in range(200)
    ]
    for values, expected in (
        (torch.tensor([result.trace for result in results]), trace),
        (torch.tensor([result.squared_gradient for result in results]), squared),
    ):
        assert abs(float(values.mean()) - expected) <= 4 * float(values.std()) / 200**0.5 + 1e-12
    assert results[0].evaluations == 2 + 4 * big // small


@pytest.mark.slow
def test_estimates_are_of_the_population() -> None:
    """Fresh examples from N(m, s^2 1) each time: tr(Sigma) = 3 s^2 and |G|^2 = |x - m|^2 on average, by both ways."""
    x, per_example, batches = torch.zeros(3).double(), [], []
    for seed in range(300):
        loss = pull(0.5 + 2 * random(1000 + seed, 12, 3))
        per_example.append(per_example_noise_scale(loss, x, examples=12))
        batches.append(gradient_noise_scale(loss, x, examples=12, small_batch=3, big_batch=12, draws=2, seed=seed))
    for results in (per_example, batches):
        for values, expected in (
            (torch.tensor([result.trace for result in results]), 12.0),
            (torch.tensor([result.squared_gradient for result in results]), 0.75),
        ):
            assert abs(float(values.mean()) - expected) <= 4 * float(values.std()) / 300**0.5


def test_at_the_minimum_it_is_undetermined() -> None:
    centers = random(7, 50, 3)
    result = per_example_noise_scale(pull(centers), centers.mean(dim=0), examples=50)
    assert math.isnan(result.value)
    assert result.squared_gradient == pytest.approx(-result.trace / 50)
    assert not result.converged


def test_linear_regression_through_a_model() -> None:
    """The bound form is the mean cross-entropy; per-example gradients of a linear layer are (p_i - y_i) a_i'."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.Dropout(0.5)).train()
    inputs, labels, kept = (
        random(8, 25, 2, 3).float(),
        torch.arange(25) % 3,
        nn.utils.parameters_to_vector(model.parameters()),
    )
    bound = ModelLoss(model, inputs, labels)
    loss, params = bound.of_examples, bound.params
    p = (inputs.double().flatten(1) @ params[:18].view(3, 6).T + params[18:]).softmax(dim=1)
    errors = p - nn.functional.one_hot(labels, 3)
    gradients = torch.cat([(errors[:, :, None] * inputs.double().flatten(1)[:, None]).flatten(1), errors], dim=1)
    result = per_example_noise_scale(loss, params, examples=25, chunk_size=10)
    assert (result.trace, result.squared_gradient) == pytest.approx(exact(gradients), rel=1e-10)
    assert params.dtype == torch.float64
    assert model.training
    assert torch.equal(kept, nn.utils.parameters_to_vector(model.parameters()))


def test_convolution_and_batch_norm_through_a_model() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    inputs, labels = random(9, 12, 1, 4, 4), torch.arange(12) % 2
    bound = ModelLoss(model, inputs, labels)
    loss, params = bound.of_examples, bound.params

    def at(indices: Tensor, p: Tensor) -> Tensor:
        return loss(p, indices)

    gradients = torch.stack(
        [Objective(partial(at, torch.tensor([i]))).value_and_gradient(params)[1] for i in range(12)]
    )
    result = per_example_noise_scale(loss, params, examples=12)
    assert (result.trace, result.squared_gradient) == pytest.approx(exact(gradients), rel=1e-10)
    single = ModelLoss(model, inputs, labels, dtype=torch.float32)
    assert per_example_noise_scale(single.of_examples, single.params, examples=12).trace == pytest.approx(
        result.trace, rel=1e-4
    )


def test_from_norms_and_not_finite() -> None:
    result = noise_scale_from_norms(torch.tensor([5.0, 5.0]), torch.tensor([2.0, 2.0]), small_batch=1, big_batch=4)
    assert (result.squared_gradient, result.trace, result.value, result.stderr) == (1.0, 4.0, 4.0, 0.0)
    infinite = per_example_noise_scale(lambda p, i: (p.sum() * i.double()).mean() / 0.0, torch.ones(2), examples=4)
    assert math.isnan(infinite.value)
    assert not infinite.converged


def test_repeatable() -> None:
    loss, x, state = pull(random(10, 16, 2)), random(11, 2), torch.get_rng_state()
    first, again, other = (
        gradient_noise_scale(loss, x, examples=16, small_batch=2, big_batch=8, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_sgd_noise_scale() -> None:
    assert sgd_noise_scale(0.1, 10, 1000) == pytest.approx(9.9)
    assert sgd_noise_scale(0.1, 10, 1000, momentum=0.9) == pytest.approx(99)
    assert sgd_noise_scale(0.1, 1000, 1000) == 0


@pytest.mark.parametrize(
    ("form", "momentum", "preconditioned"),
    [("heavy_ball", 0.0, True), ("heavy_ball", 0.9, False), ("nesterov", 0.9, False), ("averaged", 0.9, True)],
)
def test_descent_diverges_just_above_the_edge(form: Form, momentum: float, preconditioned: bool) -> None:
    root, x = random(12, 6, 6), random(13, 6)
    hessian = root @ root.T + torch.eye(6).double()
    scale = random(14, 6).exp() if preconditioned else torch.ones(6).double()
    top = float(torch.linalg.eigvals(hessian / scale[:, None]).real.max())
    loss = quadratic(hessian, 0 * x, 0 * x)
    for ratio in (0.98, 1.02):
        learning_rate = ratio * stability_threshold(1.0, momentum=momentum, form=form) / top
        result = stability(
            loss,
            x,
            learning_rate=learning_rate,
            momentum=momentum,
            form=form,
            preconditioner=scale if preconditioned else None,
            tol=1e-8,
        )
        assert result.ratio == pytest.approx(ratio, rel=1e-9)
        assert result.converged
        end = descend(lambda p: hessian @ p, x, learning_rate, momentum, form, scale)
        assert (end < 1e-3) if ratio < 1 else (end > 1e3)


def descend(
    gradient: Callable[[Tensor], Tensor], x: Tensor, learning_rate: float, momentum: float, form: str, scale: Tensor
) -> float:
    """|x| after 2000 steps, as torch.optim.SGD and Adam (second moment held) take them."""
    velocity = torch.zeros_like(x)
    for _ in range(2000):
        g = gradient(x)
        velocity = momentum * velocity + (1 - momentum if form == "averaged" else 1) * g
        x = x - learning_rate * (g + momentum * velocity if form == "nesterov" else velocity) / scale
    return float(x.norm())


def test_stability_of_a_loss_not_finite_and_of_float32() -> None:
    result = stability(lambda p: p.sum() / 0, torch.ones(3), learning_rate=0.1)
    assert math.isnan(result.ratio)
    assert not result.converged
    flat = stability(lambda p: (p**2).sum(), torch.ones(3), learning_rate=0.1, preconditioner=torch.full((3,), 4.0))
    assert flat.ratio == pytest.approx(0.1 * 2 / 4 / 2, rel=1e-6)


CENTERS = torch.ones(8, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: per_example_noise_scale(pull(CENTERS), torch.ones(2), examples=1), "`examples` must"),
        (lambda: per_example_noise_scale(pull(CENTERS), torch.ones(2), examples=8, chunk_size=0), "`chunk_size` must"),
        (lambda: noise(small_batch=2, big_batch=3), "`big_batch` must"),
        (lambda: noise(small_batch=2, big_batch=10), "`big_batch` must"),
        (lambda: noise(small_batch=2, big_batch=2), "`big_batch` must"),
        (lambda: noise(small_batch=2, big_batch=4, draws=0), "`draws` must"),
        (lambda: noise_scale_from_norms(torch.ones(2), torch.ones(3), small_batch=1, big_batch=2), "`big` must"),
        (lambda: noise_scale_from_norms(torch.ones(2), torch.ones(2), small_batch=2, big_batch=2), "`big_batch` must"),
        (lambda: sgd_noise_scale(0.1, 0, 10), "`batch_size` must"),
        (lambda: sgd_noise_scale(-0.1, 1, 10), "`learning_rate` must"),
        (lambda: stability_threshold(0.1, momentum=1.0), "`momentum` must"),
        (lambda: stability_threshold(0.1, form="adam"), "`form` must"),  # type: ignore[arg-type]
        (lambda: edge(torch.ones(3)), "`preconditioner` must"),
        (lambda: edge(torch.zeros(2)), "`preconditioner` must"),
    ],
)
def test_bad_arguments(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def noise(**arguments: int) -> Any:
    return gradient_noise_scale(pull(CENTERS), torch.ones(2), examples=8, **arguments)


def edge(preconditioner: Tensor) -> Any:
    return stability(lambda p: (p**2).sum(), torch.ones(2), learning_rate=0.1, preconditioner=preconditioner)
