"""Training examples that a loader of the user's own makes one after another, with an epoch of a stated length.

The function `package.module:function` of a dataset returns, in place of arrays, an object with

    examples        the number of training examples in an epoch
    num_classes     classes, or the vocabulary
    test            (test_inputs, test_labels), arrays that fit into the memory
    epoch(number)   an iterable of (input, label) of the epoch `number`, from 0 on: the same ones each time it is
                    called, in an order of its own (a new one for each epoch, as a rule)

A trial takes its batches in that order; `seed` and `split_seed` decide on weights and dropout alone. The training loss
and measures are of the epoch 0, which is read anew for each evaluation. A run that is resumed starts the epoch that it
was in again and skips what it had seen, so it goes on exactly; a loader without `epoch(number)`, or whose epoch 0
differs from one call to the next, is refused. Every worker of a trial reads the whole stream and uses its share.

The fingerprint is of the first examples of epoch 0 and of the test set. Trap: what comes later is not in it, so a
loader whose data changes should take an option that says its version, and give other first examples for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.dataset import Dataset
from trainables.data.own_arrays import real_numbers, require_variation
from trainables.data.rows import Examples, Rows, held, require_exact, rows_of
from trainables.data.source import Source
from trainables.runtime.errors import UserError, one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SEEN = 256  # examples at the start of epoch 0 that the source keeps, for the fingerprint and the checks
PROTOCOL = "`examples`, `num_classes`, `test` and `epoch(number)` (docs/data.md)"


@dataclass(frozen=True)
class StreamSource(Source):
    """The first examples of a stream as `inputs` and `labels`, its test set, and the stream itself."""

    stream: Any = None

    @property
    def examples(self) -> int:
        """Training examples in an epoch."""
        return int(self.stream.examples)

    def sizes(self, train_size: int | None, test_size: int | None, validation_size: int = 0) -> tuple[int, int]:
        assert self.test_inputs is not None
        found = train_size or self.examples, test_size or len(self.test_inputs)
        if validation_size:
            raise UserError(f"`validation_size` must be 0 for the stream {self.name}, got {validation_size}")
        for name, size, most in zip(
            ("train_size", "test_size"), found, (self.examples, len(self.test_inputs)), strict=True
        ):
            if not 1 <= size <= most:
                raise UserError(f"`{name}` must be between 1 and {most}, got {size}")
        return found

    def is_drawn(self, train_size: int, test_size: int) -> bool:
        """Never: a smaller training set is the beginning of each epoch, a smaller test set that of the test set."""
        return False

    def split(self, train_size: int, test_size: int, split_seed: int | None, validation_size: int = 0) -> Dataset:
        self.sizes(train_size, test_size, validation_size)
        assert self.test_inputs is not None
        assert self.test_labels is not None
        inputs, labels = (
            StreamRows(self.stream, self.name, which, (0, train_size), array)
            for which, array in enumerate((self.inputs, self.labels))
        )
        tensors = self._tensors
        test_inputs, test_labels = (
            rows_of(tensors[id(array)][:test_size], None, None) for array in (self.test_inputs, self.test_labels)
        )
        fields = inputs, labels, test_inputs, test_labels, self.num_classes, self.task
        return StreamDataset(*fields, reader=_Reader(self.stream, self.name))

    def __getstate__(self) -> dict[str, Any]:
        """Without the stream, which may hold anything: it is made again from `origin`."""
        _ = self.fingerprint
        return {**super().__getstate__(), "stream": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        assert self.origin is not None
        found = self.origin.read()
        if not isinstance(found, StreamSource) or found.fingerprint != self.fingerprint:
            raise UserError(f"`dataset` {self.name} must give the same examples in every process, got others")
        vars(self)["stream"] = found.stream

    @cached_property
    def fingerprint(self) -> str:
        """Of the first examples and the test set, with the number of examples."""
        return hashlib.sha256(f"{self._digest()} {self.examples} {self.num_classes}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StreamDataset(Dataset):
    """A split whose training batches come in the order of the stream."""

    reader: Any = None

    def begin(self, epoch: int, seen: int) -> None:
        self.reader.begin(epoch, seen)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The next examples, as many as there are `indices`."""
        pairs = self.reader.take(len(indices))
        assert isinstance(self.train_inputs, StreamRows)
        assert isinstance(self.train_labels, StreamRows)
        return self.train_inputs.stacked(pairs), self.train_labels.stacked(pairs)

    def sample(self, size: int | None, draws: torch.Generator) -> tuple[Examples, Examples]:
        """The first `size` examples of epoch 0: others would have to be looked for in all of it."""
        assert isinstance(self.train_inputs, StreamRows)
        assert isinstance(self.train_labels, StreamRows)
        if size is None or len(self.train_labels) <= size:
            return self.train_inputs, self.train_labels
        return held(self.train_inputs[:size]), held(self.train_labels[:size])

    def to(self, device: torch.device) -> StreamDataset:
        arrays = {name: getattr(self, name).to(device) for name in ARRAYS}
        return dataclasses.replace(self, **arrays)


