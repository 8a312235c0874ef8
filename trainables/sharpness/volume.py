"""The volume of low loss around the weights: local entropy and the Laplace evidence.

    local_entropy        = log E exp(-beta (f(x + d) - f(x))),   d ~ N(0, C / gamma),  C = 1, or diag(x^2) (adaptive)
    laplace_log_evidence = -N f(x) - lambda |x|^2 / 2 - (1/2) sum_i log(max(lambda_i, lambda) / lambda),
                           lambda_i = N h_i + lambda,  h_i the eigenvalues of the Hessian of f

Local entropy: Baldassi et al. 2015 (arXiv 1509.05753), for networks and with the Gaussian, Chaudhuri et al. 2017
(Entropy-SGD, arXiv 1611.01838, equation 3, there with the normalizing constant and f(x) left in). On a quadratic with
gradient g and Hessian H, for the plain form and beta = 1,

    -(1/2) log det(1 + H / gamma) + g^T (gamma + H)^{-1} g / 2.

Evidence: Smith and Le 2018, "A Bayesian perspective on generalization and stochastic gradient descent" (arXiv
1710.06451, section 2): the probability of the labels under the model, with prior N(0, 1 / lambda) on the weights and
weight decay lambda |x|^2 / 2 in the summed cost, its logarithm Gaussian about the minimum.

Traps: an average of exponentials is ruled by its few largest terms. In n dimensions beta * rise varies by about
beta ||H||_F / (gamma sqrt(2)); well beyond 1, no affordable number of samples meets the terms that count, and the
estimate is far too low while its standard error looks small. The effective number of samples shows it coming, and no
more: it cannot know of terms never met. The evidence trusts the quadratic, the minimum and the prior; all eigenvalues
count, also the many small ones, so that a few largest alone do not give it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.sharpness.objective import Loss, Objective, as_objective, evaluate_center
from trainables.sharpness.solvers.lanczos import random_normal

SAMPLES = 256
LEAST_SHARE = 0.1


@dataclass(frozen=True)
class LocalEntropy:
    """`value` in nats, 0 at most around a minimum that is global, higher where flatter; `stderr` by the delta method.

    `effective_samples` = `samples` * (sum w)^2 / (m sum w^2) over the m = samples / 2 pair means w of the exponentials:
    as many as there are when all count alike, 2 when one pair is everything. `converged` says that they are at least
    the wanted share of `samples`; `value` is then too low by about stderr^2 / 2 on average, and else by more. A loss
    of +inf counts as 0 in the average; with any that is NaN or -inf, or f(x) not finite, all numbers are NaN.
    """

    value: float
    stderr: float
    effective_samples: float
    loss_center: float
    samples: int
    evaluations: int
    converged: bool


@dataclass(frozen=True)
class LaplaceEvidence:
    """`value` = log evidence in nats = `log_likelihood` + `log_prior` + `log_occam`, the three terms above.

    `negative_share`: the share of the eigenvalues h_i that is below 0; `negative_curvature`: their sum of |h_i| as a
    share of that of all. Both are left out of the value, so where they are not small it says little.
    """

    value: float
    log_likelihood: float
    log_prior: float
    log_occam: float
    negative_share: float
    negative_curvature: float


def local_entropy(
    loss: Loss | Objective,
    params: Tensor,
    *,
    gamma: float,
    beta: float = 1.0,
    adaptive: bool = False,
    samples: int = SAMPLES,
    least_share: float = LEAST_SHARE,
    seed: int = 0,
) -> LocalEntropy:
    """log E exp(-beta (f(x + d) - f(x))), d_i ~ N(0, 1 / gamma), times |x_i| if adaptive; `params` is x, (n,).

    `gamma` is one over the squared radius of the neighbourhood's each direction; `beta` = 1 takes the loss as it is,
    beta = N makes a mean over N examples the sum, as in a posterior. Drawn as samples / 2 antithetic pairs (d, -d).
    Costs `samples` losses and 1 gradient more. Invariant under a ReLU network's rescaling only if adaptive (biases
    rescaled too). Raises ValueError for gamma or beta not above 0, samples odd or below 4, `least_share` outside
    (0, 1], and a loss that is not deterministic.
    """
    for name, number in (("gamma", gamma), ("beta", beta)):
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"`{name}` must be a number above 0, got {number}")
    if samples < 4 or samples % 2:
        raise ValueError(f"`samples` must be even and at least 4 (two pairs, for a standard error), got {samples}")
    if not 0 < least_share <= 1:
        raise ValueError(f"`least_share` must be above 0 and at most 1, got {least_share}")
    objective = as_objective(loss)
    before = objective.evaluations
    center, _ = evaluate_center(objective, params)
    x, generator = params.detach(), torch.Generator().manual_seed(seed)
    width = (x.abs() if adaptive else torch.ones_like(x)) / gamma**0.5
    rises = torch.full((samples // 2, 2), math.nan, dtype=torch.float64)
    for pair in range(len(rises) if math.isfinite(center) else 0):
        step = width * random_normal(x, generator)
        rises[pair] = torch.tensor([objective.value(x + step) - center, objective.value(x - step) - center])
    value, stderr, share = _log_mean_exp(-beta * rises)
    spent = objective.evaluations - before
    return LocalEntropy(value, stderr, share * samples, center, samples, spent, share >= least_share)


def laplace_log_evidence(
    loss_center: float,
    eigenvalues: Tensor,
    *,
    examples: int,
    prior_precision: float,
    weights: Tensor | None = None,
    parameters: int | None = None,
    squared_norm: float = 0.0,
) -> LaplaceEvidence:
    """-N f(x) - lambda |x|^2 / 2 - (1/2) sum_i log(max(N h_i + lambda, lambda) / lambda), in nats.

    `loss_center` = f(x) and `eigenvalues` h_i, (k,), are those of the mean loss over N = `examples`, without weight
    decay; `prior_precision` = lambda; `squared_norm` = |x|^2 (0 leaves the prior's term out). All n eigenvalues, or
    nodes of a spectral density with their `weights` (sum 1) and the number n of `parameters`. Eigenvalues below 0 count
    as 0, that is as directions that the data says nothing about: they add nothing. No evaluations.
    Invariant under a change of coordinates only if the prior changes with them, as a rescaled network's does not.
    Raises ValueError for examples below 1, prior_precision not above 0, eigenvalues that are none, weights without
    parameters (or the reverse), of another shape, negative, or of another sum.
    """
    if examples < 1:
        raise ValueError(f"`examples` must be at least 1, got {examples}")
    if not (math.isfinite(prior_precision) and prior_precision > 0):
        raise ValueError(f"`prior_precision` must be a number above 0, got {prior_precision}")
    if eigenvalues.ndim != 1 or eigenvalues.numel() == 0:
        raise ValueError(f"`eigenvalues` must be a vector (k,), k > 0, got shape {tuple(eigenvalues.shape)}")
    if (weights is None) != (parameters is None):
        raise ValueError(
            f"`parameters` must be given with `weights` and only then, got {parameters}; "
            "weights are shares of all parameters, eigenvalues without weights count one each"
        )
    h = eigenvalues.detach().to("cpu", torch.float64)
    counts = torch.ones_like(h) if weights is None else weights.detach().to(h)
    if weights is not None and parameters is not None:
        if counts.shape != h.shape or bool((counts < 0).any()) or not abs(float(counts.sum()) - 1) <= 1e-4:
            raise ValueError(
                f"`weights` must be one for each of the {len(h)} eigenvalues, none negative, with sum 1, "
                f"got shape {tuple(counts.shape)}, sum {float(counts.sum())}"
            )
        counts = counts * parameters
    occam = -float((counts * torch.log1p(h.clamp(min=0) * (examples / prior_precision))).sum()) / 2
    negative, size = counts * (h < 0), float((counts * h.abs()).sum())
    likelihood, prior = -examples * loss_center, -prior_precision * squared_norm / 2
    return LaplaceEvidence(
        value=likelihood + prior + occam,
        log_likelihood=likelihood,
        log_prior=prior,
        log_occam=occam,
        negative_share=float(negative.sum() / counts.sum()),
        negative_curvature=float((negative * h.abs()).sum()) / size if size else 0.0,
    )


def _log_mean_exp(logs: Tensor) -> tuple[float, float, float]:
    """log of the mean of exp(logs), (m, 2); its standard error; (sum w)^2 / (m sum w^2), w the means of pairs."""
    top = float(logs.max())
    if not top < math.inf:  # NaN, or a loss of -inf
        return math.nan, math.nan, math.nan
    if top == -math.inf:
        return top, math.nan, 0.0
    less = torch.expm1(logs - top).mean(dim=1)  # w exp(-top) - 1, in [-1, 0]: differences of small rises survive
    mean = 1 + float(less.mean())
    stderr = float(less.std()) / (len(less) ** 0.5 * mean)
    return top + math.log1p(float(less.mean())), stderr, mean**2 / float(((1 + less) ** 2).mean())
