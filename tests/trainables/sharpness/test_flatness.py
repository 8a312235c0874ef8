"""Relative flatness against the dense Hessian and its closed form; filter-normalized directions and their rises."""

import math
from typing import Any

import pytest
import torch
from oracles import dense_hessian, quadratic, random
from torch import Tensor, nn

from trainables.sharpness.flatness import (
    filter_normalized_direction,
    filter_normalized_sharpness,
    relative_flatness,
    weight_slice,
)


def psd(seed: int, n: int) -> Tensor:
    root = random(seed, n, n)
    return root @ root.T / n


def kappa(hessian: Tensor, weights: Tensor) -> float:
    """sum over s, s' of <w_s, w_s'> tr(H_{s,s'}), block by block, as in the definition."""
    rows, columns = weights.shape
    blocks = hessian.view(rows, columns, rows, columns)
    total = 0.0
    for s in range(rows):
        for t in range(rows):
            total += float(weights[s] @ weights[t]) * float(torch.trace(blocks[s, :, t, :]))
    return total


def network(inputs: Tensor, labels: Tensor) -> Any:
    """Linear 3 -> 4, tanh, linear 4 -> 5, with biases: 12 + 4 + 20 + 5 parameters."""

    def loss(p: Tensor) -> Tensor:
        hidden = torch.tanh(inputs @ p[:12].view(4, 3).T + p[12:16])
        return nn.functional.cross_entropy(hidden @ p[16:36].view(5, 4).T + p[36:], labels)

    return loss


LAYERS = [(slice(0, 12), (4, 3)), (slice(16, 36), (5, 4))]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_against_the_dense_hessian(layer: slice, shape: tuple[int, int]) -> None:
    loss, params = network(random(0, 30, 3), torch.arange(30) % 5), random(1, 41)
    block = dense_hessian(loss, params)[layer, layer]
    result = relative_flatness(loss, params, layer=layer, shape=shape)
    assert result.value == pytest.approx(kappa(block, params[layer].view(shape)), rel=1e-10)
    assert result.stderr == 0
    assert result.converged
    assert result.evaluations == min(shape) * shape[1] + 2


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (1, 24), (24, 1)])
def test_softmax_regression_in_closed_form(shape: tuple[int, int]) -> None:
    """(1/N) sum_i |a_i|^2 (sum_c G_cc p_ic - p_i' G p_i), for wide and tall layers."""
    classes, features = shape
    inputs, labels, weights = random(2, 40, features), torch.arange(40) % classes, random(3, classes, features)
    gram, p = weights @ weights.T, (inputs @ weights.T).softmax(dim=1)
    terms = (inputs**2).sum(1) * (p @ gram.diag() - ((p @ gram) * p).sum(1))
    result = relative_flatness(
        lambda w: nn.functional.cross_entropy(inputs @ w.view(shape).T, labels),
        weights.view(-1),
        layer=slice(0, 24),
        shape=shape,
    )
    assert result.value == pytest.approx(float(terms.mean()), rel=1e-10, abs=1e-14)


@pytest.mark.slow
def test_sampled_is_unbiased_and_its_error_is_honest() -> None:
    hessian, x = psd(4, 120), random(5, 120)
    exact = kappa(hessian, x.view(8, 15))
    loss = quadratic(hessian, random(6, 120), x)
    results = [
        relative_flatness(loss, x, layer=slice(0, 120), shape=(8, 15), samples=24, tol=0, seed=seed)
        for seed in range(40)
    ]
    values = torch.tensor([result.value for result in results])
    scores = torch.tensor([(result.value - exact) / result.stderr for result in results])
    assert abs(float(values.mean()) - exact) <= 4 * float(values.std()) / 40**0.5
    assert float((scores.abs() <= 2).double().mean()) >= 0.8
    assert results[0].evaluations == 26


@pytest.mark.parametrize("samples", [10, 200])
def test_float32(samples: int) -> None:
    inputs, labels, params = random(14, 30, 3), torch.arange(30) % 5, random(15, 41)
    layer, shape = LAYERS[1]
    single, double = (
        relative_flatness(network(inputs.to(kind), labels), params.to(kind), layer=layer, shape=shape, samples=samples)
        for kind in (torch.float32, torch.float64)
    )
    assert single.value == pytest.approx(double.value, rel=1e-3)


def test_zero_weights_and_infinite_losses() -> None:
    zero = torch.zeros(6).double()
    assert relative_flatness(lambda p: (p**2).sum(), zero, layer=slice(0, 6), shape=(2, 3)).value == 0
    result = relative_flatness(lambda p: p.sum() / 0.0, zero + 1, layer=slice(0, 6), shape=(2, 3))
    assert math.isnan(result.value)
    assert not result.converged


