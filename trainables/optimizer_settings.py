"""How a configuration names an optimizer, its options and its groups of parameters; docs/optimizers.md explains them.

    optimizer          `adam`, a class of torch.optim in lower case, or `package.module:Class`
    optimizer_options  JSON of the options that differ from the class's defaults: {"betas": [0.9, 0.95]}
    parameter_groups   "head.*:lr=10x,weight_decay=0 *.bias:lr=2x": a pattern of names, then what differs there

Nothing here needs PyTorch. Whether a class has an option, and whether a pattern fits a network, is checked by
trainables.training.optimizers.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainables.runtime.errors import UserError, did_you_mean
from trainables.runtime.options import value_of

FULL_BATCH_OPTIMIZERS = ("gradient_descent", "lbfgs")  # with line searches, on the whole training set
PROGRESSIVE = "progressive_lbfgs"  # with a line search, on batches that grow
LINE_SEARCH_OPTIMIZERS = (*FULL_BATCH_OPTIMIZERS, PROGRESSIVE)
OPTIMIZERS = ("adam", "sgd", "adagrad", *LINE_SEARCH_OPTIMIZERS)  # the first one is the default
OF_TORCH = ("adadelta", "adafactor", "adamax", "adamw", "asgd", "muon", "nadam", "radam", "rmsprop", "rprop")
PARTS_OF_MUON = ("muon", "adamw")  # what updates a parameter; a group chooses by `optimizer=adamw`
MOMENTS = ("momentum", "beta1", "beta2")  # coefficients of running averages that a search can set by name
OPTIONS_OF_THEIR_OWN = {"lr": "--learning-rates", "weight_decay": "--weight-decay"}

OptimizerSetting = tuple[str, Mapping[str, Any]]  # a name, and the options that differ from its defaults


@dataclass(frozen=True)
class ParameterGroup:
    """The parameters whose names match `pattern` (of fnmatch), and the `options` that differ for them."""

    pattern: str
    options: Mapping[str, Any]


def require_optimizer(name: str) -> None:
    """Raises UserError for what is neither a name of an optimizer nor an import path."""
    known = (*OPTIMIZERS, *OF_TORCH)
    if name in known or ":" in name:  # an import path
        return
    if name == "sparseadam":
        raise UserError(
            "`optimizer` must take dense gradients, got sparseadam, which takes sparse ones alone; use adam"
        )
    raise UserError(
        f"`optimizer` must be one of {', '.join(known)}, or package.module:Class, got {name}{did_you_mean(name, known)}"
    )


def canonical_options(options: Mapping[str, Any]) -> str:
    """Options as the text kept in `TrialConfig.optimizer_options`."""
    return json.dumps(dict(options), sort_keys=True)


def read_options(text: str) -> dict[str, Any]:
    """The options in a text of `canonical_options`. Raises UserError for any other text."""
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise UserError(f'`optimizer_options` must be a JSON object, such as {{"eps": 1e-6}}, got {text}')
    return options


def options_label(text: str, shown: Callable[[float], str] = json.dumps) -> str:
    """The options for people: `betas=0.9,0.95 eps=1e-06`; floating-point numbers as `shown`, by default in full."""

    def value_text(value: object) -> str:
        if isinstance(value, list):
            return ",".join(value_text(one) for one in value)
        if isinstance(value, float):
            return shown(value)
        return value if isinstance(value, str) else json.dumps(value)

    return " ".join(f"{name}={value_text(value)}" for name, value in read_options(text).items())


@functools.lru_cache
def read_parameter_groups(text: str | None) -> tuple[ParameterGroup, ...]:
    """The groups of `PATTERN:KEY=VALUE,...` parts, separated by spaces. Raises UserError for what is none."""
    return tuple(_group(part) for part in (text or "").split())


def _group(text: str) -> ParameterGroup:
    pattern, colon, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in re.split(r",(?=[a-z_]+=)", rest):
        name, equals, value = part.partition("=")
        if not (pattern and colon and equals and name.isidentifier() and value) or name in options:
            raise UserError(
                f"`parameter_groups` must be PATTERN:KEY=VALUE,..., each key once, such as head.*:lr=10x, got {text}"
            )
        options[name] = value_of(value)
    for name in ("lr", "weight_decay"):
        if name in options and not _is_size(options[name], above_zero=name == "lr"):
            least = "above 0" if name == "lr" else "of 0 or more"
            raise UserError(
                f"`parameter_groups`: {name} must be a number {least}, or a multiple such as 10x, got {text}"
            )
    if options.get("optimizer", PARTS_OF_MUON[0]) not in PARTS_OF_MUON:
        raise UserError(f"`parameter_groups`: optimizer must be {' or '.join(PARTS_OF_MUON)}, got {text}")
    return ParameterGroup(pattern, options)


def resolved(value: float | str, base: float) -> float:
    """`value` where it is a number, or its multiple of `base` where it is a text such as 10x."""
    return base * float(value.removesuffix("x")) if isinstance(value, str) else float(value)


def _is_size(value: object, *, above_zero: bool) -> bool:
    if isinstance(value, str):
        try:
            value = float(value.removesuffix("x")) if value.endswith("x") else math.nan
        except ValueError:
            return False
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number and (value > 0 if above_zero else value >= 0)  # type: ignore[operator]
