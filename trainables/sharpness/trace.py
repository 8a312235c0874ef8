"""The trace of the Hessian and its squared Frobenius norm, estimated from Hessian-vector products.

Both are tr(B), with B = H or B = H^2, and products with H are enough for both, as z^T H^2 z = ||H z||^2.

- `xtrace` (trainables/sharpness/xtrace.py) takes the large eigenvalues out exactly, and samples only the rest.
  On a network trained on digits (1210 parameters, ten large eigenvalues) 40 products gave the trace to 0.6 % and
  ||H||_F^2 to 0.1 %, where `hutchinson` gave them to 6 % and 11 %; its error falls with the root of the products.
- `hutchinson`: the mean of z^T B z over Rademacher vectors z (Hutchinson, Commun. Stat. Simul. Comput. 18, 1989). Its
  variance for one probe is twice the sum of the squared off-diagonal entries of B: nothing where B is diagonal, about
  2 ||B||_F^2 otherwise, so that the few large eigenvalues of a network's Hessian are nearly all of the error.

Traps: stopping when the error looks small prefers estimates whose error is underrated, so it is looked at only now and
then, and tol=0 switches it off; the trace of an indefinite Hessian may be near zero, and then no relative error is
ever met; a probe's values are skewed when one eigenvalue dominates, so that a standard error of `hutchinson` from
fewer than 20 probes is often too small.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.sharpness.lanczos import random_signs
from trainables.sharpness.objective import Loss, Objective, as_objective, hessian_at_center
from trainables.sharpness.xtrace import XTrace

Method = Literal["xtrace", "hutchinson"]

SAMPLES = 100
TOLERANCE = 0.02
LEAST_SAMPLES = {"xtrace": 4, "hutchinson": 2}  # two probes, for a standard error


@dataclass(frozen=True)
class HessianTrace:
    """`value` = tr(H), with its standard error `stderr`, 0 where it was computed exactly.

    `converged` says that stderr <= tol * |value|. Where the loss or a product is not finite both numbers are NaN.
    """

    value: float
    stderr: float
    evaluations: int
    converged: bool


@dataclass(frozen=True)
class HessianFrobenius:
    """`value` = ||H||_F^2, the norm *squared*, the sum of the squared eigenvalues; otherwise as `HessianTrace`."""

    value: float
    stderr: float
    evaluations: int
    converged: bool


def hessian_trace(
    loss: Loss | Objective,
    params: Tensor,
    *,
    samples: int = SAMPLES,
    method: Method = "xtrace",
    tol: float = TOLERANCE,
    seed: int = 0,
) -> HessianTrace:
    """tr(H) of the Hessian of `loss` at `params`, (n,), in units of the loss; divided by n, the mean eigenvalue.

    `samples` is the most Hessian-vector products to spend, two for each probe of `xtrace` and one of `hutchinson`;
    up to that many parameters the trace is computed exactly, by n products. Ends early when the standard error is
    at most tol * |value|; with tol=0 all samples are spent and the estimate is unbiased. Besides: a loss, a gradient,
    and for `xtrace` memory for samples / 2 vectors (||H||_F^2: samples). Raises ValueError for samples below 2
    (`xtrace`: 4), tol < 0, another method, and a loss that is not deterministic.
    """
    return HessianTrace(*_estimate(loss, params, 1, samples, method, tol, seed))


def hessian_frobenius(
    loss: Loss | Objective,
    params: Tensor,
    *,
    samples: int = SAMPLES,
    method: Method = "xtrace",
    tol: float = TOLERANCE,
    seed: int = 0,
) -> HessianFrobenius:
    """||H||_F^2 = tr(H^2) of the Hessian of `loss` at `params`, (n,), in squared units of the loss.

    Arguments, cost and errors as `hessian_trace`; a product serves both factors of H^2.
    """
    return HessianFrobenius(*_estimate(loss, params, 2, samples, method, tol, seed))


def _estimate(
    loss: Loss | Objective, params: Tensor, power: int, samples: int, method: Method, tol: float, seed: int
) -> tuple[float, float, int, bool]:
    """tr(H^power): value, standard error, evaluations, converged."""
    if method not in LEAST_SAMPLES:
        raise ValueError(f"`method` must be 'xtrace' or 'hutchinson', got {method!r}")
    if samples < LEAST_SAMPLES[method]:
        raise ValueError(
            f"`samples` must be at least {LEAST_SAMPLES[method]}, got {samples}; "
            f"the standard error of {method!r} needs two probes"
        )
    if not tol >= 0:
        raise ValueError(f"`tol` must be 0 or more, got {tol}; 0 spends all samples")
    objective = as_objective(loss)
    before = objective.evaluations
    center, product = hessian_at_center(objective, params)
    value = stderr = math.nan
    if math.isfinite(center):
        if params.numel() <= samples:
            value, stderr = _exact(product, params, power), 0.0
        else:
            value, stderr = _sampled(product, params, power, samples, method, tol, seed)
    if not (math.isfinite(value) and math.isfinite(stderr)):
        value = stderr = math.nan
    return value, stderr, objective.evaluations - before, stderr <= tol * abs(value)


def _exact(product: Callable[[Tensor], Tensor], params: Tensor, power: int) -> float:
    """The sum of e_i^T H^power e_i over all coordinates."""
    total = 0.0
    for index in range(params.numel()):
        axis = torch.zeros_like(params)
        axis[index] = 1
        total += _form(axis, product(axis), power)
    return total


def _sampled(
    product: Callable[[Tensor], Tensor],
    params: Tensor,
    power: int,
    samples: int,
    method: Method,
    tol: float,
    seed: int,
) -> tuple[float, float]:
    kind = XTrace if method == "xtrace" else _Hutchinson
    probes = samples // kind.products
    estimator = kind(product, params, power, probes, torch.Generator().manual_seed(seed))
    value = stderr = math.nan
    for count in range(1, probes + 1):
        if not estimator.add_probe():
            return math.nan, math.nan
        if count == probes or count * kind.products % kind.check_every == 0 or estimator.finished:
            value, stderr = estimator.estimate()
            if stderr <= tol * abs(value) or estimator.finished:
                break
    return value, stderr


class _Hutchinson:
    """The mean of z^T H^power z over Rademacher vectors like `like`, (n,); one product for each probe."""

    products, check_every, finished = 1, 20, False

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        like: Tensor,
        power: int,
        limit: int,
        generator: torch.Generator,
    ) -> None:
        self._product = product
        self._like = like
        self._power = power
        self._generator = generator
        self._forms: list[float] = []

    def add_probe(self) -> bool:
        """One more z; False where its product is not finite."""
        z = random_signs(self._like, self._generator)
        self._forms.append(_form(z, self._product(z), self._power))
        return math.isfinite(self._forms[-1])

    def estimate(self) -> tuple[float, float]:
        """The mean, and its standard error, from at least two probes."""
        forms = torch.tensor(self._forms, dtype=torch.float64)
        return float(forms.mean()), float(forms.std() / len(forms) ** 0.5)


def _form(vector: Tensor, image: Tensor, power: int) -> float:
    """v^T H^power v, where `image` is H v."""
    return float((vector if power == 1 else image) @ image)
