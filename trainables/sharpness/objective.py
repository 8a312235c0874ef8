"""A loss over a flat parameter vector, with its derivatives and a count of what they cost.

Every measure works on an `Objective`. A plain function `loss(params) -> scalar` becomes one by itself, and
derivatives then come from autograd; a loss over much data (`ModelLoss`) works in chunks instead; `Substituted` is a
loss under a linear change of variables, which is what boxes, balls, preconditioners and single layers are.

Searches go where float32 leads, and what they find is measured in float64: `in_float32`.

Traps this file is for: a loss that is not a deterministic function of its argument (dropout, augmentation, batch
norm in train mode) makes every difference of losses meaningless, so it is refused; a float32 sum over many
examples loses the small differences that sharpness is made of, so values are Python floats, summed in float64; a step
below the rounding of the parameters themselves is no step, so it is refused too.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from trainables.runtime.seeds import preserve_rng
from trainables.sharpness.second_derivatives import check_hessian, suspects

T = TypeVar("T")
Loss = Callable[[Tensor], Tensor]
Map = Callable[[Tensor], Tensor]
Pieces = Sequence[Tensor]  # of a flat vector

ROUNDINGS = 1024  # of a loss, that two evaluations at one point may differ by
LEAST_IN_FLOAT32 = 1e-4  # the smallest tolerance that is looked for in float32
LEAST_STEP = 8  # roundings of the parameters: what a step that is to be seen has to measure


class Objective:
    """`loss(params)`, (n,) -> (), twice differentiable where second derivatives are asked for.

    `evaluations` counts the calls of the loss, of its gradient, of the graph that Hessian-vector products use, and
    of these products, each as one.
    """

    _is_certified = False

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

    def value_and_hessian(self, params: Tensor) -> tuple[float, Map]:
        """The loss and the map v -> H v at `params`; the gradient's graph is built once and used by every product."""
        self.evaluations += 1
        leaf = params.detach().clone().requires_grad_()
        with torch.enable_grad():
            loss = self._checked(self._loss(leaf))
            (gradient,) = self._differentiate(loss, leaf, create_graph=True)

        def product(vector: Tensor) -> Tensor:
            self.evaluations += 1
            return pulled_back([gradient], [leaf], [vector])[0].detach()

        return float(loss.detach()), product

    def hessian(self, params: Tensor) -> Map:
        """The map v -> H v at `params`."""
        return self.value_and_hessian(params)[1]

    def certify(self, params: Tensor) -> None:
        """Raise ValueError if PyTorch's second derivatives of the loss are wrong (see `second_derivatives`).

        Checked once per objective. Its 5 to 9 evaluations are not counted, because no single measure needs them.
        """
        if self._is_certified:
            return
        own = Objective(self._loss)
        value, product = own.value_and_hessian(params)
        if math.isfinite(value):
            check_hessian(
                params.detach(),
                product,
                lambda point: own.value_and_gradient(point)[1],
                lambda: suspects(self._loss(params.detach().clone().requires_grad_())),
            )
        self._is_certified = True

    def in_float32(self) -> "Objective | None":
        """The same loss, computed in float32 at float64 vectors; None where that is not to be had, or not worth it.

        It is for searches, which end in a point or a direction; the number there is then taken from this loss.
        """
        return None

    def spend(self, evaluations: int) -> None:
        """Counts evaluations that were made elsewhere, in float32."""
        self.evaluations += evaluations

    def _differentiate(self, loss: Tensor, leaves: Tensor | Pieces, create_graph: bool = False) -> tuple[Tensor, ...]:
        if not loss.requires_grad:
            raise ValueError(
                "`loss` must depend on its parameters by differentiable operations, got one without a gradient"
            )
        leaves = [leaves] if isinstance(leaves, Tensor) else leaves
        gradients = torch.autograd.grad(loss, leaves, create_graph=create_graph, allow_unused=True)
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                "`loss` must depend on its parameters, got one that ignores its argument; "
                "call the model with the given parameters (torch.func.functional_call)"
            )
        pairs = zip(gradients, leaves, strict=True)
        return tuple(torch.zeros_like(leaf) if gradient is None else gradient for gradient, leaf in pairs)

    @staticmethod
    def _checked(loss: Tensor) -> Tensor:
        if loss.shape != ():
            raise ValueError(f"`loss` must return a scalar, got shape {tuple(loss.shape)}; take the mean over examples")
        return loss


class Substituted(Objective):
    """f(x + M u) as a function of u; `forward` is u -> M u and `adjoint` v -> M^T v. Both objectives count."""

    def __init__(self, objective: Objective, params: Tensor, forward: Map, adjoint: Map) -> None:
        self._objective, self._params, self._forward, self._adjoint = objective, params.detach(), forward, adjoint
        self.evaluations = 0

    def value(self, params: Tensor) -> float:
        self.evaluations += 1
        return self._objective.value(self._params + self._forward(params))

    def value_and_gradient(self, params: Tensor) -> tuple[float, Tensor]:
        self.evaluations += 1
        value, gradient = self._objective.value_and_gradient(self._params + self._forward(params))
        return value, self._adjoint(gradient)

    def value_and_hessian(self, params: Tensor) -> tuple[float, Map]:
        self.evaluations += 1
        value, inner = self._objective.value_and_hessian(self._params + self._forward(params))

        def product(vector: Tensor) -> Tensor:
            self.evaluations += 1
            return self._adjoint(inner(self._forward(vector)))

        return value, product

    def certify(self, params: Tensor) -> None:
        self._objective.certify(self._params + self._forward(params))

    def in_float32(self) -> Objective | None:
        inner = self._objective.in_float32()
        return inner and Substituted(inner, self._params, self._forward, self._adjoint)

    def spend(self, evaluations: int) -> None:
        super().spend(evaluations)
        self._objective.spend(evaluations)


