"""Extreme eigenvalues of the Hessian, by Lanczos with full reorthogonalization.

Lanczos from a random start converges first to the extreme eigenvalues (see `lanczos`), but sees one copy of each
distinct one. So for k > 1 the pairs found are confirmed: further runs work orthogonally to them (deflation), and what
they find beyond the k-th value is taken in, until nothing is left there.

Traps: `largest` means algebraically largest, not largest in magnitude as power iteration gives, which at an
indefinite point may be the negative end; a list of the top k from one run misses equal eigenvalues, with residuals
that look perfect.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainables.sharpness.lanczos import Array, Lanczos, orthogonalized, random_unit
from trainables.sharpness.objective import Loss, Objective, as_objective, evaluate_center

MAX_ITERATIONS = 200

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HessianEigenvalues:
    """`values` (k,) from the wanted end inwards, `vectors` (k, n) orthonormal, `residuals` (k,) = ||H v - value v||.

    `converged` says that every residual is at most tol * |value| (or at rounding level of the largest), and for k > 1
    that no further eigenvalue was found beyond the k-th.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    evaluations: int
    converged: bool


def hessian_eigenvalues(
    loss: Loss | Objective,
    params: Tensor,
    *,
    k: int = 1,
    which: Literal["largest", "smallest"] = "largest",
    tol: float = 1e-3,
    seed: int = 0,
    max_iterations: int = MAX_ITERATIONS,
) -> HessianEigenvalues:
    """The k algebraically largest (or smallest) eigenvalues of the Hessian of `loss` at `params`, (n,).

    An eigenvalue's own error is at most its residual, and of the order of residual^2 / gap. `max_iterations` bounds
    each run, and its basis of (iterations, n) numbers. Raises ValueError for k outside 1..n, for another `which`, and
    for a loss that is not deterministic. Where the loss is not finite, values are NaN and `converged` is False.
    """
    n = params.numel()
    if which not in ("largest", "smallest"):
        raise ValueError(f"`which` must be 'largest' or 'smallest', got {which!r}")
    if not 1 <= k <= n:
        raise ValueError(f"`k` must be between 1 and the {n} parameters, got {k}")
    if not tol > 0:
        raise ValueError(f"`tol` must be above 0, got {tol}")
    objective = as_objective(loss)
    before = objective.evaluations
    value, _ = evaluate_center(objective, params)
    if not math.isfinite(value):
        return _not_finite(k, params, objective.evaluations - before)
    hessian = objective.hessian(params)
    sign = 1.0 if which == "largest" else -1.0
    search = _Search(lambda vector: sign * hessian(vector), params, k, tol, max_iterations, seed)
    if not search.run():
        return _not_finite(k, params, objective.evaluations - before)
    images = torch.stack([hessian(vector) for vector in search.vectors])
    values = sign * torch.from_numpy(search.values)
    residuals = torch.linalg.vector_norm(images - values.to(images)[:, None] * search.vectors, dim=1).double().cpu()
    return HessianEigenvalues(
        values=values,
        vectors=search.vectors,
        residuals=residuals,
        evaluations=objective.evaluations - before,
        converged=search.confirmed and search.small(residuals.numpy(), values.numpy()),
    )


class _Search:
    """The k largest eigenpairs of a symmetric operator: one run for all, then deflated runs that confirm them."""

    def __init__(self, product: Product, params: Tensor, k: int, tol: float, max_iterations: int, seed: int) -> None:
        self._product = product
        self._k = k
        self._tol = tol
        self._max_iterations = max_iterations
        self._generator = torch.Generator().manual_seed(seed)
        self._scale = 0.0
        self.vectors = params.detach().new_empty(0, params.numel())
        self.values = np.empty(0)
        self.confirmed = True

    def run(self) -> bool:
        """Fills `values` (k,), descending, `vectors` (k, n) and `confirmed`; False where a product is not finite."""
        if not self._extend(self._k):
            return False
        free = self.vectors.shape[1] - self._k
        for _ in range(self._k if self._k > 1 else 0):
            if free == 0:
                break
            last = self.values[-1]
            if not self._extend(1):
                return False
            order = np.argsort(-self.values, kind="stable")[: self._k]
            self.values, self.vectors = self.values[order], self.vectors[torch.from_numpy(order)]
            self.confirmed = bool(order.max() < self._k) or self.values[-1] <= last + self._tol * abs(last)
            if order.max() < self._k:  # nothing beyond the k-th is left
                break
        return True

    def small(self, residuals: Array, values: Array) -> bool:
        """Whether residuals are at most tol * |value|, or at rounding level."""
        rounding = 4 * torch.finfo(self.vectors.dtype).eps * self.vectors.shape[1] ** 0.5 * self._scale
        return bool((residuals <= np.maximum(self._tol * np.abs(values), rounding)).all())

    def _extend(self, count: int) -> bool:
        """Appends the `count` largest pairs orthogonal to those known; False where a product is not finite."""
        known = self.vectors

        def deflated(vector: Tensor) -> Tensor:
            return orthogonalized(self._product(vector), known)

        limit = min(known.shape[1] - len(known), max(self._max_iterations, count))
        lanczos = Lanczos(
            deflated if len(known) else self._product, random_unit(known, self._generator), limit, self._generator
        )
        while True:
            if not lanczos.step():
                return False
            values, columns = lanczos.eigh()
            self._scale = max(self._scale, float(np.abs(values).max()))
            values, columns = values[::-1][:count].copy(), columns[:, ::-1][:, :count].copy()
            if lanczos.size < count:
                continue
            if lanczos.full or lanczos.closed or self.small(lanczos.norm * np.abs(columns[-1]), values):
                break
        vectors = torch.from_numpy(columns.T.copy()).to(known) @ lanczos.basis
        self.vectors = torch.cat([known, vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)])
        self.values = np.concatenate([self.values, values])
        return True


def _not_finite(k: int, params: Tensor, evaluations: int) -> HessianEigenvalues:
    nan = torch.full((k,), math.nan, dtype=torch.float64)
    return HessianEigenvalues(nan, torch.full((k, params.numel()), math.nan).to(params), nan, evaluations, False)
