"""Datasets by name, or by import path: `load_source` reads one, `load_dataset` reads and splits it.

A dataset of your own is a function `build(**options) -> (train_inputs, train_labels, test_inputs, test_labels)`, arrays
or tensors, given as `package.module:build`; the test pair may be None, then the split is drawn from the one pool.
Integer inputs (N, T) with labels (N, T) are tokens and stay int64; all other inputs become float32. Labels are integers
from 0 to K - 1, one for each example, as (N,) or (N, 1), or token, of which -100 marks padding.

A fifth value may name the task (trainables.tasks): "regression" with labels (N,) or (N, D), "multilabel" with 0 or 1
for each class, (N, K), "binary" with 0 or 1, (N,), or `package.module:Class` with labels of any shape.

It may return a stream instead, whose examples are made one after another: see trainables.data.streams.

A dataset's options (`context` of text, `inputs` of timit) change what is read, and so its fingerprint: a trial's
configuration needs no other trace of them.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.array_files import read_arrays
from trainables.data.arrow import read_arrow
from trainables.data.cache import cache_in
from trainables.data.dataset import Dataset
from trainables.data.image_files import read_image_folder
from trainables.data.mapped import Origin
from trainables.data.noisy_quadratic import read_noisy_quadratic
from trainables.data.own_arrays import as_type, real_numbers, require_variation
from trainables.data.pairs import read_pairs
from trainables.data.parquet import read_parquet
from trainables.data.rows import Scaling, require_exact
from trainables.data.source import Source
from trainables.data.speech import read_timit
from trainables.data.standard import read_cifar10, read_cifar100, read_digits, read_mnist
from trainables.data.streams import is_stream, stream_source
from trainables.data.text import read_text
from trainables.data.token_files import read_tokens
from trainables.runtime.errors import UserError, did_you_mean, quoted
from trainables.runtime.importing import is_import_path, load_callable
from trainables.runtime.options import check_options
from trainables.runtime.process_end import told_if_ended
from trainables.runtime.seeds import seeded
from trainables.tasks.names import OF_CLASS_NUMBERS, PADDED, TASKS

__all__ = ["DATASETS", "Dataset", "Source", "is_drawn_anew", "load_dataset", "load_source"]

SECOND_CALL_SECONDS = 10.0  # a function that takes longer is not called a second time

DATASETS: dict[str, Callable[..., Source]] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "timit": read_timit,
    "text": read_text,
    "pairs": read_pairs,
    "parquet": read_parquet,
    "image_folder": read_image_folder,
    "arrow": read_arrow,
    "arrays": read_arrays,
    "tokens": read_tokens,
    "noisy_quadratic": read_noisy_quadratic,
}


def load_source(
    name: str,
    *,
    root: str | Path = "data",
    download: bool = False,
    options: Mapping[str, Any] | None = None,
    task: str | None = None,
    cache_dir: Path | None = None,
    is_whole_needed: bool = True,
) -> Source:
    """Reads the dataset `name` (one of DATASETS, or `package.module:function`) from the folder or file `root`.

    `task` is what the labels are read for; None is the dataset's own. What is decoded or found out is kept in
    `cache_dir` (trainables.data.cache). Without `is_whole_needed` images are decoded when a split asks for them, and
    one that cannot be decoded raises its error then.

    Raises UserError for an unknown name or option, and for files that are missing, truncated or of another layout.
    """
    options = dict(options or {})
    if task is not None and task not in TASKS and not is_import_path(task):
        near = did_you_mean(task, TASKS)
        raise UserError(f"`task` must be one of {', '.join(TASKS)} or `package.module:Class`, got {task!r}{near}")
    with cache_in(cache_dir):
        if is_import_path(name):
            source = _from_function(name, options, task)
        elif name not in DATASETS:
            allowed = f"{', '.join(DATASETS)} or `package.module:function`"
            raise UserError(f"`dataset` must be one of {allowed}, got {name!r}{did_you_mean(name, DATASETS)}")
        else:
            check_options("dataset-options", name, DATASETS[name], options, after=2)
            source = DATASETS[name](Path(root), download, **options)
            if task not in (None, source.task):
                known = vars(source).get("fingerprint")  # of the data, so the same for every task
                source = dataclasses.replace(source, task=task, own_task=source.dataset_task)
                if known is not None:
                    vars(source)["fingerprint"] = known
    origin = Origin(name, str(Path(root).absolute()), options, task, cache_dir and cache_dir.absolute())
    vars(source)["origin"] = origin
    if source.decoded is not None:
        source.decoded.origin = origin
        if is_whole_needed:
            source.decoded.ensure([None, None])
    return source


def load_dataset(
    name: str,
    *,
    root: str | Path = "data",
    download: bool = False,
    options: Mapping[str, Any] | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    split_seed: int = 0,
    validation_size: int = 0,
    cache_dir: Path | None = None,
) -> Dataset:
    """One split of the dataset `name`: all of it, or as many examples as asked, drawn by `split_seed`."""
    place = {"root": root, "download": download, "options": options, "cache_dir": cache_dir}
    source = load_source(name, **place, is_whole_needed=False)  # type: ignore[arg-type]
    sizes = source.sizes(train_size, test_size, validation_size)
    return source.split(*sizes, split_seed, validation_size)


def _from_function(name: str, options: dict[str, Any], task: str | None) -> Source:
    build = load_callable(name, "dataset")
    check_options("dataset-options", name, build, options, after=0)
    try:
        started = time.monotonic()
        with seeded(0, "dataset"), told_if_ended(f"`dataset` {name} has ended the process that called it"):
            parts = build(**options)
        seconds = time.monotonic() - started
        if is_stream(parts):
            return _timed(stream_source(name, parts, task), seconds)
        if any(isinstance(part, Mapping) for part in parts):
            raise UserError(f"`dataset` {name} must return one array of inputs, got a dictionary; join its arrays")
        *arrays, declared = parts if len(parts) == 5 else (*parts, None)
        train_inputs, train_labels, test_inputs, test_labels = (
            None if part is None else real_numbers(name, what, part)
            for what, part in zip(("inputs", "labels") * 2, arrays, strict=True)
        )
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:  # a user's code may raise any
        raise UserError(
            f"`dataset` {name} must return (train_inputs, train_labels, test_inputs, test_labels), "
            f"got {type(error).__name__}: {quoted(error)}"
        ) from error
    if train_inputs is None or train_labels is None:
        raise UserError(f"`dataset` {name} must return training inputs and labels, got None")
    if (test_inputs is None) != (test_labels is None):
        missing = "inputs" if test_inputs is None else "labels"
        raise UserError(f"`dataset` {name} must return test inputs and test labels, or None for both, got no {missing}")
    parts = train_inputs, train_labels, test_inputs, test_labels
    for what, part in zip(("inputs", "labels") * 2, parts, strict=True):
        if part is not None and part.ndim == 0:
            raise UserError(f"`dataset` {name} must return {what} for each example, got the single number {part}")
    if declared is not None and not (declared in TASKS or (isinstance(declared, str) and is_import_path(declared))):
        raise UserError(
            f"`dataset` {name} must return a task as its fifth value, one of {', '.join(TASKS)} or "
            f"`package.module:Class`, got {declared!r}"
        )
    used = task or declared
    label_parts = [train_labels] if test_labels is None else [train_labels, test_labels]
    input_parts = [train_inputs] if test_inputs is None else [train_inputs, test_inputs]
    of_classes = used is None or used in OF_CLASS_NUMBERS
    for labels in label_parts:
        if of_classes and not np.issubdtype(labels.dtype, np.integer):
            raise UserError(
                f"`dataset` {name} must return integer labels, class numbers from 0, (N,) or (N, T) for tokens, "
                f"got {labels.dtype} of shape {labels.shape}; --task regression, multilabel or binary takes others"
            )
    if of_classes:
        train_labels, test_labels = _flat(train_inputs, train_labels), _flat(test_inputs, test_labels)
    are_integers = all(np.issubdtype(inputs.dtype, np.integer) for inputs in input_parts)
    is_tokens = train_labels.ndim == 2 and are_integers and (of_classes or train_labels.shape == train_inputs.shape)

    are_mapped = all(
        isinstance(inputs, np.memmap) and inputs.dtype.kind in "uif" and inputs.dtype.isnative for inputs in input_parts
    )

    require_variation(name, "inputs", train_inputs)
    require_variation(name, "labels", train_labels)

    def kept(inputs: NDArray[Any]) -> NDArray[Any]:
        if are_mapped:
            return inputs
        if not is_tokens:
            require_exact(name, inputs)
        return as_type(np.int64 if is_tokens else np.float32, inputs)

    def kept_labels(labels: NDArray[Any]) -> NDArray[Any]:
        is_class = np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool
        return as_type(np.int64 if is_class and used != "multilabel" else np.float32, labels)

    own = declared or ("language" if is_tokens and train_labels.shape == train_inputs.shape else TASKS[0])
    source = Source(
        name,
        kept(train_inputs),
        kept_labels(train_labels),
        None if test_inputs is None else kept(test_inputs),
        None if test_labels is None else kept_labels(test_labels),
        num_classes=_classes(label_parts + (input_parts if is_tokens else [])),
        scaling=Scaling() if are_mapped and not is_tokens else None,
        task=used or own,
        own_task=own,
    )
    return _timed(source, seconds)


def _timed(source: Source, seconds: float) -> Source:
    vars(source)["seconds"] = seconds
    return source


def is_drawn_anew(source: Source) -> bool:
    """Whether a function of the user's own returns other data at its next call; False where it takes too long."""
    if not is_import_path(source.name) or vars(source).get("seconds", 0.0) > SECOND_CALL_SECONDS:
        return False
    assert source.origin is not None
    again = load_source(source.name, options=source.origin.options, task=source.origin.task)
    return again.fingerprint != source.fingerprint


def _classes(arrays: list[NDArray[Any]]) -> int:
    """One more than the largest class number; of other labels, how many an example has."""
    labels = arrays[0]
    if not np.issubdtype(labels.dtype, np.integer) or any(array.min(initial=0) < PADDED for array in arrays):
        return int(np.prod(labels.shape[1:], dtype=np.int64))
    return 1 + max(int(ids.max(initial=0)) for ids in arrays)


def _flat(inputs: NDArray[Any] | None, labels: NDArray[Any] | None) -> Any:
    """The labels (N,), also where they come as a column (N, 1), as Keras has them; labels of tokens as they are."""
    if inputs is None or labels is None or labels.ndim != 2 or labels.shape[1] != 1:
        return labels
    is_token = inputs.shape == labels.shape and np.issubdtype(inputs.dtype, np.integer)
    return labels if is_token else labels[:, 0]
