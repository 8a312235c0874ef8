"""The axes of a plan in words: how many values of what make how many trials."""

import math
from collections.abc import Sequence
from typing import Any

from trainables.config import TrialConfig
from trainables.remedies import remedy_of


def axes_line(configs: Sequence[TrialConfig]) -> str:
    """Such as `5 batch sizes x 2 learning rates x 4 seeds -> 40 distinct trials`; axes of one value are left out.

    Trials that mean the same are one trial, so there may be fewer than the product.
    """
    has_splits = any(config.split_seed not in (None, config.seed) for config in configs)
    remedies = [remedy_of(vars(config)) for config in configs]
    axes: dict[str, set[Any]] = {
        "network": {(config.model, config.model_options) for config in configs},
        "optimizer": {(config.optimizer, config.optimizer_options) for config in configs},
        "batch size": {config.batch_size for config in configs},
        "learning rate": {config.learning_rate for config in configs},
        "warmup": {(config.warmup_epochs, config.warmup_steps) for config in configs},
        "switch": {config.switch_epoch for config in configs},
        "remedy": set(remedies),
        "seed": {config.seed for config in configs},
        "data split": {config.split_seed for config in configs} if has_splits else set(),
    }
    parts = [f"{len(values)} {_plural(name)}" for name, values in axes.items() if len(values) > 1]
    trials = f"{len(configs)} distinct trial{'s' * (len(configs) != 1)}"
    product = math.prod(len(values) or 1 for values in axes.values())
    return f"{' x '.join(parts)} -> {trials}" if parts and product >= len(configs) else trials


def _plural(name: str) -> str:
    if name == "remedy":
        return "remedies"
    return f"{name}es" if name.endswith("ch") else f"{name}s"