def test_weight_slice_follows_the_flat_vector() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 5))
    flat = nn.utils.parameters_to_vector(model.parameters()).detach()
    for name in ("0.weight", "2.weight"):
        where, shape = weight_slice(model, name)
        assert torch.equal(flat[where].view(shape), model.get_parameter(name))
    assert weight_slice(model) == weight_slice(model, "2.weight")
    with pytest.raises(ValueError, match=r"weights are: 0.weight, 2.weight"):
        weight_slice(model, "fc")


SHAPES = ((3, 2, 2), (3,), (2, 4), ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_direction_has_the_filters_norms(dtype: torch.dtype) -> None:
    params = random(7, 24).to(dtype)
    params[12 + 3 : 12 + 3 + 4] = 0  # a filter of zeros stays
    direction = filter_normalized_direction(params, SHAPES, seed=1)
    rows = direction[:12].view(3, 4).norm(dim=1)
    torch.testing.assert_close(rows, params[:12].view(3, 4).norm(dim=1))
    assert direction.dtype == dtype
    assert direction[12:19].tolist() == [0.0] * 7
    assert float(direction[19:23].norm()) == pytest.approx(float(params[19:23].norm()), rel=1e-6)
    assert float(direction[23]) == 0
    torch.testing.assert_close(direction, filter_normalized_direction(params, SHAPES, seed=1))
    assert not torch.equal(direction, filter_normalized_direction(params, SHAPES, seed=2))


def test_rise_on_a_quadratic() -> None:
    """E = t^2/2 sum_f |w_f|^2 tr(H_f) / n_f, H_f a filter's own block: directions of filters are independent."""
    hessian, x = psd(8, 15), random(9, 15)
    loss = quadratic(hessian, random(10, 15), x, 3.0)
    rows = x[:12].view(4, 3).norm(dim=1) ** 2
    expected = sum(float(rows[f] * hessian[3 * f : 3 * f + 3, 3 * f : 3 * f + 3].trace()) / 3 for f in range(4)) / 2
    result = filter_normalized_sharpness(loss, x, shapes=[(4, 3), (3,)], distances=(0.5, 1.0), samples=400)
    assert abs(result.mean[1] - expected) <= 4 * result.stderr[1]
    assert result.mean[0] == pytest.approx(result.mean[1] / 4, rel=1e-9)
    assert result.stderr[1] < expected / 5
    assert result.max[1] > result.mean[1]
    assert result.loss_center == 3.0
    assert result.evaluations == 2 + 2 * 400


def test_a_wall_is_seen_at_its_distance_only() -> None:
    def loss(p: Tensor) -> Tensor:
        return torch.where(p.norm() > 1.5, math.inf, (p**2).sum())

    result = filter_normalized_sharpness(loss, random(11, 1, 8)[0] * 0 + 8**-0.5, shapes=[(2, 4)], samples=8)
    assert math.isfinite(result.mean[0])
    wall = filter_normalized_sharpness(
        loss, torch.full((8,), 8**-0.5), shapes=[(2, 4)], samples=8, distances=(0.1, 5.0)
    )
    assert math.isfinite(wall.mean[0])
    assert all(math.isnan(value[1]) for value in (wall.mean, wall.max, wall.stderr))
    assert math.isnan(filter_normalized_sharpness(lambda p: p.sum() / 0, torch.ones(2), shapes=[(1, 2)]).mean[0])


def test_caller_and_random_state_untouched() -> None:
    params, state = random(12, 12), torch.get_rng_state()
    kept = params.clone()
    loss = quadratic(psd(13, 12), params * 0, params * 0)
    first = relative_flatness(loss, params, layer=slice(0, 12), shape=(4, 3), samples=8, seed=3)
    filter_normalized_sharpness(loss, params, shapes=[(4, 3)])
    assert first == relative_flatness(loss, params, layer=slice(0, 12), shape=(4, 3), samples=8, seed=3)
    assert torch.equal(params, kept)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distances": ()}, "`distances` must"),
        ({"distances": (0.0,)}, "`distances` must"),
        ({"samples": 5}, "`samples` must"),
        ({"shapes": [(2, 3)]}, "`shapes` must"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filter_normalized_sharpness(lambda p: (p**2).sum(), torch.ones(4), **({"shapes": [(2, 2)]} | arguments))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (0, 4)])
def test_bad_layers(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`shape` must"):
        relative_flatness(lambda p: (p**2).sum(), torch.ones(4), layer=slice(0, 4), shape=shape)
