"""A finished trial brought back from its results folder: its configuration, its data, its network, its final weights.

The row in trials.parquet names the dataset but not where its files are, so `root` (`--data-dir`) is asked for again;
the contents are compared with the fingerprint that the trial was trained on, and so is the source of a network of the
user's own. Weights load without executing anything.
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.data import Dataset, Source, load_source
from trainables.models.of_config import build
from trainables.records.tables import Row
from trainables.runtime import own_process
from trainables.runtime.errors import UserError
from trainables.runtime.importing import is_import_path
from trainables.runtime.seeds import seeded
from trainables.storage.checkpoint import load_checkpoint
from trainables.storage.folders import AnyPath

State = dict[str, Tensor]
FACTS = "trainables.models.fingerprints:facts_of_network"
WITH_OPTIONS = ("text", "pairs", "timit", "parquet", "image_folder", "arrow", "arrays", "tokens")


def config_of(row: Row) -> TrialConfig:
    """The configuration in a row of trials.parquet (`read_tables(folder).trials.to_pylist()`, null as None)."""
    fields = {field.name: row[field.name] for field in dataclasses.fields(TrialConfig)}
    own = None if row["task"] == row.get("dataset_task", row["task"]) else row["task"]
    return TrialConfig(**fields | {"task": own})


def source_of(config: TrialConfig, *, root: str | Path = "data", options: Mapping[str, Any] | None = None) -> Source:
    """Everything that the trial's dataset holds. Raises UserError where that is not what the trial was trained on."""
    source = load_source(config.dataset, root=root, options=options, task=config.task, is_whole_needed=False)
    if not source.has_fingerprint(config.data_fingerprint):
        also = " and --dataset-options must be those of the sweep" if options or config.dataset in WITH_OPTIONS else ""
        raise UserError(
            f"`data-dir` must hold the data that the trial was trained on, got other contents in {root}{also}"
        )
    return source


def split_of(config: TrialConfig, source: Source) -> Dataset:
    """The split that the trial was trained and tested on."""
    return source.split(config.train_size, config.test_size, config.split_seed, config.validation_size or 0)


def network_of(config: TrialConfig, data: Dataset) -> nn.Module:
    """The trial's network, with weights that are yet to be loaded.

    Raises UserError where the source of a network of the user's own is not the trial's any more.
    """
    if is_import_path(config.model):
        about = data.num_classes, data.input_dtype, config.task or data.task, tuple(data.train_labels.shape[1:])
        now = _fingerprint(config.model, config.model_options, data.input_shape, *about)
        if now != config.model_fingerprint:
            raise UserError(
                f"`model` {config.model} must be as it was when the trial was trained, got other code or weights"
            )
    with seeded(config.seed, "weights"):
        return build(config, data)


@lru_cache  # of a process, which imports a module once
def _fingerprint(
    model: str,
    options: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    input_dtype: torch.dtype,
    task: str,
    label_shape: tuple[int, ...],
) -> str | None:
    """The fingerprint of a network of the user's own as it is now; None if it cannot be built."""
    try:
        about = input_shape, num_classes, not input_dtype.is_floating_point, task, label_shape
        facts = own_process.call(FACTS, model, options, *about, None, who=f"`model` {model}")
    except UserError:
        return None
    return str(facts["fingerprint"])


def weights_of(folder: AnyPath, trial_id: str, device: torch.device) -> State:
    """The final weights and buffers, `folder`/weights/`trial_id`.pt. Raises UserError where they were not kept."""
    path = folder / "weights" / f"{trial_id}.pt"
    state = load_checkpoint(path, device)
    if state is None:
        raise UserError(
            f"`results` must hold the weights of trial {trial_id}, got no readable {path}; "
            "run the sweep with --keep-weights (in a new folder if its trials are done)"
        )
    return state
