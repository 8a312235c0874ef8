"""What a sweep must know of a user's own network before its trials have their IDs."""

import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainables.data import Source
from trainables.runtime.importing import is_import_path
from trainables.runtime.time_limit import time_limit
from trainables.tasks.names import TASKS


def with_absolute_paths(model: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A library's `model` and its options, with the paths of its folder and weights absolute: a worker has another
    current folder than the sweep.
    """
    library, _, name = model.partition(":")
    if library == "hf":
        return f"hf:{Path(name).expanduser().absolute()}", options
    weights = options.get("weights")
    if name and library.partition(".")[0] in ("torchvision", "timm") and isinstance(weights, str):
        return model, {**options, "weights": str(Path(weights).expanduser().absolute())}
    return model, options


def fingerprint_of(model: str, options: dict[str, Any], source: Source, timeout: float | None) -> str | None:
    """Return the fingerprint of a user's own `model` on data like `source`; None for a built-in one.

    Prints a warning, once, if the initial weights do not follow from the seed. Raises UserError if the network cannot
    be built, or takes more than `timeout` seconds.
    """
    if not is_import_path(model):
        return None
    text = json.dumps(options, sort_keys=True)
    about = source.task, source.labels.shape[1:]
    return _fingerprint(model, text, source.input_shape, source.num_classes, source.of_tokens, *about, timeout)


@lru_cache
def fingerprint_of_trial(trial: str | None) -> str | None:
    """Return the fingerprint of the source of a training step of the user's own; None without one.

    Raises UserError where it cannot be imported.
    """
    if trial is None:
        return None
    from trainables.models.fingerprints import source_fingerprint
    from trainables.runtime.importing import load_callable

    load_callable(trial, "trial")
    return source_fingerprint(trial, "trial")


def fingerprint_of_task(task: str) -> str | None:
    """Return the fingerprint of the source of a `task` of the user's own; None for a built-in one.

    Raises UserError where it cannot be imported or is no task.
    """
    if task in TASKS:
        return None
    from trainables.models.fingerprints import source_fingerprint  # brings PyTorch
    from trainables.tasks.by_name import load_task

    load_task(task)
    return source_fingerprint(task, "task")


@lru_cache
def _fingerprint(
    model: str,
    options: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    of_tokens: bool,
    task: str,
    label_shape: tuple[int, ...],
    timeout: float | None,
) -> str:
    import torch  # the driver does without it for built-in networks

    from trainables.models.fingerprints import network_fingerprint
    from trainables.models.libraries import library_of

    input_dtype = torch.int64 if of_tokens else torch.float32
    with time_limit(timeout, f"took more than the {timeout} s of --trial-timeout"):
        about = input_shape, num_classes, input_dtype, task, label_shape
        network = network_fingerprint(model, json.loads(options), *about)
    if not network.is_reproducible:
        _warn(
            f"{model} gives other initial weights each time it is built with the same seed, so trials cannot be "
            "repeated; draw them from the global generators of torch, NumPy or random, which are seeded"
        )
    elif network.ignores_seed:
        way_out = "" if library_of(model) else "remove the seeding from its code, or "
        _warn(
            f"{model} gives the same initial weights for every seed, so trials that differ only in their seed are not "
            f"counted as replicates; {way_out}use several --split-seeds"
        )
    if network.frozen:
        _warn(
            f"{network.frozen:,} of the {network.parameters:,} parameters of {model} are frozen (requires_grad is "
            "False): they are neither trained nor part of any measure"
        )
    return network.fingerprint


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
