"""Memory-mapped NumPy arrays of inputs and labels, `{train,test}_{inputs,labels}.npy` in one folder.

Without the two test files training and test examples are drawn from the one pool. Inputs (N, ...) are of any real type,
images are (N, C, H, W). They are mapped and never copied whole; a batch of them becomes float32, as
(stored / divisor - mean) / std, with a divisor of 255 for uint8 and of 1 for others. Integer inputs (N, T) whose labels
are (N, T) are tokens. Labels are class numbers (N,), floats, (N,) or (N, D), of a regression, or integers (N, K), 0
or 1 for each class, of the task multilabel.

The files are read once, to check them and for their digest, and both are kept in the cache.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import Entry
from trainables.data.files import readable
from trainables.data.images import numbers
from trainables.data.own_arrays import as_type, require_variation
from trainables.data.rows import Scaling, chunks
from trainables.data.source import Source
from trainables.runtime.errors import UserError, quoted

LARGEST_DIVISOR = 2**32
NAMES = ("train_inputs", "train_labels", "test_inputs", "test_labels")
EXPECTED = "train_inputs.npy and train_labels.npy, and test_inputs.npy and test_labels.npy or neither"


def read_arrays(
    root: Path, download: bool, *, divisor: object = None, mean: object = None, std: object = None
) -> Source:
    """Inputs and labels as they are stored. Raises UserError for files that are missing, truncated or do not fit."""
    files = [root / f"{name}.npy" for name in NAMES]
    if not root.is_dir() or not all(file.exists() for file in files[:2]) or files[2].exists() != files[3].exists():
        found = ", ".join(file.name for file in files if file.exists()) or "none of them"
        raise UserError(f"`data-dir` must hold {EXPECTED}, got {found} in {root}")
    files = [file for file in files if file.exists()]
    inputs, labels, test_inputs, test_labels = [*map(_mapped, files), None, None][:4]
    assert inputs is not None
    assert labels is not None
    is_tokens = labels.shape == inputs.shape and inputs.ndim == 2 and np.issubdtype(inputs.dtype, np.integer)
    if divisor is None:
        divisor = 255 if inputs.dtype == np.uint8 else 1
    if type(divisor) is not int or not 1 <= divisor <= LARGEST_DIVISOR:
        raise UserError(f"`divisor` must be an integer from 1 to {LARGEST_DIVISOR}, got {quoted(divisor, 40)}")
    channels = inputs.shape[1] if inputs.ndim > 1 else 1
    mean, std = (
        None if given is None else numbers(name, given, channels) for name, given in (("mean", mean), ("std", std))
    )
    scaling = None if is_tokens else Scaling(divisor, mean, std)
    is_integer = np.issubdtype(labels.dtype, np.integer)
    is_marked = is_integer and not is_tokens and labels.ndim == 2 and labels.shape[1] > 1
    is_class = is_integer and not is_marked
    entry = Entry.of("arrays", root, files, {"tokens": is_tokens})
    facts = entry.facts() or {}
    if "digests" not in facts:
        require_variation("arrays", "inputs", inputs)
        require_variation("arrays", "labels", labels)
    if not is_tokens:
        kind = np.int64 if is_class else np.float32
        labels, test_labels = (None if part is None else as_type(kind, part) for part in (labels, test_labels))
    of_classes = [array for array in (labels, test_labels) if array is not None and is_class]
    of_tokens = [array for array in (inputs, test_inputs) if array is not None and is_tokens]
    classes = facts.get("classes") or 1 + max((_largest(array) for array in of_classes + of_tokens), default=0)
    assert labels is not None
    of_examples = "classification" if is_class else "multilabel" if is_marked else "regression"
    task = "language" if is_tokens else of_examples
    source = Source(
        "arrays",
        inputs,
        labels,
        test_inputs,
        test_labels,
        classes,
        scaling=scaling,
        task=task,
        is_checked="digests" in facts,
    )
    if "digests" not in facts:
        facts = {"digests": [_digest(array) for array in map(_mapped, files)], "classes": classes}
        with entry.locked():
            entry.keep(facts)
    named = f"{facts['digests']} {source.scaling} {source.task}"
    vars(source)["fingerprint"] = hashlib.sha256(named.encode()).hexdigest()[:16]
    return source


def _mapped(file: Path) -> NDArray[Any]:
    readable(file, EXPECTED)
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses a damaged header as Python
        raise UserError(f"`data-dir` must hold whole .npy files, got {file} ({quoted(error)})") from error
    if array.ndim == 0 or array.dtype.kind not in "uif" or array.dtype.itemsize > 8 or not array.dtype.isnative:
        raise UserError(f"`data-dir` must hold arrays of real numbers, got {array.dtype} {array.shape} in {file}")
    if not array.flags.c_contiguous:
        raise UserError(f"`data-dir` must hold arrays in C order, got Fortran order in {file}; np.ascontiguousarray")
    return array


def _largest(array: NDArray[Any]) -> int:
    return max((int(chunk.max(initial=0)) for chunk in chunks(array)), default=0)


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    for chunk in chunks(array):
        digest.update(np.ascontiguousarray(chunk).data)
    return digest.hexdigest()
