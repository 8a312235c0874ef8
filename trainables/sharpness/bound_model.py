"""A model as a function of its parameters.

The function calls a copy of the model and swaps the given parameters into the copy's modules for the duration of the
call (`torch.func.functional_call`). This fails without an error for a model that reaches its parameters in another way:
through a list, through a closure, or in the backward pass after the call (gradient checkpointing). Two checks find such
models:

- The copy's own parameters are NaN, so a forward or backward pass that still uses them gives NaN.
- The value and the gradient on two examples are compared once with those of the caller's model. This finds closures,
  which a copy shares with the original.

The caller's model is never written to, moved or switched to another mode.

Traps: PyTorch's fused `weight_norm` (2.14) treats the norm of v as a constant in second derivatives. The v-v and g-v
blocks of the Hessian are then wrong, and the matrix is not symmetric. Here v * (g / ||v||) is used instead. Of the
attention kernels only the plain one, `SDPBackend.MATH`, has second derivatives: it is used here, also where the model
asks for another one by itself. And in eval mode without gradients nn.TransformerEncoder takes a fast path whose outputs
at masked positions are others, 0: it is switched off here, or the loss would not be the one that has the gradient.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends import mha
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointError

from trainables.runtime.compiled import uncompiled
from trainables.runtime.seeds import preserve_rng
from trainables.sharpness.second_derivatives import operations
from trainables.tasks.outputs import tensors_of

COMPARED_EXAMPLES = 2
ROUNDINGS = 128  # of the whole gradient: tolerance for a parameter whose own gradient is nearly zero
FUSED_WEIGHT_NORM = "WeightNormInterfaceBackward"
FUSED_ATTENTION = "ScaledDotProduct"  # how the names begin
ATTENTION = (F.scaled_dot_product_attention, F.multi_head_attention_forward)
REENTRANT_CHECKPOINT = "CheckpointFunctionBackward"

RECOMPUTED = (
    "`model` must not use gradient checkpointing in eval mode: the backward pass would recompute with other "
    "parameters; checkpoint only if self.training"
)


class BoundModel:
    """The outputs of `model`, in its `evaluation_mode`, as a function of its trainable parameters.

    `shapes` are the shapes of the parameters in the order of `model.named_parameters()`, shared parameters once, and
    `params` (n,) their values. They are of type `dtype`; or float32, if `dtype` is float64 and the model cannot compute
    in it because its forward pass creates float32 tensors. Raises ValueError for a model that reaches its parameters
    other than as attributes of its modules.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        dtype: torch.dtype,
        evaluation_mode: Callable[[nn.Module], nn.Module] = nn.Module.eval,
    ) -> None:
        self._evaluation_mode = evaluation_mode
        own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.shapes = {name: parameter.shape for name, parameter in own.items()}
        with _KeptActivations():
            self.module = evaluation_mode(copy.deepcopy(model)).requires_grad_(False)
        self._copies = [dict(self.module.named_parameters())[name] for name in own]
        self._places = _places(self.module, {id(parameter): index for index, parameter in enumerate(self._copies)})
        self._buffers: dict[str, Tensor] = {}
        self._mode: Callable[[], AbstractContextManager[Any]] = nullcontext
        pieces, few = [parameter.detach() for parameter in own.values()], inputs[:COMPARED_EXAMPLES]
        self._compare(model, list(own.values()), few)
        self._move(inputs.device, dtype)
        try:
            self._gradients(pieces, few, dtype)
        except (RuntimeError, ValueError, TypeError) as error:
            if dtype != torch.float64 or isinstance(error, torch.OutOfMemoryError):
                raise
            dtype = torch.float32
            self._move(inputs.device, dtype)
            self._gradients(pieces, few, dtype)
        self.params = torch.cat([piece.to(inputs.device, dtype).reshape(-1) for piece in pieces])

    def __call__(self, pieces: Sequence[Tensor], inputs: Tensor) -> Any:
        """Return the outputs for `inputs`; `pieces` are the parameters, and may be followed by other tensors."""
        own = {name: pieces[index] for name, index in self._places.items()}
        with _plain_attention(), self._mode(), uncompiled():
            return functional_call(self.module, {**self._buffers, **own}, (inputs,), tie_weights=False)

    def cast(self, dtype: torch.dtype) -> "BoundModel":
        """Return the same function for parameters and inputs of `dtype`; the modules are shared."""
        other = copy.copy(self)
        other._buffers = {
            f"{prefix}.{name}" if prefix else name: buffer.to(dtype)
            for prefix, module in self.module.named_modules()
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
            if buffer.is_floating_point()
        }
        return other

    def _move(self, device: torch.device, dtype: torch.dtype) -> None:
        self.module.to(device, dtype)

    def _gradients(self, pieces: Sequence[Tensor], inputs: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return the value and the gradients of `spread_loss` at `pieces`, computed in `dtype`."""
        leaves = [piece.detach().to(inputs.device, dtype, copy=True).requires_grad_() for piece in pieces]
        inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
        with preserve_rng(inputs.device), torch.enable_grad():
            return _value_and_gradients(self(leaves, inputs), leaves)

    def _compare(self, model: nn.Module, own: list[nn.Parameter], inputs: Tensor) -> None:
        """Raise ValueError if value or gradients are not those of `model`; find out if it uses fused kernels."""
        device, dtype = own[0].device, own[0].dtype
        inputs = inputs.to(device, dtype) if inputs.is_floating_point() else inputs.to(device)
        with torch.no_grad():
            for parameter in self._copies:
                parameter.fill_(math.nan)
        with _untouched(model), preserve_rng(device), torch.enable_grad(), _plain_attention(), uncompiled():
            outputs = self._evaluation_mode(model)(inputs)
            names = set[str]().union(*(operations(tensor) for tensor in tensors_of(outputs)))
            if REENTRANT_CHECKPOINT in names:
                raise ValueError(RECOMPUTED)
            expected = _value_and_gradients(outputs, own)
            del outputs
        if FUSED_WEIGHT_NORM in names or any(name.startswith(FUSED_ATTENTION) for name in names):
            self._mode = _PlainKernels
        if not all(bool(one.isfinite().all()) for one in expected):
            return  # training has diverged
        try:
            found = self._gradients(own, inputs, dtype)
        except CheckpointError as error:
            raise ValueError(RECOMPUTED) from error
        if self._differing(expected, found):
            with torch.no_grad():
                for parameter, value in zip(self._copies, own, strict=True):
                    parameter.copy_(value)
            differing = self._differing(expected, self._gradients(own, inputs, dtype))
            moved = ", ".join(name for name, differs in zip(self.shapes, differing[1:], strict=False) if differs)
            raise ValueError(
                f"`model` must use its parameters as attributes of its modules, but its forward pass reaches {moved} "
                "in another way (such as a list or a closure); use self.layer, not a reference made beforehand"
                if moved
                else RECOMPUTED
            )

    @staticmethod
    def _differing(expected: Sequence[Tensor], found: Sequence[Tensor]) -> list[bool]:
        """Return for the value and each gradient if it differs by more than rounding; empty if none does."""
        eps = torch.finfo(expected[1].dtype).eps
        whole = ROUNDINGS * eps * math.sqrt(sum(_norm(one) ** 2 for one in expected[1:]))
        bounds = [eps**0.5 * _norm(one) + whole for one in expected]
        differs = [not _norm(a - b) <= bound for a, b, bound in zip(expected, found, bounds, strict=True)]
        return differs if any(differs) else []


def spread_cross_entropy(outputs: Tensor) -> Tensor:
    """The mean cross-entropy of logits (..., K) for the class probabilities 2 k / (K (K + 1)), k = 1..K.

    A loss for checks of derivatives: its gradient is not nearly zero, as it is for labels that the model has learned.
    """
    logits = outputs.double()
    shares = torch.arange(1, logits.shape[-1] + 1, dtype=logits.dtype, device=logits.device)
    return (logits.logsumexp(-1) - logits @ (shares / shares.sum())).mean()


def spread_loss(outputs: Sequence[Tensor]) -> Tensor:
    """The sum over tensors of `spread_cross_entropy`, or of single numbers z of log(1 + exp z) - 2 z / 3: likewise."""
    if not outputs:
        raise ValueError("`model` must return floating-point tensors, got none")
    losses = []
    for tensor in outputs:
        if tensor.ndim > 1 and tensor.shape[-1] > 1:
            losses.append(spread_cross_entropy(tensor))
        else:
            numbers = tensor.double()
            losses.append((numbers.logaddexp(torch.zeros_like(numbers)) - numbers * (2 / 3)).mean())
    return torch.stack(losses).sum()


def _value_and_gradients(outputs: Any, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    loss = spread_loss(tensors_of(outputs))
    if not loss.requires_grad:  # of no parameter
        return loss, *(torch.zeros_like(leaf) for leaf in leaves)
    return loss.detach(), *torch.autograd.grad(loss, leaves, materialize_grads=True)


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64))


def _places(model: nn.Module, index: dict[int, int]) -> dict[str, int]:
    """Where each parameter, by its `id`, stands in the model, a shared one more than once, and its index.

    `functional_call` finds them too, at every call, but leaves its tensors in a module that has two names.
    """
    return {
        f"{prefix}.{name}" if prefix else name: index[id(own)]
        for prefix, module in model.named_modules()
        for name, own in module.named_parameters(recurse=False, remove_duplicate=False)
        if id(own) in index
    }


class _untouched:
    """A context that restores the attributes of all modules of `model`, such as `training`, at its end.

    Inside, buffers are copies. Parameters are the model's own: do not write to them, nor to their `.grad`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._before = [(module, dict(vars(module))) for module in model.modules()]

    def __enter__(self) -> None:
        for module, before in self._before:
            buffers = before["_buffers"].items()
            vars(module)["_buffers"] = {name: own if own is None else own.clone() for name, own in buffers}

    def __exit__(self, *error: object) -> None:
        for module, before in self._before:
            vars(module).clear()
            vars(module).update(before)


class _KeptActivations(TorchFunctionMode):
    """Lets `copy.deepcopy` copy tensors that a module keeps from its last forward pass, without their graphs."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            return copy.deepcopy(args[0].detach())
        return function(*args, **(kwargs or {}))


class _PlainKernels(TorchFunctionMode):
    """Computes `weight_norm` and attention with operations whose second derivatives are right."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch._weight_norm:
            return _plain_weight_norm(*args, **(kwargs or {}))
        if function in ATTENTION:
            with sdpa_kernel(SDPBackend.MATH):
                return function(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _plain_weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention by operations that have second derivatives, the same with and without gradients."""
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(before)
