"""Gradients at perturbed weights: SAM, adaptive SAM, and robust training.

SAM (Foret et al. 2021, arXiv 2010.01412) takes the gradient at w + e, with g the gradient at w and

    e = radius * g / ||g||_2

Adaptive SAM (Kwon et al. 2021, arXiv 2102.11600) measures it relative to each weight, with T = |w| + 0.01:

    e = radius * T^2 g / ||T g||_2        so that ||e / T||_2 = radius

(the authors' own code has T = 1 for biases; here all weights are alike, as in the paper's formula). Robust training
(Keskar et al. 2017, section 4) is min_x max_{||d||_2 <= epsilon} f(x + d). The paper names no norm; its "epsilon-disc"
and its second-order cone program mean the Euclidean one. The inner maximum is sought on the batch by projected
normalized gradient ascent (Madry et al. 2018, arXiv 1706.06083); the gradient at the maximizer is that of the maximum
(Danskin). One ascent step is SAM.

Traps: the weights are put back from copies, so they are bit-identical afterwards, also after an exception; all passes
see the same dropout masks, and batch norm's running statistics move in the first alone (trainables.training.one_loss).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.training.one_loss import Closure, one_loss

ADAPTIVE_FLOOR = 0.01  # the authors' eta


def sam_gradient(model: nn.Module, closure: Closure, *, radius: float, adaptive: bool = False) -> Tensor:
    """Leaves in `.grad` the gradient at w + e; returns the loss at w.

    `closure()` adds the gradient of the batch loss to `.grad` and returns the loss. A zero gradient perturbs nothing.
    """
    loss_at = one_loss(model, closure)
    loss, parameters, gradients = _first_pass(model, loss_at)
    with weights_restored(parameters):
        with torch.no_grad():
            if adaptive:
                scales = torch._foreach_abs(parameters)
                torch._foreach_add_(scales, ADAPTIVE_FLOOR)
                torch._foreach_mul_(gradients, scales)
                length = _length(gradients)
                torch._foreach_mul_(gradients, scales)
            else:
                length = _length(gradients)
            torch._foreach_mul_(gradients, _ratio(radius, length))
            torch._foreach_add_(parameters, gradients)
        loss_at()
    return loss


def robust_gradient(model: nn.Module, closure: Closure, *, epsilon: float, steps: int = 3) -> Tensor:
    """Leaves in `.grad` the gradient at x + d, d after `steps` of ascent from 0; returns the loss at x.

    d <- P(d + stride * g / ||g||), P the projection on the ball, stride = min(epsilon, 2.5 epsilon / steps); steps + 1
    passes over the batch. `closure` as in `sam_gradient`.
    """
    loss_at = one_loss(model, closure)
    loss, parameters, gradients = _first_pass(model, loss_at)
    stride = min(epsilon, 2.5 * epsilon / steps)
    with weights_restored(parameters) as center:
        offset = [torch.zeros_like(p) for p in parameters]
        for _ in range(steps):
            with torch.no_grad():
                torch._foreach_mul_(gradients, _ratio(stride, _length(gradients)))
                torch._foreach_add_(offset, gradients)
                torch._foreach_mul_(offset, _ratio(epsilon, _length(offset)).clamp(max=1.0))
                torch._foreach_copy_(parameters, center)
                torch._foreach_add_(parameters, offset)
            model.zero_grad()
            loss_at()
            gradients = [p.grad for p in parameters if p.grad is not None]
    return loss


def _first_pass(model: nn.Module, loss_at: Closure) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Loss, parameters and their gradients at the weights; `.grad` is empty afterwards."""
    model.zero_grad()
    loss = loss_at()
    parameters: list[Tensor] = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad.detach() for p in parameters if p.grad is not None]
    model.zero_grad()
    return loss, parameters, gradients


@contextmanager
def weights_restored(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yields copies of the parameters, and puts them back at the end."""
    with torch.no_grad():
        saved = [parameter.clone() for parameter in parameters]
    try:
        yield saved
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, saved)


def _length(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors)).square().sum().sqrt()


def _ratio(radius: float, length: Tensor) -> Tensor:
    """radius / length, 0 at length 0; a scalar on the device."""
    return torch.where(length > 0, radius / length, 0.0)
