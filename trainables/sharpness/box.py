"""Box sharpness: Metric 2.1 of Keskar et al. 2017 (arXiv 1609.04836), by two named methods.

    value = 100 * (max_{y in C} f(x + A y) - f(x)) / (1 + f(x)),   C = {y : |y_i| <= epsilon (|(A^+ x)_i| + 1)}

in percent, with A the identity (full space) or an (n, p) matrix. The maximum is never known, only bounded from below
by the best point visited, so the method belongs to the number:

- `paper`: L-BFGS-B from y = 0, 10 iterations, as in the paper; all stopping tolerances are 0, because with SciPy's
  own the search ends after no iteration at a well-trained minimum and reports 0. At low loss it still falls far short:
  its first step is bounded by the gradient, which is nearly zero there.
- `strong`: the best of the `paper` point and of what `box_search` finds. Never below `paper`. On 4000 random dense
  quadratics in 10 and 14 variables, convex and indefinite, it found at least 97.6 % of the best corner's gain.

Traps: the bounds hold A^+ x, not A^T x, and clip y, not A y; the best point visited counts, not the last iterate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from trainables.sharpness.box_search import BoxSearch
from trainables.sharpness.objective import Loss, Objective, Substituted, as_objective, check_step, evaluate_center

Method = Literal["paper", "strong"]


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
    """100 (max f(x + A y) - f(x)) / (1 + f(x)) in percent, over |y_i| <= epsilon (|(A^+ x)_i| + 1).

    Keskar et al. 2017, Metric 2.1. f is `loss`, x is `params`, (n,), and A is `subspace`, (n, p), or the identity.
    The value is a lower bound: `paper` takes ten iterations of L-BFGS-B, `strong` searches further and is never below.
    `seed` draws the random corners of `strong`. Raises ValueError for epsilon <= 0, or one that is lost in the rounding
    of `params`, an unknown method, a subspace of another shape, and for a loss that is not deterministic.
    """
    objective = as_objective(loss)
    before = objective.evaluations
    grid = box_sharpness_grid(objective, params, epsilons=(epsilon,), methods=(method,), subspace=subspace, seed=seed)
    return replace(grid[epsilon, method], evaluations=objective.evaluations - before)


def box_sharpness_grid(
    loss: Loss | Objective,
    params: Tensor,
    *,
    epsilons: Sequence[float],
    methods: Sequence[Method] = ("paper", "strong"),
    subspace: Tensor | None = None,
    seed: int = 0,
) -> dict[tuple[float, Method], BoxSharpness]:
    """Several boxes and both methods in one call that shares work; otherwise as `box_sharpness`.

    The centre is evaluated once. `strong` goes on from `paper`, and from the second epsilon on it begins at the corner
    that was best in the box before, with fewer random ones. `evaluations` are those spent on the entry itself, the
    shared ones on the first: their sum is that of the call. Raises ValueError as `box_sharpness`.
    """
    for epsilon in epsilons:
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise ValueError(f"`epsilon` must be a number above 0, got {epsilon}; the paper uses 1e-3 and 5e-4")
    for method in methods:
        if method not in ("paper", "strong"):
            raise ValueError(f"`method` must be 'paper' or 'strong', got {method!r}")
    if subspace is not None and (subspace.ndim != 2 or subspace.shape[0] != params.numel()):
        raise ValueError(f"`subspace` must have shape ({params.numel()}, p), got {tuple(subspace.shape)}")
    objective = as_objective(loss)
    spent = objective.evaluations
    center, gradient = evaluate_center(objective, params)
    results: dict[tuple[float, Method], BoxSharpness] = {}

    def record(epsilon: float, method: Method, gain: float, converged: bool) -> None:
        nonlocal spent
        evaluations, spent = objective.evaluations - spent, objective.evaluations
        results[epsilon, method] = BoxSharpness(
            100 * gain / (1 + center), center, center + gain, evaluations, converged
        )

    if center <= -1:
        raise ValueError(f"`loss` must be above -1 for a rise in % of 1 + loss, got {center:g}; add a constant to it")
    if not math.isfinite(center):
        for epsilon in epsilons:
            for method in methods:
                record(epsilon, method, math.nan, False)
        return results
    inner, coordinates, gradient = _coordinates(objective, params.detach(), gradient, subspace)
    corner: Tensor | None = None
    for epsilon in epsilons:
        check_step("epsilon", epsilon, epsilon * torch.linalg.vector_norm(params.detach().abs() + 1), params)
        search = BoxSearch(inner, center, gradient, epsilon * (coordinates.abs() + 1))
        search.paper()
        if "paper" in methods:
            record(epsilon, "paper", search.best_gain, search.converged)
        if "strong" in methods:
            search.strong(torch.Generator().manual_seed(seed), corner=corner)
            record(epsilon, "strong", search.best_gain, search.converged)
            corner = search.best_point
    return results


def _coordinates(
    objective: Objective, params: Tensor, gradient: Tensor, subspace: Tensor | None
) -> tuple[Objective, Tensor, Tensor]:
    """f(x + A y) as a function of y, A^+ x, and the gradient at y = 0."""
    if subspace is None:
        return Substituted(objective, params, lambda y: y, lambda v: v), params, gradient
    columns = subspace.to(params)
    coordinates = torch.linalg.lstsq(columns, params[:, None]).solution[:, 0]
    inner = Substituted(objective, params, lambda y: columns @ y, lambda v: columns.T @ v)
    return inner, coordinates, columns.T @ gradient
