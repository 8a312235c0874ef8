"""Models by name, or by import path: `build_model("c1", (3, 32, 32), 10)`.

A model of your own is a function `build(input_shape, num_classes, **options) -> torch.nn.Module`, given as
`package.module:build`; it maps inputs (N, *input_shape) to logits (N, num_classes), or tokens (N, T) and pairs of
sequences (N, 2, T), int64, to logits (N, T, num_classes), num_classes the size of the vocabulary. Outputs with
`.logits`, and token ids with one label per sequence, are taken too: see trainables.models.adapted. For other tasks
num_classes is the number of outputs (trainables.tasks). Models of torchvision, timm and transformers have names as
well: see trainables.models.libraries.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from trainables.models.adapted import adapt
from trainables.models.gpt import gpt
from trainables.models.keskar import c1, c2, f1, f2
from trainables.models.libraries import library_model, library_of
from trainables.models.lstm import lstm
from trainables.models.mlp import mlp
from trainables.models.noisy_quadratic import noisy_quadratic
from trainables.models.parameters import check_parameters, state_of
from trainables.models.resnet import resnet
from trainables.models.seq2seq import seq2seq
from trainables.models.vit import vit
from trainables.runtime.compiled import uncompiled
from trainables.runtime.errors import UserError, did_you_mean, quoted, text_of
from trainables.runtime.importing import is_import_path, load_callable
from trainables.runtime.in_place import kept
from trainables.runtime.options import check_options
from trainables.runtime.time_limit import TimeLimitError
from trainables.tasks.task import Task

__all__ = ["MODELS", "build_model"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "f1": f1,
    "f2": f2,
    "c1": c1,
    "c2": c2,
    "c3": c1,
    "c4": c2,
    "resnet": resnet,
    "vit": vit,
    "lstm": lstm,
    "gpt": gpt,
    "seq2seq": seq2seq,
    "noisy_quadratic": noisy_quadratic,
}


def build_model(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    input_dtype: torch.dtype = torch.float32,
    task: Task | None = None,
    label_shape: tuple[int, ...] = (),
    **options: Any,
) -> nn.Module:
    """The model `name` (one of MODELS, or `package.module:function`) for inputs of `input_shape`, int64 for tokens.

    Its initial weights come from torch's global generator: seed that first. `task` says how many numbers it puts out,
    for labels of `label_shape` each; None is classification. Raises UserError for an unknown name or option, and where
    the model does not give logits (N, num_classes), or for tokens (N, T, num_classes), for a batch of zeros. A task of
    the user's own takes any outputs.
    """
    is_own_task = task is not None and is_import_path(task.name)
    if task is not None:
        num_classes = task.num_outputs(num_classes, label_shape)
        if type(num_classes) is not int or num_classes < 1:
            raise UserError(f"`task` must put out a whole number of outputs, got {num_classes!r} from {task.name}")
    if library_of(name) is not None:
        build: Callable[..., Any] = partial(library_model, name, input_dtype)
    elif is_import_path(name):
        build = load_callable(name, "model")
    elif name in MODELS:
        build = MODELS[name]
    else:
        raise UserError(
            f"`model` must be one of {', '.join(MODELS)}, torchvision:NAME, timm:NAME, hf:FOLDER or "
            f"`package.module:function`, got {name!r}{did_you_mean(name, MODELS)}"
        )
    check_options("model-options", name, build, options, after=2)
    try:
        model: nn.Module = build(input_shape, num_classes, **options)
        if library_of(name) == "hf" and not input_dtype.is_floating_point:
            num_classes = model.config.vocab_size  # type: ignore[union-attr,assignment]  # may be rounded up
        if name in MODELS:  # a third off a step of C1; a network of your own may have views that it would break
            model = model.to(memory_format=torch.channels_last)
        if isinstance(model, nn.Module):
            check_parameters(model)
        with torch.random.fork_rng(devices=[]), uncompiled():
            inputs = torch.zeros(3, *input_shape, dtype=input_dtype)
            if name not in MODELS and isinstance(model, nn.Module):
                adapt(model, inputs[:2], keeps_outputs=is_own_task)
            is_own = is_import_path(name) and library_of(name) is None
            for count in (2, 3) if is_own else (2,):  # one of them may be the size of another dimension
                _check_logits(model, inputs[:count], num_classes, is_own_task)
    except (KeyboardInterrupt, UserError):
        raise
    except TimeLimitError as error:
        raise UserError(f"`model` {name} cannot be built: it {error}") from error
    except BaseException as error:  # a user's code may raise any
        message = quoted(next(iter(text_of(error).splitlines()), ""))
        kind = "" if input_dtype.is_floating_point else f" and type {str(input_dtype).removeprefix('torch.')}"
        raise UserError(
            f"`model` {name} must take inputs of shape {input_shape}{kind}, got {type(error).__name__}: {message}"
        ) from error
    return model


def _check_logits(model: nn.Module, inputs: torch.Tensor, num_classes: int, is_own_task: bool) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"`model` must build a torch.nn.Module, got {type(model).__name__}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("`model` must have parameters that require gradients, got none; unfreeze those to train")
    was_training = model.training
    before = state_of(model)
    with torch.no_grad(), kept("`model`", "inputs", inputs, exact=True):
        logits = model.eval()(inputs)
    if state_of(model) != before:
        raise UserError("`model` must not change its parameters in evaluation mode; change them in training alone")
    model.train(was_training)
    if is_own_task:
        return
    units = inputs.shape[:1] if inputs.is_floating_point() else (len(inputs), inputs.shape[-1])
    expected = (*units, num_classes)
    allowed = (expected, units, (*units, 2)) if num_classes == 1 else (expected,)  # one number, or two logits
    if not isinstance(logits, torch.Tensor) or logits.shape not in allowed or not logits.is_floating_point():
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if isinstance(logits, torch.Tensor) and not logits.is_floating_point():
            got = f"{str(logits.dtype).removeprefix('torch.')}, which has no gradient"
        raise UserError(f"`model` must map {len(inputs)} inputs to logits of shape {expected}, got {got}")
