"""What a user's network does in its passes over a batch that training does not allow for."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from trainables.runtime.errors import UserError
from trainables.runtime.in_place import kept


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[None]:
    """Raises UserError where `model` changes its inputs in place, in training too, which several passes share, or has
    other parameters after a pass than before, which no optimizer knows.
    """
    if type(model).__module__.startswith("trainables."):
        yield
        return
    seen: list[contextlib.ExitStack] = []
    parameters = list(model.parameters())

    def begin(module: nn.Module, arguments: Any) -> None:
        seen.append(contextlib.ExitStack())
        seen[-1].enter_context(kept("`model`", "inputs", *arguments))

    def end(module: nn.Module, arguments: Any, outputs: Any) -> None:
        seen.pop().close()
        found = {name: any(one is own for own in parameters) for name, one in model.named_parameters()}
        if new := [name for name, is_known in found.items() if not is_known]:
            raise UserError(f"`model` must make its parameters before training, got a new {new[0]} in a training pass")

    hooks = model.register_forward_pre_hook(begin, prepend=True), model.register_forward_hook(end)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
