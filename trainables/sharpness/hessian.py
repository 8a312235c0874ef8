"""Extreme eigenvalues of the Hessian, by Lanczos with full reorthogonalization.

Lanczos from a random start converges first to the extreme eigenvalues (see `lanczos`), but sees one copy of each
distinct one. So for k > 1 the pairs found are confirmed: further runs work orthogonally to them (deflation), and what
they find beyond the k-th value is taken in, until nothing is left there.

When to stop: an estimate theta with residual r = ||H v - theta v|| is within r of an eigenvalue, and within
r^2 / gap of it where no other one is nearer than the gap (Kato-Temple; Parlett, The Symmetric Eigenvalue Problem,
chapter 11). For k = 1 the gap is taken to be that to the next estimate less its own residual, at most |theta|, and the
bound ten times r^2 / gap, since early estimates lie further apart than eigenvalues do: of 600 random matrices with
dense edges and with outliers the largest then missed its tolerance of 1e-3 in 3, as with the residual alone in 1, and
in 29 without the ten. The hard case is a pair 0.2 to 20 % apart above all others: a start that has little of the larger
one finds the smaller first, and 34 of 120 missed (with the residual alone 9). Of 156 runs on 40 trained networks none
did.

Where the loss has a float32 form, the search is made with its products, and what it finds is measured in float64:
values and residuals are those of one float64 product for each vector. Where these residuals are too large, the search
is made in float64. On 42 trained networks, k = 1 at either end and 5, that never was so, values were the same to 1e-8,
and it took a third to four fifths of the time.

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

from trainables.sharpness.objective import (
    LEAST_IN_FLOAT32,
    Loss,
    Objective,
    as_objective,
    check_params,
    hessian_at_center,
)
from trainables.sharpness.solvers.lanczos import Array, Lanczos

MAX_ITERATIONS = 200
GAP_CAUTION = 10.0
CLEAR = 0.1  # of an eigenvalue: the residual at which a run that is to find nothing new may end

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HessianEigenvalues:
    """`values` (k,) from the wanted end inwards, `vectors` (k, n) orthonormal, `residuals` (k,) = ||H v - value v||.

    `converged` says that every error, at most its residual r or for k = 1 also 10 r^2 / gap, is at most tol * |value|
    (or at rounding level of the largest), and for k > 1 that no further eigenvalue was found beyond the k-th.
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

    Costs a loss, a graph, and the products of the runs: residuals come from the recurrence; with a search in float32
    also its graph, and k products in float64. `max_iterations` bounds each run, and its basis of (iterations, n)
    numbers. Raises ValueError for k outside 1..n, for another `which`, and for a loss that is not deterministic. Where
    the loss is not finite, values are NaN and `converged` is False.
    """
    check_params(params)
    n = params.numel()
    if which not in ("largest", "smallest"):
        raise ValueError(f"`which` must be 'largest' or 'smallest', got {which!r}")
    if not 1 <= k <= n:
        raise ValueError(f"`k` must be between 1 and the {n} parameters, got {k}")
    if not tol > 0:
        raise ValueError(f"`tol` must be above 0, got {tol}")
    objective = as_objective(loss)
    before = objective.evaluations
    value, hessian = hessian_at_center(objective, params)
    if not math.isfinite(value):
        return _not_finite(k, params, objective.evaluations - before)
    sign = 1.0 if which == "largest" else -1.0

    def search(product: Product) -> _Search:
        return _Search(lambda vector: sign * product(vector), params, k, tol, max_iterations, seed)

    found = None
    rounded = objective.in_float32() if tol >= LEAST_IN_FLOAT32 else None
    if rounded is not None:
        scout = search(rounded.hessian(params))
        if scout.run() and scout.holds(lambda vector: sign * hessian(vector)):
            found = scout
        objective.spend(rounded.evaluations)
    if found is None:
        found = search(hessian)
        if not found.run():
            return _not_finite(k, params, objective.evaluations - before)
    return HessianEigenvalues(
        values=sign * torch.from_numpy(found.values),
        vectors=found.vectors,
        residuals=torch.from_numpy(found.residuals),
        evaluations=objective.evaluations - before,
        converged=found.converged,
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
        self._gap = 0.0
        self.vectors = params.detach().new_empty(0, params.numel())
        self.values = np.empty(0)
        self.residuals = np.empty(0)
        self.converged = True

    def run(self) -> bool:
        """Fills `values` (k,), descending, `vectors` (k, n), `residuals`; False where a product is not finite."""
        first = self._lanczos()
        while not self._settled(first, self._k):
            if not first.step():
                return False
        values, columns, residuals = self._ritz(first)
        self.values, self.residuals = values[: self._k], residuals[: self._k]
        self.vectors = _combined(columns[:, : self._k], first)
        self.converged = self._small(self._errors(values, residuals))
        return self._k == 1 or self._confirm()

    def holds(self, product: Product) -> bool:
        """Takes values and residuals anew, of `product` in the span of the vectors; whether these are as good."""
        images = torch.stack([product(vector) for vector in self.vectors])
        quotients = self.vectors @ images.T
        if not quotients.isfinite().all():
            return False
        values, columns = np.linalg.eigh(((quotients + quotients.T) / 2).double().cpu().numpy())
        turned = torch.from_numpy(columns[:, ::-1].T.copy()).to(images)
        self.values, self.vectors = values[::-1].copy(), turned @ self.vectors
        left = turned @ images - torch.from_numpy(self.values).to(images)[:, None] * self.vectors
        self.residuals = torch.linalg.vector_norm(left, dim=1).double().cpu().numpy()
        return self._small(self._bounds(self.residuals)) or not self.converged

    def _errors(self, values: Array, residuals: Array) -> Array:
        """Of the k largest: the residuals; of one alone at most 10 r^2 / gap, with the gap to what the next may be."""
        if self._k == 1 and len(values) > 1:
            self._gap = min(values[0] - values[1] - residuals[1], abs(values[0]))
        return self._bounds(residuals[: self._k])

    def _bounds(self, residuals: Array) -> Array:
        return np.minimum(residuals, GAP_CAUTION * residuals**2 / self._gap) if self._gap > 0 else residuals

    def _small(self, errors: Array) -> bool:
        """Whether errors are at most tol * |value|, or at rounding level."""
        return bool((errors <= np.maximum(self._tol * np.abs(self.values), self._rounding())).all())

    def _rounding(self) -> float:
        n = self.vectors.shape[1]
        return 4 * float(torch.finfo(self.vectors.dtype).eps) * math.sqrt(n) * self._scale

    def _lanczos(self) -> Lanczos:
        """A run orthogonal to what is known."""
        limit = min(self.vectors.shape[1] - len(self.vectors), max(self._max_iterations, self._k))
        return Lanczos(self._product, self.vectors, limit, self._generator)

    def _ritz(self, lanczos: Lanczos) -> tuple[Array, Array, Array]:
        """Values, descending, columns and residuals of all pairs of T."""
        values, columns = lanczos.eigh()
        self._scale = max(self._scale, float(np.abs(values).max()))
        return values[::-1].copy(), columns[:, ::-1], lanczos.norm * np.abs(columns[-1, ::-1])

    def _settled(self, lanczos: Lanczos, count: int) -> bool:
        if lanczos.size < count:
            return False
        values, _, residuals = self._ritz(lanczos)
        self.values = values[:count]
        return lanczos.full or lanczos.closed or self._small(self._errors(values, residuals))

    def _confirm(self) -> bool:
        """Deflated runs for one more each, until nothing beyond the k-th is left; False where one is not finite."""
        for _ in range(min(self._k, self.vectors.shape[1] - self._k)):
            lanczos, last = self._lanczos(), self.values[-1]
            while True:
                if not lanczos.step():
                    return False
                values, columns, residuals = self._ritz(lanczos)
                value, residual = float(values[0]), float(residuals[0])
                share = CLEAR if value + residual <= last else self._tol
                if lanczos.full or lanczos.closed or residual <= max(share * abs(value), self._rounding()):
                    break
            if value <= last:
                break
            vector = _combined(columns[:, :1], lanczos)
            residual = float(torch.linalg.vector_norm(self._product(vector[0]) - value * vector[0]))
            order = np.argsort(-np.append(self.values, value), kind="stable")[: self._k]
            self.values = np.append(self.values, value)[order]
            self.residuals = np.append(self.residuals, residual)[order]
            self.vectors = torch.cat([self.vectors, vector])[torch.from_numpy(order)]
            self.converged = self.values[-1] <= last + self._tol * abs(last)
        else:
            return True
        self.converged = self._small(self.residuals)
        return True


def _combined(columns: Array, lanczos: Lanczos) -> Tensor:
    """The unit vectors, (k, n), that these columns, (size, k), make of the basis."""
    vectors = torch.from_numpy(columns.T.copy()).to(lanczos.basis) @ lanczos.basis
    unit: Tensor = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return unit


def _not_finite(k: int, params: Tensor, evaluations: int) -> HessianEigenvalues:
    nan = torch.full((k,), math.nan, dtype=torch.float64)
    return HessianEigenvalues(nan, torch.full((k, params.numel()), math.nan).to(params), nan, evaluations, False)