ARRAYS = ("train_inputs", "train_labels", "test_inputs", "test_labels")


class StreamRows(Rows):
    """The inputs (`which` 0) or the labels (1) of some examples of epoch 0, read anew whenever they are asked for."""

    def __init__(
        self,
        stream: Any,
        name: str,
        which: int,
        bounds: tuple[int, int],
        like: NDArray[Any],
        device: torch.device | None = None,
    ) -> None:
        import torch

        super().__init__(torch.from_numpy(like[:1]), None, None, device)
        self._stream, self._name, self._which, self._bounds, self._like = stream, name, which, bounds, like[:1]

    def __len__(self) -> int:
        return self._bounds[1] - self._bounds[0]

    @property
    def is_resident(self) -> bool:
        return False

    def stacked(self, pairs: list[tuple[Any, Any]]) -> Tensor:
        """The values of these examples, on the device."""
        import torch

        found = [np.asarray(pair[self._which]) for pair in pairs]
        if any(one.shape != self._like.shape[1:] for one in found):
            raise UserError(f"`dataset` {self._name} must give examples of one shape, {self._like.shape[1:]}")
        array = np.stack(found).astype(self._like.dtype, copy=False)
        return torch.from_numpy(array).to(self.device)

    def index_select(self, dimension: int, indices: Tensor) -> Tensor:
        import torch

        wanted: list[int] = (indices.cpu() + self._bounds[0]).tolist()
        places = set(wanted)
        kept = {place: pair for place, pair in enumerate(self._pairs(max(wanted, default=-1) + 1)) if place in places}
        return self.stacked([kept[place] for place in wanted]) if wanted else torch.empty(0)

    def split(self, size: int | list[int]) -> Iterator[Tensor]:
        sizes = [size] * -(-len(self) // size) if isinstance(size, int) else size
        pairs = islice(self._pairs(self._bounds[1]), self._bounds[0], None)
        for one in sizes:
            if found := list(islice(pairs, one)):
                yield self.stacked(found)

    def values(self) -> Tensor:
        return next(self.split([len(self)]))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) and key.step in (None, 1):
            begin, end, _ = key.indices(len(self))
            bounds = self._bounds[0] + begin, self._bounds[0] + max(begin, end)
            return StreamRows(self._stream, self._name, self._which, bounds, self._like, self.device)
        return super().__getitem__(key)

    def to(self, device: torch.device) -> StreamRows:
        return StreamRows(self._stream, self._name, self._which, self._bounds, self._like, device)

    def _pairs(self, count: int) -> Iterator[tuple[Any, Any]]:
        reader = _Reader(self._stream, self._name)
        reader.begin(0, 0)
        return (reader.take(1)[0] for _ in range(count))


