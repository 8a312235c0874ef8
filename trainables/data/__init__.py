"""Datasets by name, or by import path: `load_source` reads one, `load_dataset` reads and splits it.

A dataset of your own is a function `build() -> (train_inputs, train_labels, test_inputs, test_labels)`, arrays
or tensors, given as `package.module:build`; the test pair may be None, then the split is drawn from the one pool.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainables.data.dataset import Dataset, Source
from trainables.data.image_files import read_image_folder, read_parquet
from trainables.data.standard import read_cifar10, read_digits, read_mnist
from trainables.errors import UserError
from trainables.importing import is_import_path, load_callable

__all__ = ["DATASETS", "Dataset", "Source", "load_dataset", "load_source"]

DATASETS: dict[str, Callable[[Path, bool], Source]] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "cifar10": read_cifar10,
    "parquet": read_parquet,
    "image_folder": read_image_folder,
}


def load_source(name: str, *, root: str | Path = "data", download: bool = False) -> Source:
    """Reads the dataset `name` (one of DATASETS, or `package.module:function`) from the folder `root`.

    Raises UserError for an unknown name, and for files that are missing, truncated or of another layout.
    """
    if is_import_path(name):
        return _from_function(name)
    if name not in DATASETS:
        raise UserError(f"`dataset` must be one of {', '.join(DATASETS)} or `package.module:function`, got {name!r}")
    return DATASETS[name](Path(root), download)


def load_dataset(
    name: str,
    *,
    root: str | Path = "data",
    download: bool = False,
    train_size: int | None = None,
    test_size: int | None = None,
    split_seed: int = 0,
) -> Dataset:
    """One split of the dataset `name`: all of it, or as many examples as asked, drawn by `split_seed`."""
    source = load_source(name, root=root, download=download)
    return source.split(*source.sizes(train_size, test_size), split_seed)


def _from_function(name: str) -> Source:
    try:
        parts = load_callable(name, "dataset")()
        train_inputs, train_labels, test_inputs, test_labels = (
            None if part is None else np.asarray(part) for part in parts
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"`dataset` {name} must return (train_inputs, train_labels, test_inputs, test_labels), "
            f"got {type(error).__name__}: {error}"
        ) from error
    if train_inputs is None or train_labels is None:
        raise UserError(f"`dataset` {name} must return training inputs and labels, got None")
    label_parts = [train_labels] if test_labels is None else [train_labels, test_labels]
    if not all(np.issubdtype(labels.dtype, np.integer) for labels in label_parts):
        raise UserError(f"`dataset` {name} must return integer labels, got {label_parts[0].dtype}")
    return Source(
        name,
        train_inputs.astype(np.float32),
        train_labels.astype(np.int64),
        None if test_inputs is None else test_inputs.astype(np.float32),
        None if test_labels is None else test_labels.astype(np.int64),
        num_classes=1 + max(int(labels.max(initial=0)) for labels in label_parts),
    )
