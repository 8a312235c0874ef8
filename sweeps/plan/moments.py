"""Momentum and betas, the coefficients of an optimizer's running averages, set by name where it has them.

momentum   of sgd, and the option of that name of any other optimizer
beta1      the first of the option `betas` of Adam and its relatives, that of the gradient
beta2      the second, that of its square
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from sweeps.plan.grid import Grid
from trainables.optimizer_settings import MOMENTS
from trainables.runtime.errors import UserError

BETAS = MOMENTS[1:]


def with_moments(grid: Grid, values: Mapping[str, float]) -> Grid:
    """`grid` with those of MOMENTS that are in `values` set for its one optimizer.

    Raises UserError where the optimizer has none of this name, or another option sets it as well.
    """
    values = {name: value for name, value in values.items() if name in MOMENTS}
    if not values:
        return grid
    ((optimizer, given),) = grid.optimizers
    options = dict(given)
    known = _options_of(optimizer)
    _require(optimizer, values, options, known, grid.momentum)
    if optimizer == "sgd":
        return dataclasses.replace(grid, momentum=values["momentum"])
    for name, value in values.items():
        if name in known:
            options[name] = value
        else:
            betas = list(options.get("betas", known["betas"]))
            betas[BETAS.index(name)] = value
            options["betas"] = betas
    return dataclasses.replace(grid, optimizers=[(optimizer, options)])


def _options_of(optimizer: str) -> Mapping[str, Any]:
    """The options of an optimizer with their defaults."""
    if optimizer == "sgd":
        return {"momentum": None}
    from trainables.training.optimizers.options import options_of  # brings PyTorch

    return options_of(optimizer)


def _require(
    optimizer: str, searched: Iterable[str], given: Mapping[str, Any], known: Mapping[str, Any], momentum: float | None
) -> None:
    betas = known.get("betas")
    has_betas = isinstance(betas, tuple) and len(betas) >= len(BETAS)
    own = [name for name in MOMENTS if name in known or (name in BETAS and has_betas)]
    for name in searched:
        if name not in own:
            others = f"; it has {' and '.join(own)}" if own else ""
            raise UserError(f"`{name}` cannot be searched for {optimizer}, which has no {name}{others}")
        also = [option for option in (name, "betas" if name in BETAS else name) if option in given]
        if name == "momentum" and optimizer == "sgd" and momentum is not None:
            also = ["momentum"]
        if also:
            raise UserError(
                f"`{name}` has a range and {also[0]}; leave out one of them (a range of one value fixes it too)"
            )
