"""Rescaling a ReLU network: the function stays, what is rescaled, and which measures stay."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.sharpness import Objective, hessian_eigenvalues
from trainables.sharpness.flatness import filter_normalized_sharpness, relative_flatness, weight_slice
from trainables.sharpness.invariance import rescalable_pairs, rescale, rescaling_invariance
from trainables.sharpness.model_loss import ModelLoss
from trainables.sharpness.noise import per_example_noise_scale
from trainables.sharpness.perturbation import perturbation_sharpness
from trainables.sharpness.volume import local_entropy

INPUTS = torch.randn(24, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3


def chain(*layers: nn.Module) -> nn.Sequential:
    """Float64, the same weights each time, batch norm's statistics and parameters not trivial."""
    model, generator = nn.Sequential(*layers).double(), torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            draw = torch.randn(tensor.shape, dtype=torch.float64, generator=generator) / 2
            tensor.copy_(draw.abs() + 0.5 if "running_var" in name else draw)
    return model


def mlp() -> nn.Sequential:
    return chain(nn.Flatten(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def on_loss(measure: Callable[[Objective, Tensor, nn.Module], float]) -> Callable[[nn.Module], float]:
    def bound(model: nn.Module) -> float:
        loss = ModelLoss(model, INPUTS, LABELS)
        return measure(loss, loss.params, model)

    return bound


def gradient_variance(loss: ModelLoss) -> float:
    return per_example_noise_scale(loss.of_examples, loss.params, examples=loss.examples).trace


def layer_flatness(name: str) -> Callable[[nn.Module], float]:
    def measure(loss: Objective, params: Tensor, model: nn.Module) -> float:
        layer, shape = weight_slice(model, name)
        return relative_flatness(loss, params, layer=layer, shape=shape).value

    return on_loss(measure)


def shapes(model: nn.Module) -> list[torch.Size]:
    return [parameter.shape for parameter in model.parameters()]


INVARIANT = {
    "loss": on_loss(lambda f, x, m: f.value(x)),
    "adaptive perturbation": on_loss(lambda f, x, m: perturbation_sharpness(f, x, scale=0.1, adaptive=True).mean),
    "adaptive entropy": on_loss(lambda f, x, m: local_entropy(f, x, gamma=50.0, adaptive=True, samples=32).value),
    "relative flatness 1": layer_flatness("1.weight"),
    "relative flatness 2": layer_flatness("3.weight"),
    "relative flatness 3": layer_flatness("5.weight"),
    "filter-normalized": on_loss(
        lambda f, x, m: filter_normalized_sharpness(f, x, shapes=shapes(m), distances=[0.3], samples=8).mean[0]
    ),
}
RAW = {
    "largest eigenvalue": on_loss(lambda f, x, m: float(hessian_eigenvalues(f, x).values[0])),
    "perturbation": on_loss(lambda f, x, m: perturbation_sharpness(f, x, scale=0.1).mean),
    "local entropy": on_loss(lambda f, x, m: local_entropy(f, x, gamma=50.0, samples=32).value),
    "gradient noise": lambda m: gradient_variance(ModelLoss(m, INPUTS, LABELS)),
}


@pytest.mark.parametrize("name", INVARIANT)
def test_measures_that_do_not_change(name: str) -> None:
    result = rescaling_invariance(INVARIANT[name], mlp(), factors=(0.3, 7.0))
    assert result.change <= 1e-9
    assert result.before != 0
    assert result.pairs == 2
    assert result.function_error <= 1e-13


@pytest.mark.parametrize("name", RAW)
def test_measures_that_change(name: str) -> None:
    assert rescaling_invariance(RAW[name], mlp()).change > 0.5


def test_the_norm_in_closed_form() -> None:
    """|w1|^2 a^2 + |w2|^2 / a^2 for one pair without biases."""
    model = chain(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    first, second = (float((parameter.detach() ** 2).sum()) for parameter in model.parameters())
    result = rescaling_invariance(
        lambda m: sum(float((parameter.detach() ** 2).sum()) for parameter in m.parameters()), model, factors=(2.0, 0.5)
    )
    assert result.before == pytest.approx(first + second)
    assert result.after == pytest.approx((4 * first + second / 4, first / 4 + 4 * second))
    assert result.ratios == pytest.approx([value / result.before for value in result.after])
    assert result.function_error == 0  # powers of two round nothing


IMAGES = torch.randn(6, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("layers", "pairs"),
    [
        ((nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(27, 2)), 1),
        ((nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.LeakyReLU(), nn.Conv2d(3, 2, 3), nn.Flatten()), 1),
        ((nn.Sequential(nn.Flatten(), nn.Linear(128, 5)), nn.ReLU(), nn.Sequential(nn.Linear(5, 5), nn.ReLU())), 1),
        ((nn.Flatten(), nn.Linear(128, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), 1),
        ((nn.Flatten(), nn.Linear(128, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 3)), 2),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_chains(layers: tuple[nn.Module, ...], pairs: int, train: bool) -> None:
    model = chain(*copy.deepcopy(layers)).train(train)
    result = rescaling_invariance(lambda m: float(m.training), model, factors=(3.0,), inputs=IMAGES)
    assert (result.pairs, result.before, result.after) == (pairs, float(train), (float(train),))
    rescaled = rescale(model, [3.0] * pairs).eval().train(train and not any(isinstance(m, nn.Dropout) for m in layers))
    model.train(rescaled.training)
    torch.testing.assert_close(rescaled(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-12)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), rescaled.parameters(), strict=True))


def test_pairs_are_rescaled_by_the_factor_or_its_inverse() -> None:
    model, seen = mlp(), []

    def measure(given: nn.Module) -> float:
        seen.append([given.get_parameter(f"{layer}.bias")[0].item() for layer in (1, 3, 5)])
        return 1.0

    factors = set()
    for seed in range(8):
        seen.clear()
        rescaling_invariance(measure, model, factors=(4.0,), seed=seed)
        first, inner, last = (after / before for before, after in zip(*seen, strict=True))
        assert (first, last) == (4.0, 1.0)
        factors.add(inner)
    assert factors == {4.0, 0.25}


def test_callers_model_and_random_state_untouched() -> None:
    model, state = mlp(), torch.get_rng_state()
    kept = copy.deepcopy(model.state_dict())

    def destructive(given: nn.Module) -> float:
        for parameter in given.parameters():
            parameter.data.zero_()
        given.eval()
        return 1.0

    rescaling_invariance(destructive, model)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_float32_and_measures_without_a_number() -> None:
    result = rescaling_invariance(lambda m: 0.0, mlp().float(), factors=(3.0,))
    assert math.isnan(result.ratios[0])
    assert math.isnan(result.change)
    assert 0 <= result.function_error < 1e-5
    assert math.isnan(rescaling_invariance(lambda m: math.nan, mlp()).change)


SHARED = nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (nn.Linear(2, 2), {}, "`model` must be an nn.Sequential"),
        (nn.Sequential(), {}, "`model` must have two"),
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), {}, "`model` must have two"),
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2)), {}, "`model` must have two"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2)), {}, "`model` must have two"),
        (nn.Sequential(SHARED, nn.ReLU(), SHARED), {}, "`model` must use every parameter once"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1)), {}, "`inputs` must be given"),
        (mlp(), {"factors": ()}, "`factors` must be numbers above 0"),
        (mlp(), {"factors": (-1.0,)}, "`factors` must be numbers above 0"),
        (mlp().float(), {"factors": (1e39,)}, "`factors` must leave the function equal"),
    ],
)
def test_refused(model: nn.Module, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rescaling_invariance(lambda m: 1.0, model, **arguments)


def test_rescale_wants_a_factor_for_each_pair() -> None:
    assert len(rescalable_pairs(mlp())) == 2
    with pytest.raises(ValueError, match="one for each of the 2 pairs"):
        rescale(mlp(), [2.0])
