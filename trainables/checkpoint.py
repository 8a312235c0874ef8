"""A trial's checkpoint: one file under its key, replaced in one step, loaded without executing anything."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from trainables.tables import write_atomically


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors, numbers, text, and lists and dicts of them) to `path`, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote, or None where there is no readable checkpoint: the trial then starts afresh."""
    try:
        return torch.load(path, map_location=device, weights_only=True)  # type: ignore[no-any-return]
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
