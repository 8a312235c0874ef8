"""Does a measure change where the function does not? A test for any measure.

A ReLU network computes the same with w1 <- a w1, b1 <- a b1 in one layer and w2 <- w2 / a in the next, a > 0, because
relu(a z) = a relu(z); but its Hessian's blocks change by a^-2 and a^2, so that raw sharpness can be made anything (Dinh
et al. 2017, "Sharp minima can generalize for deep nets", arXiv 1703.04933, section 4). A measure that is to explain
generalization must not depend on it.

What is rescaled: a chain of layers (`nn.Sequential`, nested or not), where between the two layers of a pair there are
only modules that commute with a factor above 0: ReLU, LeakyReLU, Identity, Flatten, Dropout, max and average pooling.
The first of a pair is linear, convolutional or a batch norm with its own scale and shift (a weight and a bias like
any other); the second linear or convolutional, and its bias stays. A layer that comes just before a batch norm is the
first of no pair: with batch statistics its scale changes nothing at all, so there is nothing to undo, and with
running statistics it would change the function.

Traps: passing shows that this one symmetry is respected (whole layers, not single neurons, not other
reparametrizations); a measure that is NaN, or 0 before, cannot be judged; a stochastic measure needs the same seed in
every call, and even then changes within its own standard error unless its draws scale with the weights.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FACTORS = (0.125, 8.0)  # powers of two: multiplying by them rounds nothing
PROBES = 16
ROUNDING = 64  # units of rounding error, for each layer, that outputs may differ by

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
HOMOGENEOUS = (
    *(nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Flatten),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)


@dataclass(frozen=True)
class RescalingInvariance:
    """The measure `before`, and for each of `factors` `after` rescaling; `ratios` = after / before, 1 if invariant.

    `change` = the largest |ratio - 1|; `pairs`: how many pairs of layers were rescaled; `function_error`: the largest
    difference of the networks' outputs, as a share of the largest output. Ratios are NaN where `before` is 0.
    """

    factors: tuple[float, ...]
    before: float
    after: tuple[float, ...]
    ratios: tuple[float, ...]
    change: float
    pairs: int
    function_error: float


def rescaling_invariance(
    measure: Callable[[nn.Module], float],
    model: nn.Module,
    *,
    factors: Sequence[float] = FACTORS,
    inputs: Tensor | None = None,
    seed: int = 0,
) -> RescalingInvariance:
    """`measure` on the model and on copies of it that compute the same with rescaled layers, one for each factor.

    In each copy the first pair is rescaled by the factor, every other by the factor or its inverse, by a coin that
    `seed` tosses, so that inner layers change too. That the function is the same is checked in eval mode on `inputs`
    (some of the data), or on Gaussian ones where the first layer is linear. The measure gets copies, in the mode of
    `model`, which is untouched. Costs len(factors) + 1 measures. Raises ValueError for factors that are not above 0
    or do not keep the function, a model without a pair of layers to rescale, and where `inputs` are needed.
    """
    if not factors or not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise ValueError(f"`factors` must be numbers above 0, and some, got {tuple(factors)}")
    generator = torch.Generator().manual_seed(seed)
    pairs = len(rescalable_pairs(model))
    signs = [1] + [1 - 2 * int(torch.randint(2, (), generator=generator)) for _ in range(pairs - 1)]
    probes = _probes(model, generator) if inputs is None else inputs
    outputs = _outputs(model, probes)
    before, after, errors = float(measure(copy.deepcopy(model))), [], []
    for factor in factors:
        rescaled = rescale(model, [factor**sign for sign in signs])
        errors.append(_difference(outputs, _outputs(rescaled, probes)))
        if not errors[-1] <= ROUNDING * (pairs + 1) * torch.finfo(outputs.dtype).eps:
            raise ValueError(
                f"`factors` must leave the function equal to rounding, got {factor}, which changes the outputs by "
                f"{errors[-1]:.1e} of the largest; take one nearer to 1"
            )
        after.append(float(measure(rescaled)))
    ratios = tuple(value / before if before else math.nan for value in after)
    changes = [abs(ratio - 1) for ratio in ratios]
    change = math.nan if any(map(math.isnan, changes)) else max(changes)
    return RescalingInvariance(tuple(factors), before, tuple(after), ratios, change, pairs, max(errors))


def rescale(model: nn.Module, factors: Sequence[float]) -> nn.Module:
    """A copy with the first layer's weight and bias times a and the second's weight over a, for each pair, in order.

    Raises ValueError where the factors are not one for each pair of `rescalable_pairs`.
    """
    rescaled = copy.deepcopy(model)
    pairs = rescalable_pairs(rescaled)
    if len(factors) != len(pairs):
        raise ValueError(f"`factors` must be one for each of the {len(pairs)} pairs of layers, got {len(factors)}")
    with torch.no_grad():
        for (first, second), factor in zip(pairs, factors, strict=True):
            for parameter in first.parameters():
                parameter.mul_(factor)
            second.get_parameter("weight").div_(factor)
    return rescaled


def rescalable_pairs(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """The pairs of layers of a chain that may be rescaled against each other, in order.

    Raises ValueError where there is none, and for a model that is not a chain or that uses parameters twice.
    """
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"`model` must be an nn.Sequential, got {type(model).__name__}; other graphs are not followed")
    layers = list(_chain(model))
    names = [id(parameter) for layer in layers for parameter in layer.parameters()]
    if len(set(names)) < len(names):
        raise ValueError("`model` must use every parameter once, got shared ones, which one factor cannot serve")
    pairs: list[tuple[nn.Module, nn.Module]] = []
    first: nn.Module | None = None
    for layer in layers:
        kind = type(layer)  # a subclass may compute anything
        if kind in LINEAR and first is not None:
            pairs.append((first, layer))
        if kind in LINEAR or (kind in NORMS and layer.affine):
            first = layer
        elif kind not in HOMOGENEOUS:
            first = None
    if not pairs:
        kinds = ", ".join(type(layer).__name__ for layer in layers) or "(nothing)"
        raise ValueError(
            "`model` must have two linear or convolutional layers (or a batch norm and one) with nothing but ReLU, "
            f"pooling, dropout or Flatten between them, got {kinds}"
        )
    return pairs


def _chain(model: nn.Sequential) -> Iterator[nn.Module]:
    for layer in model:
        if type(layer) is nn.Sequential:
            yield from _chain(layer)
        else:
            yield layer


def _probes(model: nn.Module, generator: torch.Generator) -> Tensor:
    """Gaussian inputs, where the first layer tells their shape."""
    layers = list(_chain(model)) if isinstance(model, nn.Sequential) else []
    first = next((layer for layer in layers if next(layer.parameters(), None) is not None), None)
    if not isinstance(first, nn.Linear):
        raise ValueError(
            f"`inputs` must be given for a model that begins with {type(first).__name__}, got None; "
            "some of the data will do"
        )
    return torch.randn(PROBES, first.in_features, dtype=torch.float64, generator=generator).to(first.weight)


def _outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = copy.deepcopy(model).eval()(inputs)
    return outputs


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / first.abs().max().clamp(min=torch.finfo(first.dtype).tiny))
