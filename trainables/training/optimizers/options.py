"""Which class an optimizer's name stands for, and whether that class has the options of a configuration.

`checked` is asked before a sweep, and for every optimizer that is built, so a misspelt option is one line and never a
trial. Options are compared with the defaults in the signature of the class: their names, kinds and lengths. Ranges are
the class's own to check, when one is built.
"""

import dataclasses
import difflib
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from trainables.config import FULL_BATCH_OPTIMIZERS, LINE_SEARCH_OPTIMIZERS, PROGRESSIVE, TrialConfig
from trainables.optimizer_settings import (
    OPTIONS_OF_THEIR_OWN,
    canonical_options,
    read_options,
    read_parameter_groups,
)
from trainables.runtime.errors import UserError
from trainables.runtime.importing import is_import_path, load_callable
from trainables.training.optimizers.lamb import LAMB
from trainables.training.optimizers.lars import LARS
from trainables.training.optimizers.progressive_lbfgs import ProgressiveLBFGS

CHOSEN_HERE = {"params", "foreach", "fused", "capturable", "differentiable", "maximize"}
DECOUPLED = ("adamw", "muon", "adafactor")
OF_ADAMW = "adamw_"  # before the options of Muon's second optimizer
ADAMW_RATIO = "adamw_lr_ratio"


def class_of(name: str) -> Callable[..., Any]:
    """The class of torch.optim whose lower-case name is `name`, that at an import path, or this project's own."""
    if is_import_path(name):
        return load_callable(name, "optimizer")
    if name == PROGRESSIVE:
        return ProgressiveLBFGS
    return next(own for known, own in vars(torch.optim).items() if known.lower() == name and inspect.isclass(own))


def is_decoupled(config: TrialConfig) -> bool:
    """Whether weight decay shrinks the weights beside the step; else it is an L2 term in the gradient."""
    return config.optimizer in DECOUPLED or bool(read_options(config.optimizer_options).get("decoupled_weight_decay"))


def weight_decay_form(config: TrialConfig) -> str | None:
    """`decoupled` or `L2`; None without weight decay, and where a user's own class decides."""
    if config.weight_decay == 0 or config.trial is not None or is_import_path(config.optimizer):
        return None
    if config.layer_adaptation:
        return "decoupled" if config.optimizer == "adam" else "L2"
    return "decoupled" if is_decoupled(config) else "L2"


def checked(config: TrialConfig) -> TrialConfig:
    """`config` without the options that are the defaults of its optimizer. Raises UserError for a wrong option."""
    given = read_options(config.optimizer_options)
    known = options_of(config.optimizer, config.layer_adaptation)
    own = OPTIONS_OF_THEIR_OWN | ({"momentum": "--momentum"} if config.optimizer == "sgd" else {})
    for name, value in given.items():
        if name in own:
            raise UserError(f"`optimizer`: {name} has an option of its own, {own[name]}")
        check_option(config, known, name, value)
    for group in read_parameter_groups(config.parameter_groups):
        for name, value in group.options.items():
            if name == "optimizer":
                if config.optimizer != "muon":
                    raise UserError(f"`parameter_groups`: optimizer=... is for muon alone, got {config.optimizer}")
            elif name == "weight_decay" and not takes_weight_decay(config):
                raise UserError(f"`parameter_groups`: {config.optimizer} has no weight_decay")
            elif name not in ("lr", "weight_decay"):
                check_option(config, known, name, value, "parameter_groups")
    if config.weight_decay and not takes_weight_decay(config):
        raise UserError(
            f"`weight_decay` cannot be used with {config.optimizer}, which has none, got {config.weight_decay:g}"
        )
    alike = {name: _like(known.get(name), value) for name, value in given.items()}
    kept = {name: value for name, value in alike.items() if name not in known or _listed(known[name]) != value}
    return dataclasses.replace(config, optimizer_options=canonical_options(kept))


def takes_weight_decay(config: TrialConfig) -> bool:
    """Whether the optimizer has a weight decay at all."""
    if config.optimizer in LINE_SEARCH_OPTIMIZERS:
        return False
    if config.layer_adaptation or not is_import_path(config.optimizer):
        return config.optimizer != "rprop"
    parameters = inspect.signature(class_of(config.optimizer)).parameters.values()
    return any(parameter.name == "weight_decay" for parameter in parameters)


def as_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a class takes them: tuples in place of JSON's lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


@functools.cache
def options_of(name: str, layer_adaptation: bool = False) -> dict[str, Any]:
    """The options of an optimizer with their defaults; `...` as a key where it takes any."""
    if name in FULL_BATCH_OPTIMIZERS:
        return {}
    if layer_adaptation:
        return _signature(LAMB if name == "adam" else LARS)
    if name != "muon":
        return _signature(class_of(name))
    second = {OF_ADAMW + option: default for option, default in _signature(torch.optim.AdamW).items()}
    return {**_signature(torch.optim.Muon), **second, ADAMW_RATIO: None}


def _signature(own: Callable[..., Any]) -> dict[str, Any]:
    left_out = CHOSEN_HERE | set(OPTIONS_OF_THEIR_OWN)
    parameters = inspect.signature(own).parameters.values()
    found = {p.name: p.default for p in parameters if p.name not in left_out and p.kind is not p.VAR_POSITIONAL}
    return {"..." if p.kind is p.VAR_KEYWORD else p.name: found[p.name] for p in parameters if p.name in found}


def check_option(
    config: TrialConfig, known: Mapping[str, Any], name: str, value: Any, argument: str = "optimizer"
) -> None:
    if name not in known:
        if "..." in known:
            return
        names = ", ".join(known) or "none"
        close = difflib.get_close_matches(name, known, n=1)
        way_out = f"did you mean {close[0]}?" if close else f"its options are {names}"
        raise UserError(f"`{argument}`: {config.optimizer} has no option {name}; {way_out}")
    if (rule := _rule(known[name])) is not None and not rule[1](value):
        shown = ",".join(map(str, value)) if isinstance(value, list) else value
        raise UserError(f"`{argument}`: {name} of {config.optimizer} must be {rule[0]}, got {shown}")
    if name == ADAMW_RATIO and not (_is_number(value) and value > 0):
        raise UserError(f"`{argument}`: {name} of {config.optimizer} must be a number above 0, got {value}")


def _rule(default: Any) -> tuple[str, Callable[[Any], bool]] | None:
    """What a value must be to stand in for `default`; None where that does not tell."""
    if isinstance(default, bool):
        return "true or false", lambda value: isinstance(value, bool)
    if isinstance(default, int | float):
        return "a number", _is_number
    if isinstance(default, tuple) and all(_is_number(one) for one in default):
        return (
            f"{len(default)} numbers joined by commas",
            lambda value: isinstance(value, list) and len(value) == len(default) and all(map(_is_number, value)),
        )
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _like(default: Any, value: Any) -> Any:
    """`value` as a number of the kind that `default` is, so that 1 and 1.0 are one option and one trial."""
    if isinstance(default, tuple) and isinstance(value, list):
        return [_like(one, other) for one, other in zip(default, value, strict=True)]
    if isinstance(default, bool) or not _is_number(default) or not _is_number(value):
        return value
    return float(value) if isinstance(default, float) or not float(value).is_integer() else int(value)


def _listed(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default