class _Reader:
    """A place in a stream."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream, self._name = stream, name
        self._place: tuple[int, int] | None = None
        self._pairs: Iterator[Any] = iter(())

    def begin(self, epoch: int, seen: int) -> None:
        """Goes to the example after the first `seen` ones of `epoch`."""
        if self._place != (epoch, seen):
            self._pairs, self._place = iter(self._stream.epoch(epoch)), (epoch, 0)
            self.take(seen)

    def take(self, count: int) -> list[tuple[Any, Any]]:
        """The next examples. Raises UserError where the epoch ends before."""
        assert self._place is not None
        epoch, seen = self._place
        found = list(islice(self._pairs, count))
        self._place = epoch, seen + len(found)
        if len(found) < count:
            raise UserError(
                f"`dataset` {self._name} must give the examples of an epoch that it states, {self._stream.examples}, "
                f"got {seen + len(found)} in epoch {epoch}"
            )
        return found


def is_stream(found: object) -> bool:
    """Whether a dataset's function has returned something to iterate, and no arrays."""
    return hasattr(found, "epoch") or (isinstance(found, Iterable) and not isinstance(found, tuple | list))


def stream_source(name: str, stream: Any, task: str | None) -> StreamSource:
    """The source of the `stream` that the function `name` has returned. Raises UserError where it is none."""
    lacking = [part for part in ("examples", "num_classes", "test", "epoch") if not hasattr(stream, part)]
    if lacking:
        raise UserError(
            f"`dataset` {name} must return arrays, or a stream with {PROTOCOL} so that trials can be resumed exactly, "
            f"got {type(stream).__name__} without {', '.join(lacking)}"
        )
    if type(stream.examples) is not int or stream.examples < 1:
        raise UserError(f"`dataset` {name} must state the examples of an epoch, got {stream.examples!r}")
    try:
        first, again = (list(islice(stream.epoch(0), min(SEEN, stream.examples))) for _ in range(2))
        _require_numbers(name, first)
        (inputs, labels), others = (_arrays(list(pairs)) for pairs in (first, again))
        test_inputs, test_labels = (
            real_numbers(name, what, part) for what, part in zip(("inputs", "labels"), stream.test, strict=True)
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"`dataset` {name} must be a stream of (input, label) with {PROTOCOL}, "
            f"got {type(error).__name__}: {one_line(error)}"
        ) from error
    if not all(np.array_equal(one, other) for one, other in zip((inputs, labels), others, strict=True)):
        raise UserError(
            f"`dataset` {name} must give the same examples each time epoch(0) is called, so that trials can be "
            "resumed exactly, got others; seed its generator by the number of the epoch"
        )
    require_variation(name, "inputs", inputs)
    require_variation(name, "labels", labels)
    of_classes = np.issubdtype(labels.dtype, np.integer)
    is_tokens = of_classes and labels.ndim > 1 and np.issubdtype(inputs.dtype, np.integer)
    kinds = np.int64 if is_tokens else np.float32, np.int64 if of_classes else np.float32
    own = "language" if is_tokens else "classification" if of_classes else "regression"
    return StreamSource(
        name,
        inputs.astype(kinds[0]),
        labels.astype(kinds[1]),
        test_inputs.astype(kinds[0]),
        test_labels.astype(kinds[1]),
        int(stream.num_classes),
        task=task or own,
        own_task=own,
        stream=stream,
    )


def _arrays(pairs: list[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    inputs, labels = zip(*pairs, strict=True)
    return np.stack([np.asarray(one) for one in inputs]), np.stack([np.asarray(one) for one in labels])


def _require_numbers(name: str, pairs: Iterable[tuple[Any, Any]]) -> None:
    """Raises UserError for examples that are not real numbers, or integers that float32 cannot tell apart."""
    for pair in pairs:
        for what, one in zip(("inputs", "labels"), pair, strict=True):
            array = real_numbers(name, what, one)
            if what == "inputs" and array.ndim and np.ndim(pair[1]) == 0:  # not one label for each token
                require_exact(name, array)
