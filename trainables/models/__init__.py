"""Models by name, or by import path: `build_model("c1", (3, 32, 32), 10)`.

A model of your own is a function `build(input_shape, num_classes, **options) -> torch.nn.Module`, given as
`package.module:build`; it maps inputs (N, *input_shape) to logits (N, num_classes).
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainables.errors import UserError
from trainables.importing import is_import_path, load_callable
from trainables.models.keskar import c1, f1
from trainables.models.mlp import mlp

__all__ = ["MODELS", "build_model"]

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "f1": f1, "c1": c1}


def build_model(name: str, input_shape: tuple[int, ...], num_classes: int, **options: Any) -> nn.Module:
    """The model `name` (one of MODELS, or `package.module:function`) for inputs of `input_shape`.

    Its initial weights come from torch's global generator: seed that first. Raises UserError for an unknown
    name or option, and where the model does not give finite logits (N, num_classes) for a batch of zeros.
    """
    if is_import_path(name):
        build = load_callable(name, "model")
    elif name in MODELS:
        build = MODELS[name]
    else:
        raise UserError(f"`model` must be one of {', '.join(MODELS)} or `package.module:function`, got {name!r}")
    allowed = list(inspect.signature(build).parameters.values())[2:]
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in allowed):
        names = [parameter.name for parameter in allowed]
        for option in options:
            if option not in names:
                raise UserError(
                    f"`model-options` must be among {', '.join(names) or '(none)'} for {name}, got {option!r}"
                )
    try:
        model: nn.Module = build(input_shape, num_classes, **options)
        with torch.random.fork_rng(devices=[]):
            _check_logits(model, input_shape, num_classes)
    except UserError:
        raise
    except Exception as error:
        message = str(error).splitlines()[0] if str(error) else ""
        raise UserError(
            f"`model` {name} must take inputs of shape {input_shape}, got {type(error).__name__}: {message}"
        ) from error
    return model


def _check_logits(model: nn.Module, input_shape: tuple[int, ...], num_classes: int) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"`model` must build a torch.nn.Module, got {type(model).__name__}")
    was_training = model.training
    with torch.no_grad():
        logits = model.eval()(torch.zeros(2, *input_shape))
    model.train(was_training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"`model` must map 2 inputs to logits of shape (2, {num_classes}), got {got}")
