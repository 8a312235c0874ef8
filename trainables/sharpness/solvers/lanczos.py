"""The Lanczos recurrence with full reorthogonalization, and the random vectors that it and other probes start from.

From a unit vector q_1, H q_j = b_{j-1} q_{j-1} + a_j q_j + b_j q_{j+1} makes an orthonormal basis Q in which H is
tridiagonal, T = Q^T H Q, with a on the diagonal and b beside it (Golub and Van Loan, Matrix Computations, chapter 10).
Every new vector is orthogonalized against all before it, again where little of it is left: without that, eigenvalues
that have converged come back as copies ("ghosts"), in a list of eigenvalues as in a density. So is it against vectors
known before, of which P H P makes eigenvectors of 0: where 0 lies outside of the rest of the spectrum, rounding errors
in their directions grow as fast as a true outlier's part, and would end as an eigenvalue of 0 and worse.

Traps: a basis is seen to close only when it does so within a few steps. Over many, rounding errors in the directions
that `start` has no part in have grown by the time when it should close, and the recurrence goes on, to true copies of
eigenvalues: right for a density, whose weights they share, and no proof for a list of the largest that one of several
equal ones is not missing.

Memory: a vector of n numbers for every step. Random vectors are drawn on the CPU, in float32 (ten times as fast as in
float64), and then moved, so that a seed means the same on every device and in every dtype.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

LITTLE = 0.7  # of a vector's norm
FIRST_ROWS = 16  # of the basis, which doubles when it is full


class Lanczos:
    """The recurrence for `product`, v -> H v, a step at a time, at most `limit` of them.

    It begins at `start`, (n,), which has to be orthogonal to `known`, or else at a random vector.

    All of it is orthogonal to the orthonormal rows of `known`, (k, n), limit <= n - k: it is that of P H P, P = 1 -
    known' known, in their complement. After each `step`: `basis` (size, n) has orthonormal rows, `diagonal` and
    `off_diagonal` are a_1..a_size and b_1..b_{size-1}, `norm` is b_size, what P H Q leaves outside of Q. Where that is
    at rounding level the basis has `closed`: it is invariant under P H, and holds one copy of each distinct eigenvalue
    that the start has a part in. A further step then goes on in a new random direction, to a further copy of those that
    have one.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        known: Tensor,
        limit: int,
        generator: torch.Generator,
        start: Tensor | None = None,
    ) -> None:
        self._product = product
        self._generator = generator
        self._limit = limit
        self._known = len(known)
        self._rows = known  # and then the basis
        self._next = random_unit(known, generator) if start is None else start / torch.linalg.vector_norm(start)
        self.diagonal: list[float] = []
        self.off_diagonal: list[float] = []
        self.norm = math.nan
        self.closed = False

    @property
    def size(self) -> int:
        return len(self.diagonal)

    @property
    def basis(self) -> Tensor:
        return self._rows[self._known : self._known + self.size]

    @property
    def full(self) -> bool:
        return self.size == self._limit

    def step(self) -> bool:
        """One Hessian-vector product; False where it is not finite, and then there is nothing to go on from."""
        if self.size:
            self.off_diagonal.append(0.0 if self.closed else self.norm)
        last = self._known + self.size
        if last == len(self._rows):
            rows = self._known + min(self._limit, max(FIRST_ROWS, 2 * self.size))
            grown = self._rows.new_empty(rows, self._rows.shape[1])
            grown[:last] = self._rows
            self._rows = grown
        self._rows[last] = random_unit(self._rows[:last], self._generator) if self.closed else self._next
        row = self._rows[last]
        image = self._product(row)
        self.diagonal.append(float(row @ image))
        image = torch.add(image, row, alpha=-self.diagonal[-1])
        if self.off_diagonal:
            image.add_(self._rows[last - 1], alpha=-self.off_diagonal[-1])
        image = orthogonalized(image, self._rows[: last + 1])
        self.norm = float(torch.linalg.vector_norm(image))
        if not (math.isfinite(self.diagonal[-1]) and math.isfinite(self.norm)):
            return False
        self.closed = self.norm <= rounding(image) * self._scale()
        self._next = image / self.norm
        return True

    def image(self) -> Array:
        """H Q in the basis and the next vector, (size + 1, size): T, and below it a row of zeros but for `norm`."""
        matrix = np.diag(self.diagonal) + np.diag(self.off_diagonal, 1) + np.diag(self.off_diagonal, -1)
        return np.vstack([matrix, self.norm * np.eye(self.size)[-1]])

    def eigh(self) -> tuple[Array, Array]:
        """Eigenvalues of T, (size,), ascending, and its eigenvectors as columns, (size, size)."""
        values, vectors = np.linalg.eigh(self.image()[:-1])
        return values, vectors

    def _scale(self) -> float:
        """The largest row sum of |T|: between the largest |eigenvalue| of T and three times that."""
        beside = [0.0, *map(abs, self.off_diagonal), 0.0]
        return max(map(sum, zip(map(abs, self.diagonal), beside, beside[1:], strict=False)))


def rounding(vector: Tensor) -> float:
    """The relative size of what rounding leaves of a vector, (n,), that should be zero: eps sqrt(n)."""
    return float(torch.finfo(vector.dtype).eps) * math.sqrt(vector.numel())


def orthogonalized(vector: Tensor, basis: Tensor) -> Tensor:
    """The part of `vector`, (n,), that is orthogonal to the orthonormal rows of `basis`, (k, n).

    What a pass leaves by rounding counts where little of the vector is left; then, and only then, a second pass is
    needed, and enough (Kahan's "twice is enough"; Parlett, The Symmetric Eigenvalue Problem, section 6.9).
    """
    before = torch.linalg.vector_norm(vector)
    vector = torch.addmv(vector, basis.T, basis @ vector, alpha=-1)
    if torch.linalg.vector_norm(vector) >= LITTLE * before:
        return vector
    return torch.addmv(vector, basis.T, basis @ vector, alpha=-1)


def random_normal(params: Tensor, generator: torch.Generator) -> Tensor:
    """A standard normal vector like `params`, (n,)."""
    return torch.randn(params.numel(), dtype=torch.float32, generator=generator).to(params)


def random_signs(params: Tensor, generator: torch.Generator) -> Tensor:
    """A Rademacher vector like `params`, (n,): each number is 1 or -1, equally likely and independent."""
    return (2 * torch.randint(2, (params.numel(),), generator=generator) - 1).to(params)


def random_unit(basis: Tensor, generator: torch.Generator) -> Tensor:
    """A random unit vector, (n,), orthogonal to the orthonormal rows of `basis`, (k, n), k < n."""
    vector = orthogonalized(random_normal(basis.new_empty(basis.shape[1]), generator), basis)
    unit: Tensor = vector / torch.linalg.vector_norm(vector)
    return unit
