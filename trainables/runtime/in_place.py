"""Whether a user's own code changes tensors in place that it shares with others.

Examples are not copied before an evaluation: a network that writes `x -= mean` in `forward` would change the data of
its own trial and of all others. PyTorch counts the changes of a tensor and of all its views, so a look costs nothing.

Trap: what writes through `x.data` or `x.numpy()` is not counted. Where `exact` is given, values are compared as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainables.runtime.errors import UserError

WAY_OUT = "all trials share them; write x = x - mean for x -= mean or x.sub_(mean), and inplace=False for layers"


def changes(*values: Any) -> list[int]:
    """How often each of `values` has been changed in place; 0 for what is not a tensor or is not counted."""
    return [value._version if isinstance(value, Tensor) and not value.is_inference() else 0 for value in values]


@contextmanager
def kept(who: str, what: str, *values: Any, exact: bool = False) -> Iterator[None]:
    """Raise UserError if the block changes one of the tensors among `values` in place.

    `who` and `what` are for the message: the argument and the tensors.
    """
    before = changes(*values)
    tensors = [value for value in values if isinstance(value, Tensor)]
    copies = [tensor.detach().clone() for tensor in tensors] if exact else []
    yield
    is_same = all(_equal(one, other) for one, other in zip(copies, tensors, strict=False))
    if changes(*values) != before or not is_same:
        raise UserError(f"{who} must not change its {what} in place: {WAY_OUT}")


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one.nan_to_num(), other.detach().nan_to_num()))
