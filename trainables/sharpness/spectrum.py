"""The spectral density of the Hessian, by stochastic Lanczos quadrature beside what a first recurrence has found.

    phi(t) = (1/n) sum_i delta(t - lambda_i)  ~  (1/n) sum over i found of delta(t - lambda_i)
                                               + ((n - c)/n) (1/m) sum over probes v of  sum_j w_j delta(t - theta_j)

A Lanczos recurrence from a random start finds the c eigenvalues that lie far out: those whose residual is at most 1 %
of them count as found, with their true weight, 1/n. The rest is sampled: from each of m random starts v in the
complement of their eigenvectors, the recurrence gives a tridiagonal T; theta_j are its eigenvalues, and w_j the squares
of the first entries of its unit eigenvectors: the Gauss quadrature of the measure that v sees there, exact for
polynomials up to degree 2 * steps - 1 (Golub and Meurant, Matrices, Moments and Quadrature, chapter 6). On average over
v that measure is the density of the complement, whatever was found before (quadrature: Lin, Saad and Yang,
"Approximating spectral densities of large matrices", SIAM Review 58, 2016, section 3.2; for networks, with the full
reorthogonalization, Ghorbani, Krishnan and Xiao, "An investigation into neural net optimization via Hessian eigenvalue
density", ICML 2019; eigenvalues found first: Chen and Hallman, arXiv 2205.01736, section 3).

Measured on an MLP of 85 002 parameters trained on digits, the root mean square errors of 8 seeds with 2 probes, 180
products and 28 eigenvalues found, and of 5 probes of 60 steps with nothing found before, 300 products: of the mean
eigenvalue 6 and 13 %, of log det(1 + 300 H) 12 and 19 %, and in the Wasserstein distance to a run of 1500 products 0.15
and 0.23 of the mean |eigenvalue|.

Traps: inside a dense bulk the nodes are not eigenvalues: the number of steps rules how well it is resolved (on that
network 92 % of the eigenvalues are one node, within 1e-5 of the largest around 0), and no standard error shows it; of
equal eigenvalues one is found and the others are sampled; a broadened density has a width of its own, to be given with
the figure.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables.sharpness.objective import Loss, Objective, as_objective, check_params, hessian_at_center
from trainables.sharpness.solvers.lanczos import Array, Lanczos

STEPS = 60
SAMPLES = 2
SETTLED = 1e-2  # the residual at which an eigenvalue counts as found, of its |value|; an end, of the largest |value|


@dataclass(frozen=True)
class SpectralDensity:
    """`nodes` and `weights` (their sum is 1) of all probes, (k,), float64 on the CPU; `probes` (k,) says whose.

    Each probe's own have the eigenvalues found before it among them, and a sum of 1 / m. `converged` says that both
    ends of the spectrum have settled: the outermost nodes of the first recurrence are within 1 % of the largest |node|
    of an eigenvalue. Where the loss or a product is not finite there is one node, and it and its weight are NaN.
    `sampled` (k,) tells the nodes of the probes from the eigenvalues found; the probes see `dimension` dimensions.
    """

    nodes: Tensor
    weights: Tensor
    probes: Tensor
    sampled: Tensor
    dimension: int
    evaluations: int
    converged: bool

    def mean(self, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """tr(f(H)) / n, the mean of f over all eigenvalues, and its standard error.

            stderr^2 = s^2 (2 / (d + 2)) (mean of f^2 - (mean of f)^2) / m

        with d = `dimension`, s = d / n, m probes and the means over the sampled nodes: the variance of v^T f(H) v for v
        uniform on the unit sphere, whose second moment of f the same nodes give. Unlike the spread of two or three
        probes it is not itself a matter of luck. It is 0 where every eigenvalue was found, and does not hold the error
        of the quadrature, which is none for polynomials of degree up to 2 * steps - 1. `function` acts on each number
        of a tensor.
        """
        values = function(self.nodes)
        weights, own = self.weights[self.sampled], values[self.sampled]
        share = weights.sum()
        spread = float(weights @ (own - (weights @ own) / share).square() / share) if len(own) else 0.0
        variance = float(share) ** 2 * 2 / (self.dimension + 2) * spread / (int(self.probes[-1]) + 1)
        return float(self.weights @ values), math.sqrt(variance)

    def density(self, points: Tensor, width: float) -> Tensor:
        """The density at `points`, each node as a Gaussian of standard deviation `width`; both in units of eigenvalues.

            sum_j w_j exp(-(t - theta_j)^2 / (2 width^2)) / sqrt(2 pi width^2)

        Its integral is 1. Raises ValueError for width <= 0.
        """
        if not (math.isfinite(width) and width > 0):
            raise ValueError(f"`width` must be a number above 0, got {width}; 1 % of the nodes' range is a start")
        offsets = (points.to(self.nodes)[..., None] - self.nodes) / width
        return (torch.exp(-(offsets**2) / 2) @ self.weights) / (width * math.sqrt(2 * math.pi))

    def quantiles(self, shares: Tensor) -> Tensor:
        """The least node up to which a share of all weight lies, for each of `shares` in [0, 1], like them."""
        nodes, order = self.nodes.sort()
        below = self.weights[order].cumsum(0)
        index = torch.searchsorted(below, shares.to(below) * below[-1] * (1 - 1e-12)).clamp(max=len(nodes) - 1)
        return nodes[index].to(shares)


def spectral_density(
    loss: Loss | Objective,
    params: Tensor,
    *,
    steps: int | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> SpectralDensity:
    """The density of the eigenvalues of the Hessian of `loss` at `params`, (n,), in units of the loss.

    `samples` counts probes. Costs at most steps * (1 + samples) Hessian-vector products, a loss and a gradient, and
    memory for 3 * steps vectors; a recurrence ends early, and is exact, when its basis is invariant under H. `steps` is
    60 by default, and n where that costs no more, so that small networks have all their eigenvalues found. Raises
    ValueError for steps or samples below 1, and for a loss that is not deterministic.
    """
    check_params(params)
    if steps is None:
        steps = params.numel() if params.numel() <= STEPS * (1 + samples) else STEPS
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}")
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1, got {samples}")
    objective = as_objective(loss)
    before = objective.evaluations
    center, product = hessian_at_center(objective, params)
    if not math.isfinite(center):
        return _not_finite(objective.evaluations - before)
    generator = torch.Generator().manual_seed(seed)
    first = _recurrence(product, params.new_empty(0, params.numel()), steps, generator)
    if first is None:
        return _not_finite(objective.evaluations - before)
    values, vectors = first.eigh()
    residuals = first.norm * abs(vectors[-1])
    found = residuals <= SETTLED * abs(values)
    converged = first.closed or bool((residuals[[0, -1]] <= SETTLED * abs(values).max()).all())
    basis = torch.from_numpy(vectors.T[found]).to(params) @ first.basis
    del first  # its basis
    share = 1 - len(basis) / params.numel()  # of the eigenvalues, what is left to the probes

    nodes: list[Array] = []
    weights: list[Array] = []
    for _ in range(samples):
        nodes.append(values[found])
        weights.append(np.full(len(basis), 1 / params.numel()))
        if share:
            probe = _recurrence(product, basis, steps, generator)
            if probe is None:
                return _not_finite(objective.evaluations - before)
            inside, vectors = probe.eigh()
            del probe
            nodes[-1] = np.append(nodes[-1], inside)
            weights[-1] = np.append(weights[-1], share * vectors[0] ** 2)
    sizes = torch.tensor([len(one) for one in nodes])
    return SpectralDensity(
        nodes=torch.from_numpy(np.concatenate(nodes)),
        weights=torch.from_numpy(np.concatenate([one / (one.sum() * samples) for one in weights])),
        probes=torch.repeat_interleave(torch.arange(samples), sizes),
        sampled=torch.cat([torch.arange(size) >= len(basis) for size in sizes.tolist()]),
        dimension=params.numel() - len(basis),
        evaluations=objective.evaluations - before,
        converged=converged,
    )


def _recurrence(
    product: Callable[[Tensor], Tensor], known: Tensor, steps: int, generator: torch.Generator
) -> Lanczos | None:
    """At most `steps` in the complement of the rows of `known`, (k, n), k < n; None where a product is not finite."""
    lanczos = Lanczos(product, known, min(steps, known.shape[1] - len(known)), generator)
    while not (lanczos.full or lanczos.closed):
        if not lanczos.step():
            return None
    return lanczos


def _not_finite(evaluations: int) -> SpectralDensity:
    nan = torch.full((1,), math.nan, dtype=torch.float64)
    first = torch.zeros(1, dtype=torch.int64)
    return SpectralDensity(nan, nan, first, torch.ones(1, dtype=torch.bool), 0, evaluations, False)
