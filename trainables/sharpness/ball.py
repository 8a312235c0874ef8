"""Worst-case sharpness: the largest loss rise in a ball around the weights.

    ball_sharpness = max f(x + d) - f(x)  over  d = radius * c * u,  ||u|| <= 1,  c = 1 (plain) or |x| (adaptive)

with the l2 or l-infinity norm of u; plain: Foret et al. 2021 (SAM, arXiv 2010.01412), adaptive: Kwon et al.
2021 (ASAM, arXiv 2102.11600). To first order it is radius ||c g||_2 or radius ||c g||_1, which is what a SAM step sees;
at a good minimum g is nearly 0, and the second order decides: for l2 radius^2 lambda_max(D H D) / 2, D = diag(c).

The maximum is never known, only bounded from below by the best point visited. l-infinity is a box, and searched as one
(`box_search`). For l2 the search, in u, with G = df/du, after the SAM point in float32 as a box's:

- power steps, u <- G / ||G||_2: the ball's furthest point along the gradient (Frank-Wolfe with a full step, the
  generalized power method of Journee et al. 2010, monotone where f is convex), from the SAM point, along the
  largest curvature at x (Lanczos) both ways, from random directions, and opposite the best point so far;
- then from the best, projected ascent with Barzilai-Borwein steps, also to maxima inside and where power steps crawl;
- where that has not converged, as on losses with very different negative curvatures, the maximum over the ball of the
  quadratic model at the best point (`trust_region`), again at the next best one.

On two MLPs trained on digits (26122 weights, 9 balls each) this came within 2 % of the best of 40 starts, but for one
wide ball where it fell 9 % short.

Traps: the plain measure changes at will as a ReLU network's layers are rescaled (Dinh et al. 2017); the l-infinity
radius is per weight, so that ball reaches sqrt(n) times as far; with negative curvature power steps swing to and fro.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.sharpness.box_search import BoxSearch
from trainables.sharpness.hessian import hessian_eigenvalues
from trainables.sharpness.model_loss import ModelLoss
from trainables.sharpness.objective import Loss, Objective, Substituted, as_objective, check_step, evaluate_center
from trainables.sharpness.solvers.trust_region import largest_in_ball

Norm = Literal["l2", "linf"]

POWER_LIMIT, LANCZOS_STEPS, POLISH_LIMIT, RANDOM_STARTS = 10, 20, 60, 2
MODELS, MODEL_STEPS, HALVINGS = 3, 40, 8
RANDOM_CORNERS = 32  # evaluations
SETTLED_GAP = 1e-3  # of the gain: where the polish ends
CONVERGED_GAP = 1e-2  # of the gain: where a start ends, and where the result is said to have converged


@dataclass(frozen=True)
class BallSharpness:
    """`value` = the loss rise, in nats; `loss_center` = f(x).

    `converged` says that at the best point no first-order move inside the ball promises more than 1 % of the value
    (the Frank-Wolfe gap ||G||_dual - G.u): a stationary point, not proof of the global maximum. Where f(x) is not
    finite, `value` is NaN; other points with a loss that is not finite are passed over.
    """

    value: float
    loss_center: float
    evaluations: int
    converged: bool


@dataclass(frozen=True)
class MSharpness:
    """`value` = the mean of the groups' own worst-case rises `values`, by their sizes, in nats.

    `converged`: every group did. One group whose f(x) is not finite makes `value` NaN.
    """

    value: float
    values: tuple[float, ...]
    evaluations: int
    converged: bool


def ball_sharpness(
    loss: Loss | Objective, params: Tensor, *, radius: float, norm: Norm = "l2", adaptive: bool = False, seed: int = 0
) -> BallSharpness:
    """max f(x + d) - f(x) over ||d|| <= radius, or adaptive d_i = |x_i| e_i with ||e|| <= radius; `params` is x, (n,).

    Never below the (A)SAM point's rise, never negative. Adaptive: a zero weight does not move, and rescaling
    w1 <- a w1, w2 <- w2 / a of a ReLU network leaves the value alone. `seed` draws the starts. Costs 30 to 100
    gradients and Hessian-vector products as a rule, and up to 150 more in l2 where those do not converge. Raises
    ValueError for a radius that is not a number above 0, another norm, and for a loss that is not deterministic.
    """
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"`radius` must be a number above 0, got {radius}")
    if norm not in ("l2", "linf"):
        raise ValueError(f"`norm` must be 'l2' or 'linf', got {norm!r}")
    objective = as_objective(loss)
    before = objective.evaluations
    center, gradient = evaluate_center(objective, params)
    if not math.isfinite(center):
        return BallSharpness(math.nan, center, objective.evaluations - before, False)
    reach = radius * (params.detach().abs() if adaptive else torch.ones_like(params.detach()))
    check_step("radius", radius, torch.linalg.vector_norm(reach) if norm == "linf" else reach.max(), params)
    search: BoxSearch | _BallSearch
    if norm == "linf":
        search = BoxSearch(Substituted(objective, params, lambda y: y, lambda v: v), center, gradient, reach)
        search.strong(torch.Generator().manual_seed(seed), random_evaluations=RANDOM_CORNERS)
    else:
        inner = Substituted(objective, params, lambda u: reach * u, lambda v: reach * v)
        search = _BallSearch(inner, center, reach * gradient)
        search.run(seed)
    return BallSharpness(search.best_gain, center, objective.evaluations - before, search.converged)


def m_sharpness(
    losses: Iterable[Loss | Objective],
    params: Tensor,
    *,
    radius: float,
    norm: Norm = "l2",
    adaptive: bool = False,
    seed: int = 0,
    sizes: Iterable[float] | None = None,
) -> MSharpness:
    """sum_j m_j (max f_j(x + d_j) - f_j(x)) / sum_j m_j: every group of m_j examples has its own worst d_j.

    `losses` are the groups' mean losses f_j, taken one at a time, so a generator may make each one when its turn
    comes; `sizes` their m_j, all the same if None. With one group it is `ball_sharpness`; smaller groups give larger
    values (if each maximum is found). Foret et al. 2021 (m-sharpness); Andriushchenko and Flammarion 2022 (arXiv
    2206.06232). Costs what `ball_sharpness` does, on every group, so about as many passes over the data. Raises
    ValueError for no groups, sizes that are not above 0 or not as many as losses, and as `ball_sharpness`.
    """
    weights = None if sizes is None else list(sizes)
    if weights is not None and any(weight <= 0 for weight in weights):
        raise ValueError(f"`sizes` must be above 0, got {min(weights)}; leave empty groups out")
    results = [ball_sharpness(loss, params, radius=radius, norm=norm, adaptive=adaptive, seed=seed) for loss in losses]
    weights = weights or [1] * len(results)
    if not results or len(weights) != len(results):
        raise ValueError(f"`losses` must be some, and as many as `sizes`, got {len(results)} and {len(weights)}")
    values = tuple(result.value for result in results)
    mean = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    return MSharpness(mean, values, sum(r.evaluations for r in results), all(r.converged for r in results))


def logit_normalized_sharpness(
    loss: ModelLoss, *, radius: float, norm: Norm = "l2", adaptive: bool = True, scale: float = 1.0, seed: int = 0
) -> BallSharpness:
    """`ball_sharpness` of the loss of normalized logits, scale * z / sqrt(mean_k (z_k - mean z)^2), at its own weights.

    A network can lower its loss, and change any sharpness, by a factor on its logits alone; here the factor is fixed
    for every example, so that weights are compared by the directions of their logits. Andriushchenko et al. 2023 (arXiv
    2302.07011), with `adaptive`. Errors and cost as `ball_sharpness`; also ValueError for a scale not above 0.
    """
    normalized = loss.with_normalized_logits(scale)
    return ball_sharpness(normalized, loss.params, radius=radius, norm=norm, adaptive=adaptive, seed=seed)


class _BallSearch:
    """The unit ball, and the best point u of it visited so far. `gradient` is G at the centre."""

    def __init__(self, objective: Objective, center: float, gradient: Tensor) -> None:
        self.objective, self.center = objective, center
        self.best_gain, self.best_unit = 0.0, torch.zeros_like(gradient)
        self.best_gradient = gradient

    @property
    def converged(self) -> bool:
        return self.gap(self.best_unit, self.best_gradient) <= CONVERGED_GAP * self.best_gain

    def run(self, seed: int) -> None:
        """The SAM point, then the search: in float32 where there is that and its best point has the same gain here."""
        self._power(self.best_gradient)
        rounded = self.objective.in_float32()
        if rounded is None or not self._agrees_with(rounded, seed):
            self._search(seed)

    def _agrees_with(self, rounded: Objective, seed: int) -> bool:
        """Visits the best point that is found with `rounded`; whether loss and gain are the same."""
        scout = _BallSearch(rounded, *rounded.value_and_gradient(torch.zeros_like(self.best_unit)))
        scout._visit(self.best_unit)
        scout._search(seed)
        self.objective.spend(rounded.evaluations)
        gain, _ = self._visit(scout.best_unit)
        pairs = ((scout.center, self.center), (scout.best_gain, gain))
        return all(math.isclose(one, other, rel_tol=CONVERGED_GAP) for one, other in pairs)

    def _search(self, seed: int) -> None:
        """The other starts, then the polish of the best."""
        origin = torch.zeros_like(self.best_unit)
        lanczos = hessian_eigenvalues(self.objective, origin, tol=1e-2, seed=seed, max_iterations=LANCZOS_STEPS)
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(RANDOM_STARTS, len(origin), dtype=torch.float64, generator=generator).to(origin)
        for start in (lanczos.vectors[0], -lanczos.vectors[0], *random):
            self._power(start)
        self._power(-self.best_unit)
        self._polish()
        for _ in range(MODELS):
            if self.converged or not self._climb_model(generator):
                return

    def gap(self, unit: Tensor, gradient: Tensor) -> float:
        """max over the ball of G.(v - u), the Frank-Wolfe gap: 0 exactly at a stationary point."""
        return _length(gradient) - float(gradient.double() @ unit.double())

    def _visit(self, unit: Tensor) -> tuple[float, Tensor]:
        """The gain (-inf for a loss that is not finite) and G at u; remembers the best."""
        value, gradient = self.objective.value_and_gradient(unit)
        gain = value - self.center if math.isfinite(value) else -math.inf
        if gain > self.best_gain:
            self.best_gain, self.best_unit, self.best_gradient = gain, unit, gradient
        return gain, gradient

    def _power(self, direction: Tensor) -> None:
        """u <- the furthest point along the gradient, until it has settled or no longer gains."""
        last = -math.inf
        for _ in range(POWER_LIMIT):
            length = _length(direction)
            if not 0 < length < math.inf:
                return
            unit = direction / length
            gain, direction = self._visit(unit)
            if not (gain > last and self.gap(unit, direction) > CONVERGED_GAP * gain):
                return
            last = gain

    def _polish(self) -> None:
        """Projected ascent: a quarter of the step after a loss, s.s / |s.y| (Barzilai-Borwein) after a gain."""
        unit, gain, gradient = self.best_unit, self.best_gain, self.best_gradient
        step = 1 / max(_length(gradient), 1e-300)
        for _ in range(POLISH_LIMIT):
            if not self.gap(unit, gradient) > SETTLED_GAP * gain:
                return
            direction = self._tangent(unit, gradient)
            trial = self._project(unit + step * direction)
            trial_gain, trial_gradient = self._visit(trial)
            if not trial_gain > gain:
                step /= 4
                continue
            moved = trial - unit
            bend = abs(float(moved @ (self._tangent(trial, trial_gradient) - direction)))
            step = min(float(moved @ moved) / bend, 1e3 * step) if bend > 0 else 4 * step
            unit, gain, gradient = trial, trial_gain, trial_gradient

    def _climb_model(self, generator: torch.Generator) -> bool:
        """Towards the maximum of the quadratic model at the best point; whether that gains."""
        unit, gain = self.best_unit, self.best_gain
        product = self.objective.hessian(unit)
        linear = self.best_gradient - product(unit)
        goal = largest_in_ball(product, linear, MODEL_STEPS, SETTLED_GAP, generator)
        if goal is None:
            return False
        for halvings in range(HALVINGS):
            self._visit(unit + 0.5**halvings * (goal - unit))
            if self.best_gain > gain:
                return True
        return False

    def _project(self, unit: Tensor) -> Tensor:
        return unit / max(1.0, _length(unit))

    def _tangent(self, unit: Tensor, gradient: Tensor) -> Tensor:
        """G without what points out of the ball."""
        outwards = max(0.0, float(unit @ gradient)) if _length(unit) > 1 - 1e-6 else 0.0
        return gradient - outwards * unit


def _length(vector: Tensor) -> float:
    """In float64: the squares of small float32 numbers underflow."""
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
