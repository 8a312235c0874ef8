"""The shared arrays that a trial's data are drawn from.

A `Source` holds the arrays as they are stored, once per node and read-only: NumPy arrays, which Ray shares between
processes without a copy, or memory-mapped files, which the processes of a node map for themselves. A `Dataset`
(trainables.data.dataset) is one split of it.

PyTorch is imported where a split is drawn: the driver of a sweep, which reads sources, does without its half a GiB.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.dataset import Dataset
from trainables.data.mapped import Origin, Place
from trainables.data.own_arrays import as_type
from trainables.data.rows import NONE, Scaling, Stored, as_tensor, chunks, range_of, require_exact, rows_of, values_of
from trainables.runtime.errors import UserError
from trainables.runtime.seeds import generator
from trainables.tasks.names import OF_CLASS_NUMBERS, PADDED, TASKS

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.data.decoded import Decoded

Indices = NDArray[np.int64]

ARRAYS = ("inputs", "labels", "test_inputs", "test_labels")
DECODED = ("inputs", "test_inputs")
MOST_CLASSES = 2**31  # a class number or a token id beyond it is something else


@dataclass(frozen=True)
class Source:
    """Everything read from a dataset, as it is stored. `test_inputs` is None where it has no test set of its own
    (digits): then training and test examples are drawn from the same pool, by `split_seed`.

    Inputs with a `scaling` become float32 by it; without one floats are float32 already, and integers are tokens. The
    labels are those of `task`; `own_task` is what the dataset itself says that it is for, where that is another one.
    """

    name: str
    inputs: Stored
    labels: Stored
    test_inputs: Stored | None
    test_labels: Stored | None
    num_classes: int
    default_train_size: int | None = None
    scaling: Scaling | None = None
    task: str = TASKS[0]
    own_task: str | None = None
    decoded: Decoded | None = None  # where inputs are decoded when a split asks for them
    origin: Origin | None = None  # how another machine reads the same
    is_checked: bool = False  # whether the values have been seen to be in range
    is_named_by_values: bool = False  # see `fingerprint_of`

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
        if self.num_classes > MOST_CLASSES:
            what = "token ids" if self.of_tokens else "labels"
            raise UserError(f"`dataset` {self.name} must have {what} below {MOST_CLASSES}, got {self.num_classes - 1}")
        for _, inputs, _ in pairs if self.scaling is not None and not self.is_checked else ():
            require_exact(self.name, inputs)
        if self.num_classes < 2 and self.task in OF_CLASS_NUMBERS:
            raise UserError(f"`dataset` {self.name} must have labels of 2 classes or more, got all of class 0")
        if self.task == "language" and not self.of_tokens:
            raise UserError(f"`task` language must be given for a dataset of tokens, got {self.name}, which has none")
        for part, inputs, labels in pairs:
            if len(inputs) == 0:
                raise UserError(f"`dataset` {self.name} must hold {part} examples, got none")
            for what, array in (("inputs", inputs), ("labels", labels)):
                if 0 in array.shape[1:]:
                    raise UserError(
                        f"`dataset` {self.name} must have {what} with at least one number each, got the shape "
                        f"{array.shape} in the {part} set"
                    )
            of_tokens = self.of_tokens
            if self.task not in OF_CLASS_NUMBERS:
                self._check_numbers(inputs, labels, part)
                continue
            if labels.shape != ((len(inputs), inputs.shape[-1]) if of_tokens else (len(inputs),)):
                raise UserError(
                    f"`dataset` {self.name} must have one label for each {part} {'token' if of_tokens else 'input'}, "
                    f"got inputs of shape {inputs.shape} and labels of shape {labels.shape}"
                )
            if self.is_checked:
                continue
            low, high = range_of(labels, PADDED if self.task == "language" else None)
            if (low, high) == NONE:
                raise UserError(
                    f"`dataset` {self.name} must have labels in the {part} set, got only {PADDED} (padding)"
                )
            if low < 0 or high >= self.num_classes:
                raise UserError(
                    f"`dataset` {self.name} must have labels from 0 to {self.num_classes - 1}, "
                    f"got {low} to {high} in the {part} set; leave out what has no label"
                )
            if self.decoded is None:
                self._require_finite("inputs", inputs, part)
            low, high = range_of(inputs) if of_tokens else (0, 0)
            if low < 0 or high >= self.num_classes:
                raise UserError(
                    f"`dataset` {self.name} must have tokens from 0 to {self.num_classes - 1}, "
                    f"got {low} to {high} in the {part} set"
                )

    def _check_numbers(self, inputs: Stored, labels: Stored, part: str) -> None:
        """Raises UserError for what is not a set of examples with numbers as labels; the task checks the rest."""
        if len(labels) != len(inputs):
            raise UserError(
                f"`dataset` {self.name} must have labels for each {part} input, "
                f"got inputs of shape {inputs.shape} and labels of shape {labels.shape}"
            )
        for what, array in (("inputs", inputs), ("labels", labels)) if not self.is_checked else ():
            self._require_finite(what, array, part)

    def _require_finite(self, what: str, array: Stored, part: str) -> None:
        """Raises UserError for NaN and for what is infinite as float32."""
        for chunk in chunks(array) if np.issubdtype(array.dtype, np.floating) else ():
            if not np.isfinite(as_type(np.float32, chunk)).all():
                raise UserError(
                    f"`dataset` {self.name} must have finite {what}, got NaN or infinity in the {part} set as float32"
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    @property
    def of_tokens(self) -> bool:
        """Whether inputs are tokens, each of which has a label."""
        return self.scaling is None and np.issubdtype(self.inputs.dtype, np.integer)

    @property
    def dataset_task(self) -> str:
        """The task that the dataset itself is for."""
        return self.own_task or self.task

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all values, with their shapes: however they are stored.

        A task other than that of class numbers is part of it, and so is a vocabulary with tokens that never occur: the
        size of a language model follows from it. Trap: images are all decoded for it; see `fingerprint_of`.
        """
        if self.decoded is not None:
            return self.decoded.fingerprint(f"{self.scaling} {self.dataset_task}", self._digest)
        return self._digest()

    def _digest(self) -> str:
        digest = hashlib.sha256()
        if self.dataset_task not in OF_CLASS_NUMBERS:
            digest.update(self.dataset_task.encode())
        scaled, plain, largest = self.scaling, None, 0
        for array, scaling in (
            (self.inputs, scaled),
            (self.labels, plain),
            (self.test_inputs, scaled),
            (self.test_labels, plain),
        ):
            if array is not None:
                digest.update(str((array.shape, values_of(array[:0], scaling).dtype.str)).encode())
                for chunk in chunks(array):
                    digest.update(np.ascontiguousarray(values_of(chunk, scaling)).data)
                    largest = max(largest, int(chunk.max(initial=0))) if self.of_tokens else 0
        if self.of_tokens and self.num_classes > largest + 1:
            digest.update(str(self.num_classes).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def file_fingerprint(self) -> str | None:
        """The like of encoded images, labels and scaling, for which nothing is decoded; None for other data."""
        if self.decoded is None:
            return None
        digest = hashlib.sha256(f"{self.decoded.digest} {self.scaling} {self.num_classes}".encode())
        for labels in (self.labels, self.test_labels):
            digest.update(np.ascontiguousarray(labels).data)
        return digest.hexdigest()[:16]

    def fingerprint_of(self, train_size: int, test_size: int) -> str:
        """The fingerprint in the configuration of trials on a split of these sizes.

        It is that of all values; but where a split draws some of the images that of the files, so that the others need
        not be decoded, unless `is_named_by_values`.
        """
        if self.file_fingerprint is None or self.is_named_by_values or not self.is_drawn(train_size, test_size):
            return self.fingerprint
        return self.file_fingerprint

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Whether `fingerprint` is of this data, by files or by values."""
        return fingerprint == self.file_fingerprint or fingerprint == self.fingerprint

    def sizes(self, train_size: int | None, test_size: int | None, validation_size: int = 0) -> tuple[int, int]:
        """The numbers of training and test examples of a split that leaves `validation_size` others for validation;
        None takes all there are.

        Raises UserError where the source has too few examples.
        """
        pool = len(self.inputs)
        if not 0 <= validation_size < pool:
            raise UserError(
                f"`validation_size` must be between 0 and {pool - 1}, got {validation_size}; there are {pool} "
                "examples to train on"
            )
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
        if self.decoded is not None:
            wanted = [train, np.arange(0)] if validation_size else [train, test]
            if validation_size and train is not None:
                wanted[0] = np.concatenate([train, others[:validation_size]])
            self.decoded.ensure(wanted)
        tensors, scaling = self._tensors, self.scaling
        test_tensors = [tensors[id(array)] for array in (test_inputs, test_labels)]
        return Dataset(
            rows_of(tensors[id(self.inputs)], train, scaling),
            rows_of(tensors[id(self.labels)], train, None),
            rows_of(test_tensors[0], test, scaling),
            rows_of(test_tensors[1], test, None),
            self.num_classes,
            self.task,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Mapped arrays as their places, and nothing of decoded images."""
        state = {name: value for name, value in vars(self).items() if name != "_tensors"}
        if self.origin is not None:
            for name in ARRAYS:
                if self.decoded is not None and name in DECODED:
                    state[name] = None
                elif isinstance(state[name], np.memmap):
                    state[name] = Place.of(state[name]) or state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        fields = vars(self)
        if self.decoded is not None:
            found = self.decoded.mapped()
            arrays: dict[str, Stored | None] | None = dict(zip(DECODED, found, strict=True)) if found else None
        else:
            places = {name: value for name, value in state.items() if isinstance(value, Place)}
            mapped = {name: place.array() for name, place in places.items()}
            arrays = None if any(array is None for array in mapped.values()) else mapped
        if arrays is None:
            self._read_again()
        else:
            fields.update(arrays)

    def _read_again(self) -> None:
        assert self.origin is not None
        found = self.origin.read()
        before = self.file_fingerprint or vars(self).get("fingerprint")
        if before is not None and not found.has_fingerprint(before):
            raise UserError(
                f"`data-dir` must hold the data that the sweep began with, also on other machines, "
                f"got other contents in {self.origin.root}"
            )
        vars(self).update({name: getattr(found, name) for name in (*ARRAYS, "decoded")})

    @cached_property
    def _tensors(self) -> dict[int, Tensor]:
        """The arrays as tensors, the same for all splits: a copy of one on a GPU is shared by them."""
        arrays = (self.inputs, self.labels, self.test_inputs, self.test_labels)
        return {id(array): as_tensor(array) for array in arrays if array is not None}


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
