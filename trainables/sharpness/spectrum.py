"""The spectral density of the Hessian, by stochastic Lanczos quadrature.

    phi(t) = (1/n) sum_i delta(t - lambda_i)  ~  (1/m) sum over probes v of  sum_j w_j delta(t - theta_j)

From a random start v the Lanczos recurrence gives a tridiagonal T; theta_j are its eigenvalues, and w_j the squares
of the first entries of its unit eigenvectors: the Gauss quadrature of the measure that v sees, exact for polynomials
up to degree 2 * steps - 1 (Golub and Meurant, Matrices, Moments and Quadrature, chapter 6). Over Rademacher v that
measure is phi on average (Lin, Saad and Yang, "Approximating spectral densities of large matrices", SIAM Review 58,
2016, section 3.2; Ghorbani, Krishnan and Xiao, "An investigation into neural net optimization via Hessian eigenvalue
density", ICML 2019, which also has the full reorthogonalization).

Traps: weights are shares of n, so that a single eigenvalue far out has weight 1/n on average, and from one probe
anything from 0 to several times that: ends and outliers are found well, their weights badly, unless there are many
probes; inside a dense bulk the nodes are not eigenvalues; a broadened density has a width of its own, to be given
with the figure.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.sharpness.lanczos import Lanczos, random_signs
from trainables.sharpness.objective import Loss, Objective, as_objective, hessian_at_center

STEPS = 60
SAMPLES = 5
SETTLED = 1e-2  # of the largest |node|: the residual at which an end of the spectrum counts as found


@dataclass(frozen=True)
class SpectralDensity:
    """`nodes` and `weights` (their sum is 1) of all probes, (k,), float64 on the CPU; `probes` (k,) says whose.

    `converged` says that both ends of the spectrum have settled in every probe: the outermost nodes are within 1 %
    of the largest |node| of an eigenvalue. Where the loss or a product is not finite there is one node, and it and
    its weight are NaN.
    """

    nodes: Tensor
    weights: Tensor
    probes: Tensor
    evaluations: int
    converged: bool

    def mean(self, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """tr(f(H)) / n, the mean of f over all eigenvalues, and its standard error over the probes.

        `function` acts on each number of a tensor. With one probe the standard error is NaN. It does not hold the
        error of the quadrature, which is none for polynomials up to degree 2 * steps - 1.
        """
        terms = self.weights * function(self.nodes)
        count = int(self.probes[-1]) + 1
        means = count * torch.zeros(count, dtype=torch.float64).index_add(0, self.probes, terms)
        return float(means.mean()), float(means.std(correction=1) / count**0.5) if count > 1 else math.nan

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
    steps: int = STEPS,
    samples: int = SAMPLES,
    seed: int = 0,
) -> SpectralDensity:
    """The density of the eigenvalues of the Hessian of `loss` at `params`, (n,), in units of the loss.

    Costs at most samples * steps Hessian-vector products (`samples` counts probes here), a loss and a gradient, and
    memory for `steps` vectors; a probe ends early, and is exact, when its basis is invariant under H, at the latest
    after n steps. Raises ValueError for steps or samples below 1, and for a loss that is not deterministic.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}")
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1, got {samples}; its standard errors need 2")
    objective = as_objective(loss)
    before = objective.evaluations
    center, product = hessian_at_center(objective, params)
    if not math.isfinite(center):
        return _not_finite(objective.evaluations - before)
    generator = torch.Generator().manual_seed(seed)
    nodes: list[Tensor] = []
    weights: list[Tensor] = []
    converged = True
    for _ in range(samples):
        lanczos = Lanczos(product, random_signs(params, generator), min(steps, params.numel()), generator)
        while not (lanczos.full or lanczos.closed):
            if not lanczos.step():
                return _not_finite(objective.evaluations - before)
        values, vectors = lanczos.eigh()
        residuals = lanczos.norm * abs(vectors[-1, [0, -1]])
        converged &= lanczos.closed or bool((residuals <= SETTLED * abs(values).max()).all())
        nodes.append(torch.from_numpy(values))
        weights.append(torch.from_numpy(vectors[0] ** 2))
    sizes = torch.tensor([len(one) for one in nodes])
    return SpectralDensity(
        nodes=torch.cat(nodes),
        weights=torch.cat([one / (one.sum() * samples) for one in weights]),
        probes=torch.repeat_interleave(torch.arange(samples), sizes),
        evaluations=objective.evaluations - before,
        converged=converged,
    )


def _not_finite(evaluations: int) -> SpectralDensity:
    nan = torch.full((1,), math.nan, dtype=torch.float64)
    return SpectralDensity(nan, nan, torch.zeros(1, dtype=torch.int64), evaluations, False)
