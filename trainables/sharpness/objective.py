"""A loss over a flat parameter vector, with its derivatives and a count of what they cost.

Every measure works on an `Objective`. A plain function `loss(params) -> scalar` becomes one by itself, and
derivatives then come from autograd; a loss over much data (`ModelLoss`) works in chunks instead.

Traps this file is for: a loss that is not a deterministic function of its argument (dropout, augmentation, batch
norm in train mode) makes every difference of losses meaningless, so it is refused; a float32 sum over many
examples loses the small differences that sharpness is made of, so values are Python floats, summed in float64.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


class Objective:
    """`loss(params)`, (n,) -> (), twice differentiable where second derivatives are asked for.

    `evaluations` counts the calls of the loss, of its gradient and of Hessian-vector products, each as one.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self.evaluations = 0

    def value(self, params: Tensor) -> float:
        """The loss."""
        self.evaluations += 1
        with torch.no_grad():
            return float(self._checked(self._loss(params.detach())))

    def value_and_gradient(self, params: Tensor) -> tuple[float, Tensor]:
        """The loss and its gradient, (n,)."""
        self.evaluations += 1
        leaf = params.detach().clone().requires_grad_()
        with torch.enable_grad():
            loss = self._checked(self._loss(leaf))
            (gradient,) = self._differentiate(loss, leaf)
        return float(loss.detach()), gradient

    def hessian(self, params: Tensor) -> Callable[[Tensor], Tensor]:
        """The map v -> H v at `params`; the gradient's graph is built once and used by every product."""
        leaf = params.detach().clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = self._differentiate(self._checked(self._loss(leaf)), leaf, create_graph=True)

        def product(vector: Tensor) -> Tensor:
            self.evaluations += 1
            if not gradient.requires_grad:  # the loss is linear
                return torch.zeros_like(vector)
            (result,) = torch.autograd.grad(gradient, leaf, vector, retain_graph=True, materialize_grads=True)
            return result.detach()

        return product

    def _differentiate(self, loss: Tensor, leaf: Tensor, create_graph: bool = False) -> tuple[Tensor, ...]:
        if not loss.requires_grad:
            raise ValueError(
                "`loss` must depend on its parameters by differentiable operations, got one without a gradient"
            )
        return torch.autograd.grad(loss, leaf, create_graph=create_graph, materialize_grads=True)

    @staticmethod
    def _checked(loss: Tensor) -> Tensor:
        if loss.shape != ():
            raise ValueError(f"`loss` must return a scalar, got shape {tuple(loss.shape)}; take the mean over examples")
        return loss


def as_objective(loss: Loss | Objective) -> Objective:
    """`loss` itself if it is an Objective, else wrapped as one."""
    return loss if isinstance(loss, Objective) else Objective(loss)


def evaluate_center(objective: Objective, params: Tensor) -> tuple[float, Tensor]:
    """Loss and gradient at `params`, evaluated twice to see that they are a function of `params` alone.

    Raises ValueError for parameters that are not one floating-point vector and for a loss that is not
    deterministic. A loss that is not finite is returned as it is.
    """
    if params.ndim != 1 or params.numel() == 0:
        raise ValueError(f"`params` must be one flat vector (n,), n > 0, got shape {tuple(params.shape)}")
    if not params.is_floating_point():
        raise ValueError(f"`params` must be floating point, got {params.dtype}; convert with .to(torch.float64)")
    value, gradient = objective.value_and_gradient(params)
    again, gradient_again = objective.value_and_gradient(params)
    if math.isfinite(value) and not (value == again and torch.equal(gradient, gradient_again)):
        raise ValueError(
            f"`loss` must be deterministic, got {value!r} and then {again!r} at the same parameters; "
            "switch off dropout and augmentation (eval mode) and fix the data"
        )
    return value, gradient
