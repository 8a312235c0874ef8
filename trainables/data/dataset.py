"""What a trial trains and tests on, as tensors in memory, and the shared arrays that it is drawn from.

A `Source` holds the arrays as they were read, once per node: NumPy, because Ray shares a NumPy array between
processes without a copy, and it is read only. A `Dataset` is one split of it. Inputs are numbers, float32 and scaled
before sharing, so nobody has a reason to write to them, or tokens, int64; every batch is an indexed copy.

PyTorch is imported where a split is drawn: the driver of a sweep, which reads sources, does without its half a GiB.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.runtime.errors import UserError
from trainables.runtime.seeds import generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Inputs = NDArray[np.float32] | NDArray[np.int64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Tensors of one split: inputs (N, ...) float32 or int64, labels (N,) int64 in [0, num_classes); for a language
    model inputs (N, T) int64 tokens and labels (N, T), the token that follows each.

    A dataset for tuning has no test examples: its test tensors hold examples held out for validation.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train_inputs.shape[1:])

    @property
    def input_dtype(self) -> torch.dtype:
        return self.train_inputs.dtype

    def to(self, device: torch.device) -> Dataset:
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
    inputs: Inputs
    labels: NDArray[np.int64]
    test_inputs: Inputs | None
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
            if self.test_inputs.dtype != self.inputs.dtype:
                raise UserError(
                    f"`dataset` {self.name} must have training and test inputs of one type, "
                    f"got {self.inputs.dtype} and {self.test_inputs.dtype}"
                )
        if self.num_classes < 2:
            raise UserError(f"`dataset` {self.name} must have labels of 2 classes or more, got all of class 0")
        for part, inputs, labels in pairs:
            if len(inputs) == 0:
                raise UserError(f"`dataset` {self.name} must hold {part} examples, got none")
            of_tokens = self.of_tokens
            if labels.shape != (inputs.shape if of_tokens else (len(inputs),)):
                raise UserError(
                    f"`dataset` {self.name} must have one label for each {part} {'token' if of_tokens else 'input'}, "
                    f"got inputs of shape {inputs.shape} and labels of shape {labels.shape}"
                )
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise UserError(
                    f"`dataset` {self.name} must have labels from 0 to {self.num_classes - 1}, "
                    f"got {labels.min()} to {labels.max()} in the {part} set; leave out what has no label"
                )
            if not np.isfinite(inputs).all():
                raise UserError(f"`dataset` {self.name} must have finite inputs, got NaN or infinity in the {part} set")
            if of_tokens and (inputs.min() < 0 or inputs.max() >= self.num_classes):
                raise UserError(
                    f"`dataset` {self.name} must have tokens from 0 to {self.num_classes - 1}, "
                    f"got {inputs.min()} to {inputs.max()} in the {part} set"
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    @property
    def of_tokens(self) -> bool:
        """Whether inputs are tokens, each of which has a label."""
        return bool(self.inputs.dtype == np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all arrays, with their shapes."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.labels, self.test_inputs, self.test_labels):
            if array is not None:
                digest.update(str((array.shape, array.dtype.str)).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def sizes(self, train_size: int | None, test_size: int | None, validation_size: int = 0) -> tuple[int, int]:
        """The numbers of training and test examples of a split that leaves `validation_size` others for validation;
        None takes all there are.

        Raises UserError where the source has too few examples.
        """
        pool = len(self.inputs)
        if not 0 <= validation_size < pool:
            raise UserError(f"`validation_size` must be between 0 and {pool - 1}, got {validation_size}")
        available = pool - validation_size
        if self.test_inputs is None:
            train = train_size or self.default_train_size or round(0.8 * available)
            _require_size("train_size", train, available - 1, validation_size)
            test = test_size or available - train
            _require_size("test_size", test, available - train, validation_size)
        else:
            train = train_size or self.default_train_size or available
            _require_size("train_size", train, available, validation_size)
            test = test_size or len(self.test_inputs)
            _require_size("test_size", test, len(self.test_inputs))
        return train, test

    def is_drawn(self, train_size: int, test_size: int) -> bool:
        """Whether a split of these sizes is a random draw, so that `split_seed` has a meaning."""
        if self.test_inputs is None:
            return True
        return train_size < len(self.inputs) or test_size < len(self.test_inputs)

    def split(self, train_size: int, test_size: int, split_seed: int | None, validation_size: int = 0) -> Dataset:
        """The split drawn by `split_seed`: uniformly, without replacement, training and test disjoint.

        With `validation_size` V > 0 the same training examples, and in the place of the test examples V others, never
        those of training or test: a trial that is tuned on such a split holds no test example at all. The test
        examples are those of the same sizes and `split_seed` without validation. Raises UserError as `sizes` does.
        """
        self.sizes(train_size, test_size, validation_size)
        seed = split_seed or 0
        if self.test_inputs is None or self.test_labels is None:
            train, others = draw(len(self.inputs), train_size, seed, "split")
            test: Indices | None = others[:test_size]
            others, test_inputs, test_labels = others[test_size:], self.inputs, self.labels
        else:
            train, others = draw(len(self.inputs), train_size, seed, "training split")
            test, _ = draw(len(self.test_inputs), test_size, seed, "test split")
            test_inputs, test_labels = self.test_inputs, self.test_labels
        if validation_size:
            test, test_inputs, test_labels = others[:validation_size], self.inputs, self.labels
        return Dataset(
            _take(self.inputs, train),
            _take(self.labels, train),
            _take(test_inputs, test),
            _take(test_labels, test),
            self.num_classes,
        )


def _require_size(name: str, size: int, available: int, validation_size: int = 0) -> None:
    if not 1 <= size <= available:
        beside = f" beside {validation_size} for validation" if validation_size else ""
        raise UserError(f"`{name}` must be between 1 and {available}{beside}, got {size}")


def draw(available: int, size: int, seed: int, purpose: str) -> tuple[Indices | None, Indices]:
    """Indices of `size` of the `available` examples, None for all of them in their own order; and of the others."""
    import torch

    if size == available:
        return None, np.arange(0)
    order = torch.randperm(available, generator=generator(seed, purpose)).numpy()
    return order[:size], order[size:]


def _take(array: Inputs, indices: Indices | None) -> Tensor:
    import torch

    if indices is not None:
        return torch.from_numpy(array[indices])
    with warnings.catch_warnings():  # Ray shares read-only arrays; nothing here writes to them
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
