"""What a sweep must know of a user's own network before its trials have their IDs."""

import json
import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trainables.data import Source
from trainables.runtime import own_process
from trainables.runtime.errors import UserError
from trainables.runtime.importing import is_import_path
from trainables.tasks.names import TASKS

# Functions that are called in other processes: they bring PyTorch, which the driver does without.
OF_NETWORK = "trainables.models.fingerprints:facts_of_network"
OF_SOURCE = {
    "task": "trainables.tasks.by_name:fingerprint_of_task",
    "decay": "trainables.training.schedule:fingerprint_of_decay",
}


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
    _require_ids_of_weights(model, options, source)
    text = json.dumps(options, sort_keys=True)
    about = source.task, source.labels.shape[1:]
    return _fingerprint(model, text, source.input_shape, source.num_classes, source.of_tokens, *about, timeout)


def _require_ids_of_weights(model: str, options: dict[str, Any], source: Source) -> None:
    """Raises UserError where weights would be given token ids of another tokenizer than their own."""
    if not model.startswith("hf:") or not options.get("weights") or source.origin is None:
        return
    level = source.origin.options.get("level", "char")
    if source.name == "pairs" or (source.name == "text" and level != "bpe"):
        reads = "numbers its own tokens" if source.name == "pairs" else f"has the token ids of level={level}"
        raise UserError(
            f"`weights` cannot be used with --dataset {source.name}, which {reads}, because they belong to the model's "
            "own tokens; use --dataset text with level=bpe tokenizer=FOLDER/tokenizer.json"
        )


@lru_cache
def fingerprint_of_source(path: str, argument: str) -> str:
    """Return the fingerprint of the source of what is at `path`, the user's own task, trial, optimizer or decay.

    Raises UserError where it cannot be imported, is no task or decay, or ends its process.
    """
    who = f"`{argument}` {path}"
    if argument in OF_SOURCE:
        return str(own_process.call(OF_SOURCE[argument], path, who=who))
    return str(own_process.call("trainables.runtime.sources:source_fingerprint", path, argument, who=who))


def fingerprint_of_trial(trial: str | None) -> str | None:
    """Return the fingerprint of the source of a training step of the user's own; None without one."""
    return None if trial is None else fingerprint_of_source(trial, "trial")


def fingerprint_of_task(task: str) -> str | None:
    """Return the fingerprint of the source of a `task` of the user's own; None for a built-in one."""
    return None if task in TASKS else fingerprint_of_source(task, "task")


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
    about = input_shape, num_classes, of_tokens, task, label_shape, timeout
    found = own_process.call(OF_NETWORK, model, options, *about, who=f"`model` {model}")
    network = SimpleNamespace(**found)  # a trainables.models.fingerprints.Network
    if not network.is_reproducible:
        _warn(
            f"{model} gives other initial weights each time it is built with the same seed, so trials cannot be "
            "repeated; draw them from the global generators of torch, NumPy or random, which are seeded"
        )
    elif network.ignores_seed:
        way_out = "" if network.is_of_library else "remove the seeding from its code, or "
        _warn(
            f"{model} gives the same initial weights for every seed, so trials that differ only in their seed are not "
            f"counted as replicates; {way_out}use several --split-seeds"
        )
    if network.frozen:
        _warn(
            f"{network.frozen:,} of the {network.parameters:,} parameters of {model} are frozen (requires_grad is "
            "False): they are neither trained nor part of any measure"
        )
    return str(network.fingerprint)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
