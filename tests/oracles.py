"""Closed forms and naive references that the tests compare with; each says its formula."""

import torch
from torch import Tensor

from trainables.sharpness.objective import Loss, Objective


def random(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers in float64, the same for a seed."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotated(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A dense symmetric matrix with these eigenvalues, in random directions."""
    basis: Tensor = torch.linalg.qr(random(seed, len(eigenvalues), len(eigenvalues))).Q
    return (basis * eigenvalues) @ basis.T


def quadratic(hessian: Tensor, gradient: Tensor, center: Tensor, offset: float = 0.0) -> Loss:
    """offset + g.(p - x) + (p - x)' H (p - x) / 2, so that x = center has loss offset, gradient g, Hessian H."""

    def loss(params: Tensor) -> Tensor:
        step = params - center
        return offset + gradient @ step + step @ (hessian @ step) / 2

    return loss


def with_hessian(matrix: Tensor) -> tuple[Loss, Tensor]:
    """A quadratic with this Hessian, and a point."""
    point = torch.zeros(len(matrix), dtype=matrix.dtype)
    return quadratic(matrix, point + 1, point), point


def half_widths(params: Tensor, epsilon: float) -> Tensor:
    """b_i = epsilon (|x_i| + 1)."""
    return epsilon * (params.abs() + 1)


def separable_gain(curvatures: Tensor, gradient: Tensor, widths: Tensor) -> float:
    """max over |y_i| <= b_i of sum g_i y_i + h_i y_i^2 / 2 = sum |g_i| b_i + h_i b_i^2 / 2, for h_i >= 0."""
    return float((gradient.abs() * widths + curvatures * widths**2 / 2).sum())


def best_gain_of_corners(hessian: Tensor, gradient: Tensor, widths: Tensor) -> float:
    """max of g.y + y' H y / 2 over all 2^n corners of the box: the maximum over the box where H is positive."""
    n = len(widths)
    corners = widths * (2 * (torch.arange(2**n)[:, None] >> torch.arange(n) & 1) - 1)
    return float((corners @ gradient + ((corners @ hessian) * corners).sum(1) / 2).max())


def dense_hessian(loss: Loss, params: Tensor) -> Tensor:
    """The full Hessian, (n, n), by autograd."""
    return torch.autograd.functional.hessian(loss, params)  # type: ignore[no-any-return]


def softmax_regression(inputs: Tensor, labels: Tensor, classes: int) -> Loss:
    """Mean cross-entropy of logits X W, W (d, classes) as a flat vector."""

    def loss(params: Tensor) -> Tensor:
        logits = inputs @ params.view(inputs.shape[1], classes)
        return torch.nn.functional.cross_entropy(logits, labels)

    return loss


class Scouted(Objective):
    """`loss`, with `scout` for its float32 form."""

    def __init__(self, loss: Loss, scout: Loss) -> None:
        super().__init__(loss)
        self.scout = Objective(scout)

    def in_float32(self) -> Objective:
        return self.scout
