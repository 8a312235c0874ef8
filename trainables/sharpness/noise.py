"""The noise of a minibatch gradient: the batch size at which it matters little, and the noise of a step.

Gradient noise scale (McCandlish et al. 2018, "An empirical model of large-batch training", arXiv 1812.06162, section
2.2 and appendix A.1): with G the gradient over all data there could be, Sigma the covariance of one example's, and G_B
the mean gradient of B examples, E|G_B|^2 = |G|^2 + tr(Sigma) / B. Two batch sizes b < B give both, unbiased:

    B_simple = tr(Sigma) / |G|^2,     |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b),
                                      tr(Sigma) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B),

and so do the gradients g_i of N examples: tr(Sigma) = sum |g_i - g|^2 / (N - 1), |G|^2 = |g|^2 - tr(Sigma) / N, which
is the same with b = 1 and B = N. The ratio of unbiased estimates is not unbiased.

Standard errors are those of the population: how far other examples would move the estimates. The gradients of disjoint
groups of examples are independent, so the jackknife leaves out one group at a time (Efron and Stein 1981, Annals of
Statistics 9:586: on average it is not below the variance). Cutting the same examples into other batches says nothing of
this error: with all of them in every big batch, |G_B|^2 is the same each time.

The best step along the gradient of B examples lowers the loss by a share 1 / (1 + B_noise / B) of what the whole
gradient gives, with H the Hessian of the loss (the same paper, equations 2.5 to 2.7):

    B_noise = tr(H Sigma) / G'HG,

which is B_simple where H is a multiple of the identity. The formulas above hold with a'Hb in place of each product
a'b.

Step noise (Smith and Le 2018, arXiv 1710.06451, sections 4 and 5): eta (N/B - 1) / (1 - momentum), about eta N / B.

Traps: at weights trained on these very examples G is that of their mean, nearly 0, and the estimate of |G|^2 comes out
negative: take examples that were not trained on. Near any minimum |G|^2 is a small difference of large numbers. All of
these change as a network's layers are rescaled (`rescaling_invariance`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.sharpness.edge_of_stability import check_optimizer
from trainables.sharpness.objective import Loss, Objective, as_objective, evaluate_center, hessian_at_center

# (params (n,), indices (b,)) -> mean loss of these examples, (): of a model it is `ModelLoss.of_examples`.
BatchLoss = Callable[[Tensor, Tensor], Tensor]

CHUNK_NUMBERS = 2**23  # of per-example gradients held at once
SURE = 2.0  # standard errors that |G|^2 is to be above 0


@dataclass(frozen=True)
class GradientNoiseScale:
    """`value` = tr(Sigma) / |G|^2 in examples, from `trace` and `squared_gradient`, with standard errors.

    The errors are those of the population that the examples are a sample of (see the top of this file); that of `value`
    follows from them by the delta method. `converged`: |G|^2 is resolved, at least two of its standard errors above 0.
    Where its estimate is not above 0, `value` and its `stderr` are NaN; all errors are NaN for fewer than three groups.
    `evaluations` counts batch gradients, and per-example gradients one by one.
    """

    value: float
    stderr: float
    trace: float
    trace_stderr: float
    squared_gradient: float
    squared_gradient_stderr: float
    evaluations: int
    converged: bool


def gradient_noise_scale(
    loss: BatchLoss, params: Tensor, *, examples: int, small_batch: int, big_batch: int, draws: int = 32, seed: int = 0
) -> GradientNoiseScale:
    """B_simple = tr(Sigma) / |G|^2 in examples (McCandlish et al. 2018, arXiv 1812.06162), from batches of two sizes.

    Draws `draws` batches of `big_batch` of the `examples`, and cuts each into its batches of `small_batch`. Unbiased in
    both parts, for the population that the examples came from. Further draws reduce the part of the error that comes
    from cutting into batches: a draw alone has the jackknife's variance V over its small batches, and the mean over D
    draws without replacement V (B / N + (1 - B / N) / D), as a mean over examples has. Costs draws * big_batch /
    small_batch gradients of small batches and 2 more; holds those of one draw in float64. Raises ValueError unless 1 <=
    small_batch < big_batch <= examples with big_batch a multiple of small_batch, for draws below 1, and for a loss that
    is not deterministic.
    """
    if not (1 <= small_batch < big_batch <= examples and big_batch % small_batch == 0):
        raise ValueError(
            f"`big_batch` must be a multiple of small_batch = {small_batch}, above it and at most the {examples} "
            f"examples, got {big_batch}"
        )
    if draws < 1:
        raise ValueError(f"`draws` must be at least 1, got {draws}")
    generator = torch.Generator().manual_seed(seed)
    evaluate_center(_on(loss, torch.arange(small_batch, device=params.device)), params)
    found = []
    for _ in range(draws):
        batch = torch.randperm(examples, generator=generator)[:big_batch].to(params.device)
        gradients = [_on(loss, group).value_and_gradient(params)[1].double() for group in batch.split(small_batch)]
        means = torch.stack(gradients)
        mean = means.mean(dim=0)
        away = means - mean
        found.append(_of_groups(small_batch, mean @ mean, (away * away).sum(dim=1), away @ mean))
    estimates, covariances = (torch.stack(each).mean(dim=0) for each in zip(*found, strict=True))
    shared = big_batch / examples
    spent = 2 + draws * (big_batch // small_batch)
    return _summary(estimates, covariances * (shared + (1 - shared) / draws), spent)


def noise_scale_from_norms(
    small: Tensor, big: Tensor, *, small_batch: int, big_batch: int, evaluations: int = 0
) -> GradientNoiseScale:
    """B_simple = tr(Sigma) / |G|^2 in examples, from |G_b|^2, (draws,), and |G_B|^2, (draws,), of the same draws.

    A training run can record these norms. The draws must hold different examples, as batches of one epoch do: the
    standard errors take them as independent. Raises ValueError for vectors of different lengths or fewer than 2 draws,
    and unless 1 <= small_batch < big_batch.
    """
    if not 1 <= small_batch < big_batch:
        raise ValueError(f"`big_batch` must be above small_batch = {small_batch}, itself 1 or more, got {big_batch}")
    if small.ndim != 1 or small.shape != big.shape:
        raise ValueError(f"`big` must be a vector as long as `small`, got {tuple(big.shape)} and {tuple(small.shape)}")
    _check_count("small", len(small))
    b, s = big.double().cpu(), small.double().cpu()
    squared = (big_batch * b - small_batch * s) / (big_batch - small_batch)
    traces = (s - b) / (1 / small_batch - 1 / big_batch)
    both = torch.stack([traces, squared])
    return _summary(both.mean(dim=1), _covariance(both) / (len(s) - 1), evaluations)


def per_example_noise_scale(
    loss: BatchLoss, params: Tensor, *, examples: int, chunk_size: int | None = None
) -> GradientNoiseScale:
    """B_simple = tr(Sigma) / |G|^2 in examples, from the gradients of all `examples` one by one.

    `chunk_size` of them are in memory at once (None: by their size). Costs one pass of batch gradients and one of
    per-example gradients: by torch.func.vmap, or one after another where `loss` does not allow that (data-dependent
    control flow, recurrent layers). Raises ValueError for fewer than 2 examples, chunk_size below 1, and a loss that is
    not deterministic.
    """
    _check_count("examples", examples)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}; None chooses one")
    x = params.detach()
    chunks = torch.arange(examples, device=x.device).split(chunk_size or max(1, CHUNK_NUMBERS // x.numel()))
    evaluate_center(_on(loss, chunks[0]), params)
    mean = torch.zeros_like(x, dtype=torch.float64)
    for indices in chunks:
        mean += _on(loss, indices).value_and_gradient(x)[1].double() * (len(indices) / examples)
    squares, slopes = [], []
    for indices in chunks:
        away = _gradients_one_by_one(loss, x, indices).double() - mean
        squares.append((away * away).sum(dim=1))
        slopes.append(away @ mean)
    found = _of_groups(1, mean @ mean, torch.cat(squares), torch.cat(slopes))
    return _summary(*found, 2 + len(chunks) + examples)


def curvature_noise_scale(
    loss: Loss | Objective, batch_loss: BatchLoss, params: Tensor, *, examples: int, groups: int = 32, seed: int = 0
) -> GradientNoiseScale:
    """B_noise = tr(H Sigma) / G'HG in examples: `trace` is tr(H Sigma), and `squared_gradient` is G'HG.

    H is the Hessian of `loss`, the mean over all `examples`; `batch_loss` is the mean over some of them. The examples
    are cut at random into `groups` of one size, or more, so that few are left out; at most one for each example. Both
    parts are unbiased for the H of these examples. Where the estimate of G'HG is not above 0, as a loss that is not
    convex allows, there is no B_noise: NaN. Costs a gradient of all examples and `groups` Hessian-vector products, and
    two losses. Raises ValueError for fewer than 2 examples or groups, and for a loss that is not deterministic.
    """
    _check_count("examples", examples)
    _check_count("groups", groups)
    x, objective = params.detach(), as_objective(loss)
    before = objective.evaluations
    product = hessian_at_center(objective, params)[1]
    size = max(1, examples // groups)
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(seed)).to(x.device)
    parts = [part for part in order.split(size) if len(part) == size]
    means = torch.stack([_on(batch_loss, part).value_and_gradient(x)[1] for part in parts])
    mean = means.mean(dim=0)
    along = product(mean).double()
    squares, slopes = [], []
    for group in means:
        away = group - mean
        squares.append(away.double() @ product(away).double())
        slopes.append(away.double() @ along)
    found = _of_groups(size, mean.double() @ along, torch.stack(squares), torch.stack(slopes))
    return _summary(*found, objective.evaluations - before + len(parts))


def sgd_noise_scale(learning_rate: float, batch_size: int, examples: int, *, momentum: float = 0.0) -> float:
    """eta (N/B - 1) / (1 - momentum), in units of the learning rate; eta N / B where B is much smaller than N.

    eta is `learning_rate`, B `batch_size`, N `examples` (Smith and Le 2018, arXiv 1710.06451). Raises ValueError for a
    rate not above 0, momentum outside [0, 1), and unless 1 <= batch_size <= examples.
    """
    check_optimizer(learning_rate, momentum)
    if not 1 <= batch_size <= examples:
        raise ValueError(f"`batch_size` must be between 1 and the {examples} examples, got {batch_size}")
    return learning_rate * (examples / batch_size - 1) / (1 - momentum)


def _gradients_one_by_one(loss: BatchLoss, params: Tensor, indices: Tensor) -> Tensor:
    """The gradients of the examples at `indices`, (b, n)."""
    at_once = torch.func.vmap(torch.func.grad(lambda p, index: loss(p, index[None])), in_dims=(None, 0))
    try:
        found: Tensor = at_once(params, indices)
        return found.detach()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # of an operation that vmap does not know
        return torch.stack([_on(loss, index[None]).value_and_gradient(params)[1] for index in indices])


def _of_groups(size: int, whole: Tensor, squares: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """The estimates (tr(Sigma), |G|^2) from the mean gradients m_k of K disjoint groups of `size` examples, and their
    jackknife covariance, (2, 2): NaN for K < 3.

    With m the mean of the m_k: `whole` = |m|^2, `squares` = |m_k - m|^2, (K,), and `slopes` = (m_k - m)'m, (K,).
    """
    c, slope, count, rest = squares.cpu(), slopes.cpu(), len(squares), len(squares) - 1
    trace = c.sum() / rest
    estimates = torch.stack([size * trace, whole.cpu() - trace / count])
    if rest < 2:
        return estimates, torch.full((2, 2), math.nan, dtype=torch.float64)
    without_means = whole.cpu() - 2 * slope / rest + c / rest**2  # |m|^2 without group k
    without_traces = (c.sum() - c * count / rest) / (rest - 1)
    without = torch.stack([size * without_traces, without_means - without_traces / rest])
    return estimates, _covariance(without) * rest


def _covariance(values: Tensor) -> Tensor:
    """Over the last axis of (2, m), divided by m."""
    away = values - values.mean(dim=1, keepdim=True)
    return away @ away.T / values.shape[1]


def _summary(estimates: Tensor, covariance: Tensor, evaluations: int) -> GradientNoiseScale:
    """The ratio tr(Sigma) / |G|^2 of the `estimates` of both, (2,), and all errors from their `covariance`, (2, 2)."""
    trace, squared = estimates.tolist()
    trace_error, squared_error = covariance.diagonal().sqrt().tolist()
    value, error = math.nan, math.nan
    if squared > 0:
        value = trace / squared
        slopes = torch.tensor([1 / squared, -value / squared], dtype=torch.float64)
        error = float((slopes @ covariance @ slopes).clamp(min=0).sqrt())
    return GradientNoiseScale(
        value=value,
        stderr=error,
        trace=trace,
        trace_stderr=trace_error,
        squared_gradient=squared,
        squared_gradient_stderr=squared_error,
        evaluations=evaluations,
        converged=squared > 0 and squared >= SURE * squared_error,
    )


def _on(loss: BatchLoss, indices: Tensor) -> Objective:
    return Objective(lambda params: loss(params, indices))


def _check_count(name: str, count: int) -> None:
    if count < 2:
        raise ValueError(f"`{name}` must be at least 2, got {count}; the standard error needs two")
