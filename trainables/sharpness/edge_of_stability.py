"""Whether a step size is stable at the curvature it meets.

A step of size eta shrinks what lies along an eigenvector of curvature lambda > 0 iff

    heavy_ball  v <- beta v + g                   lambda < (2 + 2 beta) / eta       (gradient descent: 2 / eta)
    nesterov    the same, with its look-ahead     lambda < (2 + 2 beta) / (eta (1 + 2 beta))
    averaged    v <- beta v + (1 - beta) g        lambda < (2 + 2 beta) / (eta (1 - beta))

(Cohen et al. 2021, arXiv 2103.00065, section 2, appendix B); and with a preconditioner P, x <- x - eta P^{-1} v, the
same for lambda of P^{-1} H. Adam is `averaged` with P = diag(sqrt(v_hat) + eps) (Cohen et al. 2022, arXiv 2207.14484).

Traps: this is about full-batch steps, on the loss with its weight decay (add that to lambda); minibatches need flatter
minima yet. It changes as a network's layers are rescaled, unless the preconditioner changes as well.
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, zeros_like

from trainables.sharpness.hessian import hessian_eigenvalues
from trainables.sharpness.objective import Loss, Objective, Substituted, as_objective

Form = Literal["heavy_ball", "nesterov", "averaged"]


@dataclass(frozen=True)
class Stability:
    """`ratio` = max_eig / threshold: below 1 stable, 1 the edge, above it steps grow. `converged` as `max_eig` did."""

    ratio: float
    max_eig: float
    threshold: float
    evaluations: int
    converged: bool


def stability_threshold(learning_rate: float, *, momentum: float = 0.0, form: Form = "heavy_ball") -> float:
    """The largest curvature at which a step of size eta is stable: 2 / eta without momentum beta.

    `heavy_ball`: (2 + 2 beta) / eta; `nesterov`: that over 1 + 2 beta; `averaged`: that over 1 - beta (Cohen et al.
    2021, arXiv 2103.00065, appendix B). Raises ValueError for a rate not above 0, beta outside [0, 1), another form.
    """
    check_optimizer(learning_rate, momentum)
    if form not in ("heavy_ball", "nesterov", "averaged"):
        raise ValueError(f"`form` must be 'heavy_ball', 'nesterov' or 'averaged', got {form!r}")
    gain = {"heavy_ball": 1.0, "nesterov": 1 + 2 * momentum, "averaged": 1 - momentum}[form]
    return (2 + 2 * momentum) / (learning_rate * gain)


def stability(
    loss: Loss | Objective,
    params: Tensor,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    form: Form = "heavy_ball",
    preconditioner: Tensor | None = None,
    tol: float = 1e-3,
    seed: int = 0,
) -> Stability:
    """lambda_max(P^{-1/2} H P^{-1/2}) over `stability_threshold`; P = diag(`preconditioner`), (n,), 1 if None.

    Adam: preconditioner = sqrt(v_hat) + eps with v_hat = torch's `exp_avg_sq` / (1 - beta2^t), momentum = beta1,
    form = "averaged"; the bias correction of the mean is taken as 1, as it is after some tens of steps. Cost and
    errors as `hessian_eigenvalues`; also ValueError where the preconditioner is of another shape or not above 0.
    """
    threshold = stability_threshold(learning_rate, momentum=momentum, form=form)
    objective, at = as_objective(loss), params.detach()
    if preconditioner is not None:
        if preconditioner.shape != params.shape or not bool((preconditioner > 0).all()):
            raise ValueError(
                f"`preconditioner` must be above 0, one for each of the {params.numel()} parameters, "
                f"got shape {tuple(preconditioner.shape)}; for Adam it is sqrt(v_hat) + eps, not v_hat"
            )
        scale = preconditioner.detach().to(at).rsqrt()
        objective = Substituted(objective, at, lambda u: scale * u, lambda v: scale * v)
        at = zeros_like(at)
    top = hessian_eigenvalues(objective, at, tol=tol, seed=seed)
    max_eig = float(top.values[0])
    return Stability(max_eig / threshold, max_eig, threshold, top.evaluations, top.converged)


def check_optimizer(learning_rate: float, momentum: float) -> None:
    """Raises ValueError for a learning rate not above 0 and a momentum outside [0, 1)."""
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"`learning_rate` must be a number above 0, got {learning_rate}")
    if not 0 <= momentum < 1:
        raise ValueError(f"`momentum` must be at least 0 and below 1, got {momentum}")
