"""The noise of a minibatch gradient: how large a batch is large, and how noisy a step is.

Gradient noise scale (McCandlish et al. 2018, "An empirical model of large-batch training", arXiv 1812.06162, section
2.2 and appendix A.1): with G the gradient over all data there could be, Sigma the covariance of one example's, and G_B
the mean gradient of B examples, E|G_B|^2 = |G|^2 + tr(Sigma) / B. Two batch sizes b < B give both, unbiased:

    B_simple = tr(Sigma) / |G|^2,     |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b),
                                      tr(Sigma) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B),

and so do the gradients g_i of N examples: tr(Sigma) = sum |g_i - g|^2 / (N - 1), |G|^2 = |g|^2 - tr(Sigma) / N. The
two ways agree on average, as batches are drawn without replacement. The ratio of unbiased numbers is not unbiased.

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
from trainables.sharpness.objective import Objective, evaluate_center

# (params (n,), indices (b,)) -> mean loss of these examples, (): of a model it is `ModelLoss.of_examples`.
BatchLoss = Callable[[Tensor, Tensor], Tensor]

CHUNK_NUMBERS = 2**23  # of per-example gradients held at once
SURE = 2.0  # standard errors that |G|^2 is to be above 0


@dataclass(frozen=True)
class GradientNoiseScale:
    """`value` = tr(Sigma) / |G|^2 in examples, from `trace` and `squared_gradient`; standard errors by the jackknife.

    `converged`: |G|^2 is at least two of its standard errors above 0. Where its estimate is not above 0, `value` and
    its `stderr` are NaN. `evaluations` counts batch gradients, and per-example gradients one by one.
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
    """B_simple from `draws` batches of `big_batch` of the `examples`, each also cut into its batches of `small_batch`.

    Unbiased in both parts, for the population that the examples came from. Costs draws * big_batch / small_batch
    gradients of small batches and 2 more. Raises ValueError unless 1 <= small_batch < big_batch <= examples with
    big_batch a multiple of small_batch, for draws below 2, and for a loss that is not deterministic.
    """
    if not (1 <= small_batch < big_batch <= examples and big_batch % small_batch == 0):
        raise ValueError(
            f"`big_batch` must be a multiple of small_batch = {small_batch}, above it and at most the {examples} "
            f"examples, got {big_batch}"
        )
    _check_count("draws", draws)
    generator = torch.Generator().manual_seed(seed)
    small, big = torch.zeros(draws, dtype=torch.float64), torch.zeros(draws, dtype=torch.float64)
    evaluate_center(_on(loss, torch.arange(small_batch, device=params.device)), params)
    parts = big_batch // small_batch
    for draw in range(draws):
        batch = torch.randperm(examples, generator=generator)[:big_batch].to(params.device)
        total = torch.zeros_like(params, dtype=torch.float64)
        for indices in batch.split(small_batch):
            gradient = _on(loss, indices).value_and_gradient(params)[1].double()
            small[draw] += float(gradient @ gradient) / parts
            total += gradient / parts
        big[draw] = float(total @ total)
    return noise_scale_from_norms(
        small, big, small_batch=small_batch, big_batch=big_batch, evaluations=2 + draws * parts
    )


def noise_scale_from_norms(
    small: Tensor, big: Tensor, *, small_batch: int, big_batch: int, evaluations: int = 0
) -> GradientNoiseScale:
    """B_simple from |G_b|^2, (draws,), and |G_B|^2, (draws,), of the same draws, as a training run can record them.

    Raises ValueError for vectors of different lengths or fewer than 2 draws, and unless 1 <= small_batch < big_batch.
    """
    if not 1 <= small_batch < big_batch:
        raise ValueError(f"`big_batch` must be above small_batch = {small_batch}, itself 1 or more, got {big_batch}")
    if small.ndim != 1 or small.shape != big.shape:
        raise ValueError(f"`big` must be a vector as long as `small`, got {tuple(big.shape)} and {tuple(small.shape)}")
    _check_count("small", len(small))
    b, s = big.double().cpu(), small.double().cpu()
    squared = (big_batch * b - small_batch * s) / (big_batch - small_batch)
    traces = (s - b) / (1 / small_batch - 1 / big_batch)
    without_traces, without_squared = ((each.sum() - each) / (len(s) - 1) for each in (traces, squared))
    return _summary(float(traces.mean()), float(squared.mean()), without_traces, without_squared, evaluations)


def per_example_noise_scale(
    loss: BatchLoss, params: Tensor, *, examples: int, chunk_size: int | None = None
) -> GradientNoiseScale:
    """B_simple from the gradients of all `examples` one by one, `chunk_size` at once in memory (None: by their size).

    The standard errors are those of the examples as a sample. Costs one pass of batch gradients and one of
    per-example gradients (torch.func.vmap, so `loss` must allow it: no data-dependent control flow). Raises
    ValueError for fewer than 2 examples, chunk_size below 1, and a loss that is not deterministic.
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
    one_by_one = torch.func.vmap(torch.func.grad(lambda p, index: loss(p, index[None])), in_dims=(None, 0))
    squares, slopes = [], []
    for indices in chunks:
        away = one_by_one(x, indices).detach().double() - mean
        squares.append((away * away).sum(dim=1))
        slopes.append(away @ mean)
    c, slope, rest = torch.cat(squares).cpu(), torch.cat(slopes).cpu(), examples - 1
    trace, whole = c.sum() / rest, (mean @ mean).cpu()
    without_means = whole - 2 * slope / rest + c / rest**2  # |mean gradient without example i|^2
    without_traces = (c.sum() - c * examples / rest) / max(1, rest - 1)
    without_squared = without_means - without_traces / rest
    spent = 2 + len(chunks) + examples
    return _summary(float(trace), float(whole - trace / examples), without_traces, without_squared, spent)


def sgd_noise_scale(learning_rate: float, batch_size: int, examples: int, *, momentum: float = 0.0) -> float:
    """eta (N/B - 1) / (1 - momentum), in units of the learning rate; eta N / B where B is much smaller than N."""
    check_optimizer(learning_rate, momentum)
    if not 1 <= batch_size <= examples:
        raise ValueError(f"`batch_size` must be between 1 and the {examples} examples, got {batch_size}")
    return learning_rate * (examples / batch_size - 1) / (1 - momentum)


def _summary(
    trace: float, squared: float, without_traces: Tensor, without_squared: Tensor, evaluations: int
) -> GradientNoiseScale:
    """The ratio, and all jackknife errors from the two estimates with each one of the samples left out, (m,)."""

    def jackknife(values: Tensor) -> float:
        return float((values.var(correction=0) * (len(values) - 1)).sqrt())

    squared_stderr, known = jackknife(without_squared), squared > 0
    return GradientNoiseScale(
        value=trace / squared if known else math.nan,
        stderr=jackknife(without_traces / without_squared) if known else math.nan,
        trace=trace,
        trace_stderr=jackknife(without_traces),
        squared_gradient=squared,
        squared_gradient_stderr=squared_stderr,
        evaluations=evaluations,
        converged=known and squared >= SURE * squared_stderr,
    )


def _on(loss: BatchLoss, indices: Tensor) -> Objective:
    return Objective(lambda params: loss(params, indices))


def _check_count(name: str, count: int) -> None:
    if count < 2:
        raise ValueError(f"`{name}` must be at least 2, got {count}; the standard error needs two")
