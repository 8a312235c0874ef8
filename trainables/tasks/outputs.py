"""What a network returns, and the tensors in it: a tensor, a tuple or list, a dictionary, or an object with fields.

The built-in tasks work on one tensor, `prediction_of`. A task of your own gets what the network returns.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from trainables.runtime.errors import UserError

NAMES = ("logits", "out", "prediction")  # of the prediction, in a dictionary or an object


def prediction_of(outputs: Any) -> Tensor:
    """The tensor that is the prediction: `outputs` itself, its `.logits` or "logits", or the first of a tuple.

    Raises UserError where there is none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        found = next((outputs[name] for name in NAMES if name in outputs), None)
    elif isinstance(outputs, tuple | list) and not hasattr(outputs, "logits"):
        found = next(iter(outputs), None)
    else:
        found = next((getattr(outputs, name) for name in NAMES if hasattr(outputs, name)), None)
    if not isinstance(found, Tensor):
        raise UserError(
            f"`model` must return a tensor, a tuple that begins with one, or `.logits`, got {type(outputs).__name__}"
        )
    return found


def tensors_of(outputs: Any) -> list[Tensor]:
    """The floating-point tensors in `outputs`, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    changed(outputs, note)
    return found


def changed(outputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`outputs` with every floating-point tensor replaced by `change` of it; the rest stays."""
    if isinstance(outputs, Tensor):
        return change(outputs) if outputs.is_floating_point() else outputs
    if isinstance(outputs, Mapping):
        parts = {key: changed(value, change) for key, value in outputs.items()}
        if type(outputs) is dict:
            return parts
        other = copy.copy(outputs)
        for key, value in parts.items():
            other[key] = value  # type: ignore[index]
        return other
    if isinstance(outputs, tuple | list):
        members = [changed(value, change) for value in outputs]
        return type(outputs)(*members) if hasattr(outputs, "_fields") else type(outputs)(members)
    if hasattr(outputs, "__dict__"):
        other = copy.copy(outputs)
        vars(other).update({key: changed(value, change) for key, value in vars(outputs).items()})
        return other
    return outputs
