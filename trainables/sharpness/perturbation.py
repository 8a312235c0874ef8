"""How much the loss rises under random perturbations of the weights, and how large these may be.

    perturbation_sharpness = E[f(x + d)] - f(x),   d = scale * c * z,   c = 1 (plain) or |x| (adaptive), elementwise

with z ~ N(0, I) (`gaussian`), z uniform on the unit sphere (`sphere`) or z_i uniform in [-1, 1] (`box`); the
Gaussian one is the expected sharpness of Neyshabur et al. 2017 (arXiv 1706.08947), with a general c the average-case
sharpness of Andriushchenko et al. 2023 (arXiv 2302.07011). To second order, with H the Hessian and D = diag(c),

    gaussian: scale^2 tr(D H D) / 2     sphere: scale^2 tr(D H D) / (2 n)     box: scale^2 tr(D H D) / 6,

so that it is a trace at small scale and sees the shape of the basin beyond that at a large one. Of a ReLU network that
holds for the trace with the kinks in it: the Hessian at x leaves out the units that switch on or off within reach of d,
and underrates the mean at every scale where any does (docs/measures.md has figures).

Antithetic pairs: every z is used as z and -z. The gradient and all odd terms cancel exactly in the pair's mean, which
at a point that is not quite a minimum would otherwise be most of the noise. The two losses of a pair are dependent, so
the standard error is that of independent pair means; taking all samples as independent would be wrong either way.

Traps: the kinds mean the same at different scales (a sphere of radius s is about a Gaussian of scale s / sqrt(n)); in
float32 a perturbation below 6e-8 |x_i| is rounded away, so small scales need float64; the largest of some random
samples is no worst case (`ball_sharpness` looks for that).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.sharpness.objective import Loss, Objective, as_objective, check_step, evaluate_center
from trainables.sharpness.solvers.lanczos import random_normal

Kind = Literal["gaussian", "sphere", "box"]

SAMPLES = 64
WIDTH_TARGET = 0.1  # nats
WIDTH_TOLERANCE = 1e-2
WIDTH_TRIALS = 40
FIRST_WIDTH, SMALLEST_WIDTH, LARGEST_WIDTH = 1e-2, 1e-12, 1e12
LARGEST_STEP = 100.0  # between two trial widths, while only one side is known


@dataclass(frozen=True)
class PerturbationSharpness:
    """`mean` and `max` of the loss rise f(x + d) - f(x) over the samples, in nats; `stderr` of `mean`, from pairs.

    All three are NaN where f(x) or the loss of any sample is not finite: to leave such samples out would flatter.
    """

    mean: float
    max: float
    stderr: float
    loss_center: float
    samples: int
    evaluations: int


@dataclass(frozen=True)
class PacBayesWidth:
    """`value` = sigma (relative to |x_i| where adaptive); `rise`, `rise_stderr`: the mean loss rise there, in nats.

    `converged`: the mean rise is at most the target at `value`, and above it at (1 + tol) * `value` or nearer.
    `stderr` of `value` is

        hypot(value * rise_stderr / (p * rise), gap / sqrt(3)),   p = d log rise / d log sigma

    by the delta method, with p the power between both ends of the bracket (2 for a quadratic) and gap its width, in
    which the crossing is anywhere; it is NaN where not converged, or where the loss is not finite at the upper end.
    `value` is infinite, and not converged, where no width up to 1e12 brought the rise to the target, 0 where every
    width down to 1e-12 went beyond it, and NaN where f(x) is not finite.
    """

    value: float
    stderr: float
    rise: float
    rise_stderr: float
    loss_center: float
    evaluations: int
    converged: bool


def perturbation_sharpness(
    loss: Loss | Objective,
    params: Tensor,
    *,
    scale: float,
    kind: Kind = "gaussian",
    adaptive: bool = False,
    samples: int = SAMPLES,
    seed: int = 0,
) -> PerturbationSharpness:
    """Mean and maximum of f(x + d) - f(x) over `samples` random d, as samples / 2 pairs (d, -d); `params` is x, (n,).

    `gaussian`: d_i ~ N(0, scale^2); `sphere`: ||d|| = scale; `box`: |d_i| <= scale; `adaptive` multiplies d_i by
    |x_i|, so that a zero weight does not move and rescaling w1 <- a w1, w2 <- w2 / a of a ReLU network (without
    biases, or with them rescaled) leaves every sample's loss alone; the plain measure changes at will.

    Costs `samples` losses and 1 gradient more. Raises ValueError for a scale that is not a number above 0, another
    kind, samples that are odd or below 4, and for a loss that is not deterministic.
    """
    _check_positive("scale", scale)
    if kind not in ("gaussian", "sphere", "box"):
        raise ValueError(f"`kind` must be 'gaussian', 'sphere' or 'box', got {kind!r}")
    _check_samples(samples)
    objective = as_objective(loss)
    before = objective.evaluations
    center, _ = evaluate_center(objective, params)
    mean = largest = stderr = math.nan
    spread = {"gaussian": 1.0, "sphere": params.numel() ** -0.5, "box": 3**-0.5}[kind]
    lengths = params.detach().abs() if adaptive else torch.ones_like(params)
    check_step("scale", scale, scale * spread * torch.linalg.vector_norm(lengths), params)
    if math.isfinite(center):
        rises = _rises(objective, params, center, scale, _draws(params, kind, adaptive, samples, seed))
        if rises.isfinite().all():
            mean, stderr = _mean_of_pairs(rises)
            largest = float(rises.max())
    return PerturbationSharpness(mean, largest, stderr, center, samples, objective.evaluations - before)


def pac_bayes_width(
    loss: Loss | Objective,
    params: Tensor,
    *,
    target: float = WIDTH_TARGET,
    adaptive: bool = False,
    samples: int = SAMPLES // 2,
    tol: float = WIDTH_TOLERANCE,
    seed: int = 0,
) -> PacBayesWidth:
    """max sigma with E[f(x + d)] - f(x) <= target, d ~ N(0, sigma^2 c^2), c = 1 or |x|; flat minima are wide.

    Jiang et al. 2020 (arXiv 1912.02178, PAC-Bayes flatness) take 1 / sigma^2 as the measure, with the deviation in
    training accuracy; here it is in nats, smooth and not bounded. For a quadratic sigma = sqrt(2 target / tr(D H D)).
    Invariances as `perturbation_sharpness`: only the adaptive width is free of a ReLU network's rescaling.

    The same draws serve every width, so the mean rise is a continuous function of sigma, which is bracketed and then
    bisected on the logarithm, every other step where the power law through both ends has it, to the relative
    tolerance `tol`. Where the mean rise crosses the target more than once, one upward crossing is found.

    Costs `samples` losses per width, 4 to 8 widths as a rule, and 1 gradient more. Raises ValueError for a target or
    tol that is not a number above 0, and as `perturbation_sharpness`.
    """
    _check_positive("target", target)
    _check_positive("tol", tol)
    _check_samples(samples)
    objective = as_objective(loss)
    before = objective.evaluations
    center, _ = evaluate_center(objective, params)
    if not math.isfinite(center):
        nan = math.nan
        return PacBayesWidth(nan, nan, nan, nan, center, objective.evaluations - before, False)
    below, above = (0.0, 0.0, 0.0), (math.inf, math.inf, math.nan)  # width, mean rise, its standard error
    width = FIRST_WIDTH
    for trial in range(WIDTH_TRIALS):
        if not SMALLEST_WIDTH <= width <= LARGEST_WIDTH:
            break
        rises = _rises(objective, params, center, width, _draws(params, "gaussian", adaptive, samples, seed))
        rise, stderr = _mean_of_pairs(rises)
        if rise <= target:  # false for NaN: a loss that is not finite is beyond any target
            below = (width, rise, stderr)
        else:
            above = (width, rise, stderr)
        if above[0] <= (1 + tol) * below[0]:
            break
        width = _next_width(below, above, target, tol, bisect=trial % 2 == 1)
    spent, converged = objective.evaluations - before, above[0] <= (1 + tol) * below[0]
    if math.isinf(above[0]):
        return PacBayesWidth(math.inf, math.nan, below[1], below[2], center, spent, False)
    stderr = _width_error(below, above) if converged else math.nan
    return PacBayesWidth(below[0], stderr, below[1], below[2], center, spent, converged)


def _width_error(below: tuple[float, float, float], above: tuple[float, float, float]) -> float:
    """The standard error of the width where the rise crosses the target, of sampling and of the bracket."""
    (low, rise_low, rise_stderr), (high, rise_high, _) = below, above
    if not (rise_low > 0 and math.isfinite(rise_high)):
        return math.nan
    power = math.log(rise_high / rise_low) / math.log(high / low)
    return math.hypot(low * rise_stderr / (power * rise_low), (high - low) / 3**0.5)


def _next_width(
    below: tuple[float, float, float],
    above: tuple[float, float, float],
    target: float,
    tol: float,
    bisect: bool,
) -> float:
    """Where the rise should cross the target, and a third of the tolerance beyond, to close in from both sides."""
    (low, rise_low, _), (high, rise_high, _) = below, above
    if low == 0:  # the rise grows as the square, if it is known at all
        law = (target / rise_high) ** 0.5 if math.isfinite(rise_high) else 0.0
        return high * max(law / (1 + tol / 3), 1 / LARGEST_STEP)
    if math.isinf(high):
        law = (target / rise_low) ** 0.5 if rise_low > 0 else math.inf
        return low * min(law * (1 + tol / 3), LARGEST_STEP)
    middle = math.sqrt(low * high)
    if bisect or not (rise_low > 0 and math.isfinite(rise_high)):
        return middle
    power = math.log(rise_high / rise_low) / math.log(high / low)
    crossing = low * (target / rise_low) ** (1 / power)
    crossing *= (1 + tol / 3) if crossing < middle else 1 / (1 + tol / 3)
    return crossing if low < crossing < high else middle


def _draws(params: Tensor, kind: Kind, adaptive: bool, samples: int, seed: int) -> Iterator[Tensor]:
    """One c * z for each pair; the same ones on every device and at every scale, drawn anew rather than stored."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(samples // 2):
        if kind == "box":
            draw = (2 * torch.rand(params.shape, dtype=torch.float32, generator=generator) - 1).to(params)
        else:
            draw = random_normal(params, generator)
        if kind == "sphere":
            draw = draw / torch.linalg.vector_norm(draw)
        yield draw * params.detach().abs() if adaptive else draw


def _rises(objective: Objective, params: Tensor, center: float, scale: float, draws: Iterator[Tensor]) -> Tensor:
    """f(x + d) - f(x) and f(x - d) - f(x), (pairs, 2)."""
    return torch.tensor(
        [[objective.value(params + sign * scale * draw) - center for sign in (1, -1)] for draw in draws],
        dtype=torch.float64,
    )


def _mean_of_pairs(rises: Tensor) -> tuple[float, float]:
    pairs = rises.mean(dim=1)
    return float(pairs.mean()), float(pairs.std()) / math.sqrt(len(pairs))


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be a number above 0, got {value}")


def _check_samples(samples: int) -> None:
    if samples < 4 or samples % 2:
        raise ValueError(f"`samples` must be even and at least 4 (two pairs, for a standard error), got {samples}")
