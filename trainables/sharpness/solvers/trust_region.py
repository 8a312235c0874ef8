"""The maximum of a quadratic over the unit ball, from Hessian-vector products alone.

    max c.u + u'Hu / 2  over  ||u|| <= 1,   reached at  (m - H) u = c  with  m >= max(lambda_max, 0),  m = 0 inside

In the Krylov space of c that the Lanczos recurrence spans, H is a small tridiagonal matrix T, and the problem is solved
there exactly: the length of u falls as m grows, so m is found by bisection. What the solution lacks is known without a
further product: c + Hu - m u = b y_k q, with b the recurrence's last number, y_k the last coordinate, and q the next
basis vector. (Gould, Lucidi, Roma and Toint, "Solving the trust-region subproblem using the Lanczos method", SIAM J.
Optim. 9, 1999.) Ascent along gradients needs many more products where H has very different curvatures.

Trap: a part of the maximum that is orthogonal to the Krylov space of c, as the top eigenvector at c = 0, is not found.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from trainables.sharpness.solvers.lanczos import Array, Lanczos

BISECTIONS = 100
NEARLY = 1e-14  # of the spectrum's width: how near to its top m may be


def largest_in_ball(
    product: Callable[[Tensor], Tensor], linear: Tensor, limit: int, tol: float, generator: torch.Generator
) -> Tensor | None:
    """u, (n,), from at most `limit` products v -> H v, with c = `linear`; None for c = 0 or what is not finite.

    Ends where the Frank-Wolfe gap ||G|| - G.u, G = c + Hu, is at most `tol` times the value at u.
    """
    length = float(torch.linalg.vector_norm(linear, dtype=torch.float64))
    if not 0 < length < math.inf:
        return None
    lanczos = Lanczos(product, linear.new_empty(0, len(linear)), min(limit, len(linear)), generator, start=linear)
    while True:
        if not lanczos.step():
            return None
        values, vectors = lanczos.eigh()
        along = length * vectors[0]  # c, by eigenvectors
        multiplier, coordinates = _in_eigenbasis(values, along)
        left = lanczos.norm * abs(float(vectors[-1] @ coordinates))
        gap = math.hypot(multiplier, left) - multiplier
        value = float(along @ coordinates + values @ coordinates**2 / 2)
        if lanczos.full or lanczos.closed or gap <= tol * value:
            u: Tensor = torch.from_numpy(vectors @ coordinates).to(linear) @ lanczos.basis
            return u / max(1.0, float(torch.linalg.vector_norm(u, dtype=torch.float64)))


def _in_eigenbasis(values: Array, along: Array) -> tuple[float, Array]:
    """m and u, by eigenvectors, for eigenvalues `values`, ascending, and c = `along`."""
    top, width = float(values[-1]), float(np.abs(values).max() + np.abs(along).max())
    if top < 0 and np.linalg.norm(along / values) <= 1:
        return 0.0, -along / values
    low = max(top, 0.0) + NEARLY * width
    high = low + float(np.linalg.norm(along))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(along / (middle - values)) > 1 else (low, middle)
    u: Array = along / (high - values)
    rest = max(0.0, 1 - float(u @ u))  # where c has nearly no part along the top, u is to be filled up with that
    u[-1] = math.copysign(math.sqrt(u[-1] ** 2 + rest), along[-1])
    return high, u
