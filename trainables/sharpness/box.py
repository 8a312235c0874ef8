"""Box sharpness: Metric 2.1 of Keskar et al. 2017 (arXiv 1609.04836), by two named methods.

    value = 100 * (max_{y in C} f(x + A y) - f(x)) / (1 + f(x)),   C = {y : |y_i| <= epsilon (|(A^+ x)_i| + 1)}

in percent, with A the identity (full space) or an (n, p) matrix. The maximum is never known, only bounded from below
by the best point visited, so the method belongs to the number:

- `paper`: L-BFGS-B from y = 0, 10 iterations, as in the paper; all stopping tolerances are 0, because with SciPy's
  own the search ends after no iteration at a well-trained minimum and reports 0. At low loss it still falls far short:
  its first step is bounded by the gradient, which is nearly zero there.
- `strong`: the best of the `paper` point; sign ascent, y <- b * sign(gradient) (exact ascent where f is convex), from
  the gradient's own signs and from random corners; and L-BFGS-B on the scaled objective in unit-box variables
  y = b * u, |u_i| <= 1, from the centre and from the best point so far. Never below `paper`.

Traps: the bounds hold A^+ x, not A^T x, and clip y, not A y; the best point visited counts, not the last iterate.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.sharpness.lbfgsb import minimize_in_box
from trainables.sharpness.objective import Loss, Objective, as_objective, evaluate_center

Method = Literal["paper", "strong"]

PAPER_ITERATIONS = 10
STRONG_ITERATIONS = 12
SIGN_ASCENT_LIMIT = 20
RANDOM_EVALUATIONS = 64
FLIPPED_SHARE = 0.3
SETTLED_GAP = 1e-3  # of the gain: where a search ends
CONVERGED_GAP = 1e-2  # of the gain: where the result is said to have converged


@dataclass(frozen=True)
class BoxSharpness:
    """`value` in percent; `loss_center` = f(x); `loss_max` the largest loss visited; nats per example.

    `converged` says that at the best point no first-order move inside the box promises more than 1 % of the gain
    (the Frank-Wolfe gap sum_i b_i |g_i| - g_i y_i); with `paper` it often is False. Where f(x) is not finite,
    `value` is NaN; points with another loss that is not finite are passed over.
    """

    value: float
    loss_center: float
    loss_max: float
    evaluations: int
    converged: bool


def box_sharpness(
    loss: Loss | Objective,
    params: Tensor,
    *,
    epsilon: float = 1e-3,
    method: Method = "strong",
    subspace: Tensor | None = None,
    seed: int = 0,
) -> BoxSharpness:
    """Metric 2.1 of `loss` at `params`, (n,), in full space or in the columns of `subspace`, (n, p).

    `seed` draws the random corners of `strong`. Raises ValueError for epsilon <= 0, an unknown method, a
    subspace of another shape, and for a loss that is not deterministic.
    """
    return box_sharpness_by_method(loss, params, epsilon=epsilon, methods=(method,), subspace=subspace, seed=seed)[
        method
    ]


def box_sharpness_by_method(
    loss: Loss | Objective,
    params: Tensor,
    *,
    epsilon: float = 1e-3,
    methods: tuple[Method, ...] = ("paper", "strong"),
    subspace: Tensor | None = None,
    seed: int = 0,
) -> dict[Method, BoxSharpness]:
    """Both methods at the price of `strong`, which starts by what `paper` does; otherwise as `box_sharpness`."""
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"`epsilon` must be a number above 0, got {epsilon}; the paper uses 1e-3 and 5e-4")
    for method in methods:
        if method not in ("paper", "strong"):
            raise ValueError(f"`method` must be 'paper' or 'strong', got {method!r}")
    if subspace is not None and (subspace.ndim != 2 or subspace.shape[0] != params.numel()):
        raise ValueError(f"`subspace` must have shape ({params.numel()}, p), got {tuple(subspace.shape)}")
    objective = as_objective(loss)
    before = objective.evaluations
    center, gradient = evaluate_center(objective, params)
    if not math.isfinite(center):
        failed = BoxSharpness(math.nan, center, math.nan, objective.evaluations - before, False)
        return dict.fromkeys(methods, failed)
    search = _BoxSearch(objective, params, center, gradient, epsilon, subspace)
    search.paper()
    results: dict[Method, BoxSharpness] = {}
    if "paper" in methods:
        results["paper"] = search.result(objective.evaluations - before)
    if "strong" in methods:
        search.strong(torch.Generator().manual_seed(seed))
        results["strong"] = search.result(objective.evaluations - before)
    return results


class _BoxSearch:
    """The box around one point, and the best point of it visited so far. Works in u, y = b * u, |u_i| <= 1."""

    def __init__(
        self,
        objective: Objective,
        params: Tensor,
        center: float,
        gradient: Tensor,
        epsilon: float,
        subspace: Tensor | None,
    ) -> None:
        self.objective = objective
        self.params = params.detach()
        self.center = center
        self.subspace = None if subspace is None else subspace.to(self.params)
        coordinates = self.params
        if self.subspace is not None:
            coordinates = torch.linalg.lstsq(self.subspace, self.params[:, None]).solution[:, 0]
        self.half_widths = epsilon * (coordinates.abs() + 1)
        self.best_gain = 0.0
        self.best_unit = torch.zeros_like(self.half_widths)
        self.center_gradient = self.best_gradient = self._pull_back(gradient)

    def paper(self) -> None:
        """L-BFGS-B on -f over |y_i| <= b_i from y = 0."""

        def negative(offset: Tensor) -> tuple[float, Tensor]:
            gain, gradient = self._visit(offset / self.half_widths)
            return -gain, -gradient / self.half_widths

        minimize_in_box(
            negative,
            torch.zeros_like(self.half_widths),
            -self.half_widths,
            self.half_widths,
            iterations=PAPER_ITERATIONS,
        )

    def strong(self, generator: torch.Generator) -> None:
        """All starts; then L-BFGS-B once more from the best point of all, unless it has settled.

        Where the gradient is small f is nearly even around the centre, so the corner opposite a maximum is near
        another one, which differs in height by the odd terms. The random starts are new corners and the best one
        with 30 % of its signs flipped, in turn: so 179 of 180 random dense convex quadratics in 14 variables came to
        95 % of their best corner, with new corners alone 171.
        """
        self._sign_ascent(self.center_gradient.sign())
        self._sign_ascent(-self.best_unit.sign())
        enough = self.objective.evaluations + RANDOM_EVALUATIONS
        fresh = True
        while self.objective.evaluations < enough:
            draw = torch.rand(self.half_widths.shape, dtype=torch.float64, generator=generator).to(self.params)
            flip = draw < FLIPPED_SHARE
            self._sign_ascent((draw - 0.5).sign() if fresh else torch.where(flip, -1.0, 1.0) * self.best_unit.sign())
            fresh = not fresh
        self._unit_box_ascent(torch.zeros_like(self.half_widths), self.center_gradient)
        if self._gap(self.best_unit, self.best_gradient) > SETTLED_GAP * self.best_gain:
            self._unit_box_ascent(self.best_unit, self.best_gradient)

    def result(self, evaluations: int) -> BoxSharpness:
        gap = self._gap(self.best_unit, self.best_gradient)
        return BoxSharpness(
            value=100 * self.best_gain / (1 + self.center),
            loss_center=self.center,
            loss_max=self.center + self.best_gain,
            evaluations=evaluations,
            converged=gap <= CONVERGED_GAP * self.best_gain,
        )

    def _visit(self, unit: Tensor) -> tuple[float, Tensor]:
        """The gain f(x + A(b u)) - f(x) and its gradient in u; remembers the best finite gain."""
        offset = self.half_widths * unit
        if self.subspace is not None:
            offset = self.subspace @ offset
        value, gradient = self.objective.value_and_gradient(self.params + offset)
        gain, gradient = value - self.center, self._pull_back(gradient)
        if math.isfinite(gain) and gain > self.best_gain:
            self.best_gain, self.best_unit, self.best_gradient = gain, unit.clone(), gradient
        return gain, gradient

    def _pull_back(self, gradient: Tensor) -> Tensor:
        """The gradient in u: b * g in full space, b * A^T g in a subspace."""
        return self.half_widths * (gradient if self.subspace is None else self.subspace.T @ gradient)

    @staticmethod
    def _gap(unit: Tensor, gradient: Tensor) -> float:
        """The Frank-Wolfe gap, max over the box of gradient . (v - u): 0 exactly at a stationary point."""
        return float((gradient.abs() - gradient * unit).sum(dtype=torch.float64))

    def _sign_ascent(self, unit: Tensor) -> None:
        """u <- sign(gradient) until it has settled or no longer gains; a coordinate without a gradient stays."""
        last = -math.inf
        for _ in range(SIGN_ASCENT_LIMIT):
            if not unit.any():
                return
            gain, gradient = self._visit(unit)
            if not gain > last or self._gap(unit, gradient) <= SETTLED_GAP * gain:
                return
            last, unit = gain, torch.where(gradient == 0, unit, gradient.sign())

    def _unit_box_ascent(self, start: Tensor, gradient: Tensor) -> None:
        """L-BFGS-B on the gain in u, scaled so that its gradient at the start is 1 on average: then the first step
        crosses the box, instead of being as short as the gradient is small."""
        scale = float(gradient.abs().mean(dtype=torch.float64))
        if scale == 0:
            return

        def negative(unit: Tensor) -> tuple[float, Tensor]:
            gain, gradient = self._visit(unit)
            return -gain / scale, -gradient / scale

        ones = torch.ones_like(self.half_widths)
        minimize_in_box(negative, start, -ones, ones, iterations=STRONG_ITERATIONS, gradient_tolerance=1e-3)
