"""What a row of trials.parquet says of where it comes from: which trial, on which machine, with which versions."""

import datetime
import platform
from typing import Any

import numpy as np
import torch

from trainables.config import NUMBERS_VERSION, TrialConfig


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
