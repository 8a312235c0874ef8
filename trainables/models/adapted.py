"""A user's network as the other code here expects it: floating-point inputs or tokens in, a tensor of logits out.

Nothing of this changes what the network computes, nor the names of its parameters.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def adapt(model: nn.Module, inputs: Tensor) -> None:
    """Change `model` in place where it would not fit; `inputs` are some of the shape and type that it is to take.

    - Logits are taken out of an output that has them as `.logits` or under "logits".
    - Gradients of embeddings become dense, as only few optimizers take sparse ones, and no measure does.
    - Floating-point inputs become int64 if the network fails on them and takes int64: token ids with one label for each
      sequence are read as numbers, which hold integers up to 2^24 exactly.
    """
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.sparse = False
    model.register_forward_hook(_logits)
    if inputs.is_floating_point() and not _takes(model, inputs) and _takes(model, inputs.long()):
        model.register_forward_pre_hook(_as_token_ids)


def _takes(model: nn.Module, inputs: Tensor) -> bool:
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(inputs)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    finally:
        model.train(was_training)
    return True


def _logits(module: nn.Module, arguments: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return found if isinstance(found, Tensor) else output


def _as_token_ids(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (arguments[0].long(), *arguments[1:])