class Rounded(Objective):
    """A loss of float32 vectors, as one of float64 vectors."""

    def __init__(self, single: Objective) -> None:
        self._single = single
        self.evaluations = 0

    def value(self, params: Tensor) -> float:
        self.evaluations += 1
        return self._single.value(params.float())

    def value_and_gradient(self, params: Tensor) -> tuple[float, Tensor]:
        self.evaluations += 1
        value, gradient = self._single.value_and_gradient(params.float())
        return value, gradient.double()

    def certify(self, params: Tensor) -> None:
        self._single.certify(params.float())

    def value_and_hessian(self, params: Tensor) -> tuple[float, Map]:
        self.evaluations += 1
        value, inner = self._single.value_and_hessian(params.float())

        def product(vector: Tensor) -> Tensor:
            self.evaluations += 1
            return inner(vector.float()).double()

        return value, product


def pulled_back(outputs: Pieces, inputs: Pieces, vectors: Pieces, create_graph: bool = False) -> Pieces:
    """For every x of `inputs` the sum over outputs y of v' dy/dx, v its vector. Graphs are kept; constants add 0."""
    moving = [(y, vector) for y, vector in zip(outputs, vectors, strict=True) if y.requires_grad]
    if not moving:
        return [torch.zeros_like(x) for x in inputs]
    if any(y.shape != vector.shape for y, vector in moving):
        shapes = ", ".join(f"{tuple(vector.shape)} for {tuple(y.shape)}" for y, vector in moving)
        raise ValueError(f"vectors must have the shapes of what they are multiplied with, got {shapes}")
    # Not as `grad_outputs`: to compare shapes PyTorch would import SymPy, in every process.
    with torch.inference_mode(False), torch.enable_grad():
        total = torch.stack([(y * _ordinary(vector)).sum() for y, vector in moving]).sum()
    return torch.autograd.grad(total, inputs, retain_graph=True, create_graph=create_graph, materialize_grads=True)


def _ordinary(vector: Tensor) -> Tensor:
    """`vector` as autograd can keep it, also where it was made in inference mode."""
    return vector.clone() if vector.is_inference() else vector


def as_objective(loss: Loss | Objective) -> Objective:
    """`loss` itself if it is an Objective, else wrapped as one."""
    return loss if isinstance(loss, Objective) else Objective(loss)


def evaluate_center(objective: Objective, params: Tensor) -> tuple[float, Tensor]:
    """Loss and gradient at `params`, after checking that the loss is a function of `params` alone.

    Costs a value and a gradient; a random loss draws other numbers in each, and the caller's random state is put back.
    Raises ValueError for parameters that are not one floating-point vector and for a loss that is not deterministic.
    A loss that is not finite is returned as it is.
    """
    return _twice(objective, params, objective.value_and_gradient)


def hessian_at_center(objective: Objective, params: Tensor) -> tuple[float, Map]:
    """The loss and the map v -> H v at `params`, with the checks of `evaluate_center` and of second derivatives."""
    value, product = _twice(objective, params, objective.value_and_hessian)
    if math.isfinite(value):
        objective.certify(params.detach())
    return value, product


def _twice(objective: Objective, params: Tensor, evaluate: Callable[[Tensor], tuple[float, T]]) -> tuple[float, T]:
    check_params(params)
    with preserve_rng(params.device):
        value = objective.value(params)
        again, derivative = evaluate(params)
    rounding = ROUNDINGS * torch.finfo(params.dtype).eps * abs(value)  # kernels differ with and without a graph
    if math.isfinite(value) and not abs(value - again) <= rounding:
        raise ValueError(
            f"`loss` must be deterministic, got {value!r} and then {again!r} at the same parameters; "
            "switch off dropout and augmentation (eval mode) and fix the data"
        )
    return value, derivative


def check_params(params: Tensor) -> None:
    """Raises ValueError for parameters that are not one floating-point vector."""
    if params.ndim != 1 or params.numel() == 0:
        raise ValueError(f"`params` must be one flat vector (n,), n > 0, got shape {tuple(params.shape)}")
    if not params.is_floating_point():
        raise ValueError(f"`params` must be floating point, got {params.dtype}; convert with .to(torch.float64)")


def check_step(name: str, value: float, length: float | Tensor, params: Tensor) -> None:
    """Raises ValueError where a step of l2 norm `length` is lost in the rounding of `params`: it would measure 0."""
    least = LEAST_STEP * torch.finfo(params.dtype).eps * float(torch.linalg.vector_norm(params.detach().double()))
    if float(length) < least:
        kind = str(params.dtype).removeprefix("torch.")
        raise ValueError(f"`{name}` must be large enough to move weights of {kind}, got {value}; work in float64")
