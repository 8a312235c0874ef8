"""Fingerprints of a user's own network: of the code that builds it, and of the network that is built.

A trial's ID must change whenever the network changes, or an old result is reported for a new network. Source code alone
does not tell: a file of settings or of weights may have been edited. Weights alone do not tell either: they are the
same for another activation. So `network_fingerprint` hashes both.

Source code is that of all first-party modules (trainables.runtime.sources), also of those that only the import and the
build have loaded. `facts_of_network` finds it out in a process of its own.

Trap: initial weights may differ in their last bits between processors. `weights_digest` therefore hashes rounded
statistics of each tensor, so that a trial has the same ID on every machine.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.models import build_model
from trainables.models.libraries import library_of, library_source
from trainables.runtime.seeds import derive_seed, seeded
from trainables.runtime.sources import digest_of, recorded
from trainables.runtime.time_limit import time_limit
from trainables.tasks.by_name import load_task

DIGITS = 3  # of the length of a tensor
DIRECTION_DIGITS = 2  # decimals of its projection, which is of size 1
ADDRESS = re.compile("0x[0-9a-f]+")  # of an object, in the text of a module


@dataclass(frozen=True)
class Network:
    """What is known of a network before it is trained: its `fingerprint`, and how its initial weights come about."""

    fingerprint: str
    ignores_seed: bool  # two seeds give the same initial weights
    is_reproducible: bool  # one seed gives the same initial weights twice
    parameters: int
    frozen: int  # of them, that are not trained
    is_of_library: bool = False  # torchvision, timm or transformers


def network_fingerprint(
    path: str,
    options: dict[str, Any],
    input_shape: tuple[int, ...],
    num_classes: int,
    input_dtype: torch.dtype,
    task: str | None = None,
    label_shape: tuple[int, ...] = (),
) -> Network:
    """Build the network of `path` (`package.module:function`) three times, and hash its code, structure and weights.

    Weights that differ between two builds with one seed are left out of the fingerprint. Raises UserError as
    `trainables.models.build_model` does.
    """

    counts = 0, 0

    def built(seed: int) -> tuple[str, str]:
        nonlocal counts
        with seeded(seed, "weights"):
            model = build_model(
                path,
                input_shape,
                num_classes,
                input_dtype=input_dtype,
                task=None if task is None else load_task(task),
                label_shape=label_shape,
                **options,
            )
        counts = count_parameters(model)
        return ADDRESS.sub("", str(model)), weights_digest(model)

    with recorded() as ran:
        (structure, first), (_, again), (_, other) = built(0), built(0), built(1)
    source = library_source(path) or digest_of(path.partition(":")[0], ran)
    parts = [source, structure, first if first == again else ""]
    fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Network(
        fingerprint,
        ignores_seed=first == other,
        is_reproducible=first == again,
        parameters=counts[0],
        frozen=counts[1],
        is_of_library=library_of(path) is not None,
    )


def facts_of_network(
    path: str,
    options: str,
    input_shape: Iterable[int],
    num_classes: int,
    of_tokens: bool,
    task: str | None,
    label_shape: Iterable[int],
    timeout: float | None,
) -> dict[str, Any]:
    """The fields of `network_fingerprint`, for trainables.runtime.own_process; `options` are JSON.

    Raises UserError also where it takes more than `timeout` seconds.
    """
    kind = torch.int64 if of_tokens else torch.float32
    with time_limit(timeout, f"took more than the {timeout} s of --trial-timeout"):
        about = tuple(input_shape), num_classes, kind, task, tuple(label_shape)
        return asdict(network_fingerprint(path, json.loads(options), *about))


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """The numbers in all parameters of `model`, shared ones once, and of them in those that are frozen."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if not p.requires_grad)


def weights_digest(model: nn.Module) -> str:
    """Hash all parameters and buffers: names, shapes, types, lengths, and a projection of each on a random direction.

    The length has 3 significant digits, the projection w . x / |x| with random signs w has 2 decimals. A difference
    in the last bits of the weights changes one of them with a probability of about 1e-5 per tensor.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(str((name, tuple(tensor.shape), str(tensor.dtype))).encode())
        with torch.no_grad():
            values = tensor.detach().cpu()
            values = torch.view_as_real(values) if values.is_complex() else values
            flat = values.double().flatten().numpy()
        bits = np.random.Generator(np.random.PCG64(derive_seed(0, name))).integers(0, 2, flat.size, np.int8)
        with np.errstate(all="ignore"):  # weights may be infinite
            length, projection = float(np.linalg.norm(flat)), float(flat @ (2.0 * bits - 1))
        if length > 0 and math.isfinite(length):
            digest.update(f"{length:.{DIGITS - 1}e} {round(projection / length, DIRECTION_DIGITS) + 0.0}".encode())
        else:
            digest.update(str(length).encode())
    return digest.hexdigest()[:16]
