"""Fingerprints of a user's own network: of the code that builds it, and of the network that is built.

A trial's ID must change whenever the network changes, or an old result is reported for a new network. Source code alone
does not tell: a file of settings or of weights may have been edited. Weights alone do not tell either: they are the
same for another activation. So `network_fingerprint` hashes both.

First-party code is what the user may edit: every imported module that lies neither in the standard library, nor in
site-packages, nor in this project, whose own changes are in NUMBERS_VERSION. Imports are read from the source, also
those inside functions. Where modules are imported by a computed name, all modules of the same package count.

Trap: initial weights may differ in their last bits between processors. `weights_digest` therefore hashes rounded
statistics of each tensor, so that a trial has the same ID on every machine.
"""

import ast
import hashlib
import importlib.util
import math
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.models import build_model
from trainables.models.libraries import library_source
from trainables.runtime.importing import load_callable
from trainables.runtime.seeds import derive_seed, seeded
from trainables.tasks.by_name import load_task

PROJECT = tuple(Path(__file__).resolve().parents[2] / name for name in ("trainables", "sweeps", "analysis"))
LIBRARIES = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
COMPUTED_IMPORTS = ("import_module", "__import__")
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

    (structure, first), (_, again), (_, other) = built(0), built(0), built(1)
    library = library_source(path)
    parts = [library or source_fingerprint(path, "model"), structure, first if first == again else ""]
    fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Network(
        fingerprint, ignores_seed=first == other, is_reproducible=first == again, parameters=counts[0], frozen=counts[1]
    )


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
        length, projection = float(np.linalg.norm(flat)), float(flat @ (2.0 * bits - 1))
        if length > 0 and math.isfinite(length):
            digest.update(f"{length:.{DIGITS - 1}e} {round(projection / length, DIRECTION_DIGITS) + 0.0}".encode())
        else:
            digest.update(str(length).encode())
    return digest.hexdigest()[:16]


def source_fingerprint(path: str, argument: str) -> str:
    """Hash the module of `path` and all first-party modules that it imports, by name and contents."""
    load_callable(path, argument)
    digest = hashlib.sha256()
    for name, file in sorted(_first_party(path.partition(":")[0]).items()):
        contents = file.read_bytes() if file.is_file() else b""
        digest.update(f"{name} {len(contents)}\n".encode() + contents)
    return digest.hexdigest()[:16]


def _first_party(module: str) -> dict[str, Path]:
    """The files of `module` and of the first-party modules that it imports, directly or not."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = None if name in found else _file_of(name)
        if file is None or not (name == module or _is_first_party(file)):
            continue
        found[name] = file
        waiting += [name.rpartition(".")[0]] if "." in name else []
        if file.suffix == ".py" and _is_first_party(file):
            waiting += _imports(name, file)
    return found


def _file_of(module: str) -> Path | None:
    try:
        loaded = sys.modules.get(module)
        spec = importlib.util.find_spec(module) if loaded is None else loaded.__spec__
        origin = getattr(loaded, "__file__", None) or (spec.origin if spec and spec.has_location else None)
    except (ImportError, AttributeError, ValueError):  # no module: a function, or an import that is never reached
        return None
    return Path(origin).resolve() if origin else None


def _is_first_party(file: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(file.parts):
        return False
    return not any(folder in file.parents for folder in (*PROJECT, *LIBRARIES))


def _imports(module: str, file: Path) -> Iterator[str]:
    """The names of all modules that the source of `module` may import; some of them are functions or classes."""
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif getattr(node, "attr", None) in COMPUTED_IMPORTS or getattr(node, "id", None) in COMPUTED_IMPORTS:
            yield from (f"{package}.{own.stem}" if package else own.stem for own in file.parent.glob("*.py"))
