"""What the parameters of a network must be, so that optimizers and measures can treat them as one flat vector.

A measure replaces parameters by tensors of its own and moves each number alone. So there are no parameters in
TorchScript, which cannot be replaced, none that share memory, which would move together in training and alone in a
measure, and none that are no dense real numbers.
"""

import itertools

import torch
from torch import Tensor, nn

from trainables.runtime.errors import UserError
from trainables.runtime.in_place import changes


def check_parameters(model: nn.Module) -> None:
    """Raises UserError for parameters that cannot be trained or measured. Those of lazy layers are left out."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                f"`model` must be made of torch.nn.Module, got TorchScript (torch.jit){f' in {name}' if name else ''}; "
                "return the module that was scripted or traced"
            )
    known = {name: one for name, one in model.named_parameters() if not isinstance(one, nn.UninitializedParameter)}
    for name, parameter in known.items():
        _check_numbers(name, parameter)
    places = sorted((*_place(one), name) for name, one in known.items() if one.numel() and not one.is_meta)
    for (_, end, one), (start, _, other) in itertools.pairwise(places):
        if start < end:
            raise UserError(
                f"`model` must have parameters that share no memory, got {one} and {other}; tie them by using one "
                "parameter in both places, transposed in forward if need be"
            )


def state_of(model: nn.Module) -> list[tuple[int, int]]:
    """Which parameters `model` has, but for those of lazy layers, and how often each has been changed in place."""
    parameters = [one for one in model.parameters() if not isinstance(one, nn.UninitializedParameter)]
    return list(zip(map(id, parameters), changes(*parameters), strict=True))


def _check_numbers(name: str, parameter: Tensor) -> None:
    kind = str(parameter.dtype).removeprefix("torch.")
    if parameter.is_complex():
        raise UserError(
            f"`model` must have real parameters, got {name} of type {kind}; "
            "keep it as a real tensor with torch.view_as_real and take torch.view_as_complex of that in forward"
        )
    if not parameter.is_floating_point():
        raise UserError(f"`model` must have floating-point parameters, got {name} of type {kind}; make it a buffer")
    if parameter.layout != torch.strided:
        layout = str(parameter.layout).removeprefix("torch.")
        raise UserError(f"`model` must have dense parameters, got {name} of layout {layout}; make it dense or a buffer")
    if parameter.is_inference():
        raise UserError(f"`model` must be built outside of torch.inference_mode, got {name}, which cannot be trained")
    if parameter.numel() > 1 + _span(parameter):
        raise UserError(f"`model` must have parameters without repeated memory, got {name}; use expand in forward")


def _span(parameter: Tensor) -> int:
    """How far the last number is from the first one."""
    return sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))


def _place(parameter: Tensor) -> tuple[int, int]:
    """Where the memory begins and ends."""
    begin = parameter.data_ptr()
    return begin, begin + parameter.element_size() * (1 + _span(parameter))
