"""A user's network as the other code here expects it: floating-point inputs or tokens in, a tensor of logits out.

Nothing of this changes what the network computes, nor the names of its parameters.
"""

from typing import Any

import torch
from torch import Tensor, nn

from trainables.runtime.errors import UserError
from trainables.tasks.outputs import prediction_of


def adapt(model: nn.Module, inputs: Tensor, *, keeps_outputs: bool = False) -> None:
    """Change `model` in place where it would not fit; `inputs` are some of the shape and type that it is to take.

    - The prediction is taken out of a tuple, dictionary or object (`prediction_of`), unless the task wants all outputs.
    - Gradients of embeddings become dense, as only few optimizers take sparse ones, and no measure does.
    - Floating-point inputs become int64 if the network fails on them and takes int64: token ids with one label for each
      sequence are read as numbers, which hold integers up to 2^24 exactly.
    """
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.sparse = False
    if not keeps_outputs:
        model.register_forward_hook(_prediction)
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


def _prediction(module: nn.Module, arguments: Any, output: Any) -> Any:
    try:
        return prediction_of(output)
    except UserError:  # whoever uses the output says what it lacks
        return output


def _as_token_ids(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (arguments[0].long(), *arguments[1:])
