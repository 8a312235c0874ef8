"""What a row of trials.parquet says of where it comes from: which trial, on which machine, with which versions."""

import datetime
import platform
from typing import Any

import numpy as np
import torch

from trainables.config import NUMBERS_VERSION, TrialConfig
from trainables.records.record_files import Record


def identity_of(config: TrialConfig) -> dict[str, Any]:
    """The trial's key and configuration, and the version of the code."""
    return {"trial_id": config.trial_id, "numbers_version": NUMBERS_VERSION, **vars(config.canonical())}


def place_of(device: torch.device) -> dict[str, Any]:
    """When and where a trial ended, and the versions of what it used."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": name,
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "python_version": platform.python_version(),
        "torch_version": torch.__version__,
        "numpy_version": np.__version__,
    }


def failed_record(config: TrialConfig, error: str, device: torch.device | None = None) -> Record:
    """The record of a trial that could not be finished, with the reason."""
    row = {"status": "failed", **identity_of(config), "flags": ["failed"], "error": error}
    return Record({**row, **place_of(device or torch.device("cpu"))}, [], [])
