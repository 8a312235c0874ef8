"""What a trial trains and tests on, as tensors in memory, and the shared arrays that it is drawn from.

A `Source` holds the arrays as they were read, once per node: NumPy, because Ray shares a NumPy array between
processes without a copy, and it is read only. A `Dataset` is one split of it. Inputs are float32 and scaled to
[0, 1] before sharing, so nobody has a reason to write to them; every batch is an indexed copy.
"""

import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.errors import UserError
from trainables.seeds import generator


@dataclass(frozen=True)
class Dataset:
    """Tensors of one split: inputs (N, ...) float32, labels (N,) int64 in [0, num_classes)."""

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train_inputs.shape[1:])

    def to(self, device: torch.device) -> "Dataset":
        """The same data on `device` (itself where it is there already)."""
        return Dataset(
            self.train_inputs.to(device),
            self.train_labels.to(device),
            self.test_inputs.to(device),
            self.test_labels.to(device),
            self.num_classes,
        )


@dataclass(frozen=True)
class Source:
    """Everything read from a dataset. `test_inputs` is None where it has no test set of its own (digits):
    then training and test examples are drawn from the same pool, by `split_seed`."""

    name: str
    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]
    test_inputs: NDArray[np.float32] | None
    test_labels: NDArray[np.int64] | None
    num_classes: int
    default_train_size: int | None = None

    def __post_init__(self) -> None:
        pairs = [("training", self.inputs, self.labels)]
        if self.test_inputs is not None and self.test_labels is not None:
            pairs.append(("test", self.test_inputs, self.test_labels))
            if self.test_inputs.shape[1:] != self.inputs.shape[1:]:
                raise UserError(
                    f"`dataset` {self.name} must have training and test inputs of one shape, "
                    f"got {self.inputs.shape[1:]} and {self.test_inputs.shape[1:]}"
                )
        for part, inputs, labels in pairs:
            if len(inputs) == 0:
                raise UserError(f"`dataset` {self.name} must hold {part} examples, got none")
            if labels.shape != (len(inputs),):
                raise UserError(
                    f"`dataset` {self.name} must have one label for each {part} input, "
                    f"got {len(inputs)} inputs and labels of shape {labels.shape}"
                )
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise UserError(
                    f"`dataset` {self.name} must have labels from 0 to {self.num_classes - 1}, "
                    f"got {labels.min()} to {labels.max()} in the {part} set"
                )
            if not np.isfinite(inputs).all():
                raise UserError(f"`dataset` {self.name} must have finite inputs, got NaN or infinity in the {part} set")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all arrays, with their shapes."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.labels, self.test_inputs, self.test_labels):
            if array is not None:
                digest.update(str((array.shape, array.dtype.str)).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def sizes(self, train_size: int | None, test_size: int | None) -> tuple[int, int]:
        """The numbers of training and test examples of a split; None takes all there are.

        Raises UserError where the source has too few examples.
        """
        if self.test_inputs is None:
            train = train_size or self.default_train_size or round(0.8 * len(self.inputs))
            _require_size("train_size", train, len(self.inputs) - 1)
            test = test_size or len(self.inputs) - train
            _require_size("test_size", test, len(self.inputs) - train)
        else:
            train = train_size or self.default_train_size or len(self.inputs)
            _require_size("train_size", train, len(self.inputs))
            test = test_size or len(self.test_inputs)
            _require_size("test_size", test, len(self.test_inputs))
        return train, test

    def is_drawn(self, train_size: int, test_size: int) -> bool:
        """Whether a split of these sizes is a random draw, so that `split_seed` has a meaning."""
        if self.test_inputs is None:
            return True
        return train_size < len(self.inputs) or test_size < len(self.test_inputs)

    def split(self, train_size: int, test_size: int, split_seed: int | None) -> Dataset:
        """The split drawn by `split_seed`: uniformly, without replacement, training and test disjoint."""
        seed = split_seed or 0
        if self.test_inputs is None or self.test_labels is None:
            order = torch.randperm(len(self.inputs), generator=generator(seed, "split"))
            train: Tensor | None = order[:train_size]
            test: Tensor | None = order[train_size : train_size + test_size]
            test_inputs, test_labels = self.inputs, self.labels
        else:
            train = _draw(len(self.inputs), train_size, seed, "training split")
            test = _draw(len(self.test_inputs), test_size, seed, "test split")
            test_inputs, test_labels = self.test_inputs, self.test_labels
        return Dataset(
            _take(self.inputs, train),
            _take(self.labels, train),
            _take(test_inputs, test),
            _take(test_labels, test),
            self.num_classes,
        )


def _require_size(name: str, size: int, available: int) -> None:
    if not 1 <= size <= available:
        raise UserError(f"`{name}` must be between 1 and {available}, got {size}")


def _draw(available: int, size: int, seed: int, purpose: str) -> Tensor | None:
    """Indices of `size` of the `available` examples, or None for all of them in their own order."""
    if size == available:
        return None
    return torch.randperm(available, generator=generator(seed, purpose))[:size]


def _take(array: NDArray[np.float32] | NDArray[np.int64], indices: Tensor | None) -> Tensor:
    if indices is not None:
        return torch.from_numpy(array[indices.numpy()])
    with warnings.catch_warnings():  # Ray shares read-only arrays; nothing here writes to them
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
