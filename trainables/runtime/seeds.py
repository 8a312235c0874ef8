"""Independent random streams from one seed.

Each use of randomness (initial weights, the order of the examples in an epoch, dropout masks, a data split)
draws from a stream of its own, named by its purpose. So a stream does not depend on how much another one was
used, and a run that goes on from epoch 7 needs no saved generator state: the streams of epoch 7 are derived
again. One that goes on within an epoch needs `random_states`.
"""

from __future__ import annotations

import contextlib
import random
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed for `purpose` (and `index`, such as the epoch), by NumPy's SeedSequence.

    Raises ValueError for a negative `seed` or `index`.
    """
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), index]).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator at the start of the stream named by `purpose` and `index`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, purpose, index))


@contextlib.contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and PyTorch in the block, and restore them afterwards.

    For a user's own code, which may draw from any of them, or seed them itself. PyTorch's is seeded if PyTorch has been
    imported, so this costs nobody its half a GiB.
    """
    torch = sys.modules.get("torch")
    numpy = np.random.get_state()  # noqa: NPY002, users' code draws from the old generator
    before = random.getstate(), torch.get_rng_state() if torch else None
    seed_all(derive_seed(seed, purpose))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(numpy)  # noqa: NPY002
        if torch:
            torch.set_rng_state(before[1])


def seed_all(seed: int, device: torch.device | None = None) -> None:
    """Seed the global generators of Python, NumPy and, if it has been imported, PyTorch, on the CPU and on `device`.

    Not by `torch.manual_seed`, which records a traceback at each call.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(seed)
        if device is not None and device.type == "cuda":
            torch.cuda.manual_seed(seed)


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of the global generators of Python, NumPy and PyTorch (CPU and `device`), as tensors and numbers."""
    import torch

    kind, keys, *numpy = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *numpy],
        "cpu": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Puts back what `random_states` returned."""
    import torch

    random.setstate(states["python"])
    kind, keys, *numpy = states["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *numpy))  # noqa: NPY002
    torch.set_rng_state(states["cpu"].cpu())
    if states["device"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["device"].cpu(), device)


def preserve_rng(device: torch.device) -> AbstractContextManager[None]:
    """Inside, random numbers may be drawn; afterwards PyTorch's generators of the CPU and `device` are as before."""
    import torch

    return torch.random.fork_rng([device] if device.type == "cuda" else [])
