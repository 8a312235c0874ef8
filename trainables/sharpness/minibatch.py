"""The curvature that mini-batch steps meet, and whether SGD is stable at it.

With g_B and H_B the gradient and Hessian of the mean loss of a random batch B of b examples:

    batch sharpness   E_B [ g_B'H_B g_B / |g_B|^2 ]

the mean of the ratios (Andreyev and Beneventano, "Edge of stochastic stability", arXiv 2412.20553, definition 3 of
versions 4 and 5; the ratio of the means E g'Hg / E |g|^2, as in earlier work, is beside it). Under SGD at a constant
rate it settles near 2 / rate, where the largest eigenvalue of the whole loss stays below. With one batch of all
examples it is the curvature along the gradient.

Near a point that every batch has as its minimum, SGD x <- x - eta H_B x keeps E |x|^2 bounded iff the largest
eigenvalue of C -> E (1 - eta H_B) C (1 - eta H_B) is at most 1. That map is self-adjoint, so for each unit vector v and
h_B = v'H_B v a necessary condition is E (1 - eta h_B)^2 <= 1, or

    eta E h_B^2 / (2 E h_B) <= 1,       eta <= 2 E h / ((E h)^2 + Var h)

and in one dimension it is sufficient, too (Wu, Ma and E 2018, "How SGD selects the global minima"). With one batch of
all examples, and v the top eigenvector, it is eta lambda_max / 2.

Traps: both are about plain SGD without momentum; with momentum batch sharpness settles near 2 (1 - beta) / eta at small
batches, 2 (1 + beta) / eta at large ones (arXiv 2604.14108). Both change as a network's layers are rescaled.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.sharpness.edge_of_stability import check_optimizer
from trainables.sharpness.noise import BatchLoss
from trainables.sharpness.objective import Objective, evaluate_center

RESOLVED = 0.1  # standard error over the value, up to which an average over batches has converged


@dataclass(frozen=True)
class BatchSharpness:
    """`value` is the mean over batches of the curvature along the batch's gradient, `ratio_of_means` see above.

    `stderr` is of `value`, over the batches drawn; 0 for the one batch of all examples. `converged`: within RESOLVED.
    """

    value: float
    stderr: float
    ratio_of_means: float
    evaluations: int
    converged: bool


@dataclass(frozen=True)
class MinibatchStability:
    """`ratio` above 1: steps grow in the mean square. `largest_rate` is where it is 1; errors as BatchSharpness."""

    ratio: float
    stderr: float
    largest_rate: float
    evaluations: int
    converged: bool


def batch_sharpness(
    loss: BatchLoss, params: Tensor, *, examples: int, batch_size: int, draws: int = 32, seed: int = 0
) -> BatchSharpness:
    """E [g_B'H_B g_B / |g_B|^2] over `draws` batches B of `batch_size` of the `examples`, each without repetition.

    A batch whose gradient is 0 has no direction and is left out. Costs two gradients and a Hessian-vector product of a
    batch for each draw, and two losses. Raises ValueError unless 1 <= batch_size <= examples, for draws below 2, and
    for a loss that is not deterministic.
    """
    curvatures, squares, spent = [], [], 2
    for objective in _batches(loss, params, examples, batch_size, draws, seed):
        gradient = objective.value_and_gradient(params)[1]
        product = objective.hessian(params)(gradient)
        curvatures.append((gradient @ product).double().cpu())
        squares.append((gradient @ gradient).double().cpu())
        spent += objective.evaluations
    along, lengths = torch.stack(curvatures), torch.stack(squares)
    known = ~(lengths == 0)
    value, error = _mean_and_error((along / lengths)[known], is_whole=batch_size == examples)
    of_means = float(along.mean() / lengths.mean())
    return BatchSharpness(value, error, of_means, spent, error <= RESOLVED * abs(value))


def minibatch_stability(
    loss: BatchLoss,
    params: Tensor,
    direction: Tensor,
    *,
    learning_rate: float,
    examples: int,
    batch_size: int,
    draws: int = 32,
    seed: int = 0,
) -> MinibatchStability:
    """eta E h_B^2 / (2 E h_B) along `direction`, (n,), of any length but 0; batches and errors as `batch_sharpness`.

    The standard error is by the delta method. Where the mean curvature is not above 0 there is no threshold: NaN.
    """
    check_optimizer(learning_rate, 0.0)
    if direction.shape != params.shape or not float(direction.norm()) > 0:
        raise ValueError(f"`direction` must be a vector of {params.numel()} numbers, not all 0, got {direction.shape}")
    v, found, spent = direction / direction.norm(), [], 2
    for objective in _batches(loss, params, examples, batch_size, draws, seed):
        found.append((v @ objective.hessian(params)(v)).double().cpu())
        spent += objective.evaluations
    h = torch.stack(found)
    first, second = float(h.mean()), float(h.square().mean())
    if not first > 0:
        return MinibatchStability(math.nan, math.nan, math.nan, spent, converged=False)
    ratio = learning_rate * second / (2 * first)
    slopes = learning_rate / 2 * (h.square() / first - second * h / first**2)
    error = _mean_and_error(slopes, is_whole=batch_size == examples)[1]
    return MinibatchStability(ratio, error, learning_rate / ratio, spent, error <= RESOLVED * ratio)


def _batches(
    loss: BatchLoss, params: Tensor, examples: int, batch_size: int, draws: int, seed: int
) -> Iterator[Objective]:
    """The loss of each batch drawn: of all examples, one."""
    if not 1 <= batch_size <= examples:
        raise ValueError(f"`batch_size` must be between 1 and the {examples} examples measured, got {batch_size}")
    if draws < 2:
        raise ValueError(f"`draws` must be at least 2, got {draws}; the standard error needs two")
    generator = torch.Generator().manual_seed(seed)
    for draw in range(1 if batch_size == examples else draws):
        batch = torch.randperm(examples, generator=generator)[:batch_size].to(params.device)
        if draw == 0:
            evaluate_center(_on(loss, batch), params)
        yield _on(loss, batch)


def _on(loss: BatchLoss, batch: Tensor) -> Objective:
    return Objective(lambda params: loss(params, batch))


def _mean_and_error(values: Tensor, *, is_whole: bool) -> tuple[float, float]:
    """The mean of independent `values` with its standard error; NaN for none."""
    if is_whole and len(values):
        return float(values.mean()), 0.0
    if len(values) < 2:
        return math.nan, math.nan
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))
