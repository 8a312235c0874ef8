"""What a trial trains and tests on: tensors, or for what is large or stored as other numbers `Rows`.

A `Dataset` is one split of a `Source` (trainables.data.source). Inputs are numbers, float32, or tokens, int64; every
batch is an indexed copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainables.data.rows import CHUNK, Examples, Rows, held, is_resident
from trainables.tasks.names import TASKS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EXAMPLES = 8  # examples that measures are tried on before a sweep


@dataclass(frozen=True)
class Dataset:
    """The examples of one split: inputs (N, ...) float32 or int64, labels (N,) int64 in [0, num_classes).

    For a language model inputs are (N, T) int64 tokens and labels (N, T), the token that follows each, or (N, 2, T)
    pairs of sequences (trainables.data.pairs), whose second one has labels. For other tasks
    the labels are what the `task` takes, float32 or int64: see trainables.tasks. All of these are tensors, or Rows,
    which make a batch of values when it is asked for; `tensor_of` gives all values of either.

    A dataset for tuning has no test examples: its test tensors hold examples held out for validation.
    """

    train_inputs: Examples
    train_labels: Examples
    test_inputs: Examples
    test_labels: Examples
    num_classes: int
    task: str = TASKS[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train_inputs.shape[1:])

    @property
    def input_dtype(self) -> torch.dtype:
        return self.train_inputs.dtype

    @property
    def is_resident(self) -> bool:
        """Whether a training batch is taken without leaving the device."""
        return is_resident(self.train_inputs) and is_resident(self.train_labels)

    def begin(self, epoch: int, seen: int) -> None:
        """Says that the next batches are those after the first `seen` examples of `epoch`."""

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The training examples at `indices`."""
        # Not `[indices]`, which takes five times as long: a tenth of a step of a small network.
        return self.train_inputs.index_select(0, indices), self.train_labels.index_select(0, indices)

    def sample(self, size: int | None, draws: torch.Generator) -> tuple[Examples, Examples]:
        """`size` training examples that `draws` choose; all of them by None, and where there are no more."""
        import torch

        inputs, labels = self.train_inputs, self.train_labels
        if size is None or len(labels) <= size:
            return inputs, labels
        chosen = torch.randperm(len(labels), generator=draws)[:size]
        return tuple(  # type: ignore[return-value]
            held(part.at(chosen)) if isinstance(part, Rows) else part.index_select(0, chosen.to(part.device))
            for part in (inputs, labels)
        )

    def chunks_of_labels(self) -> Iterator[Tensor]:
        """All labels, those of training first; of a language model those alone that may mark padding."""
        for labels in (self.train_labels, self.test_labels):
            if self.task == "language" and isinstance(labels, Rows) and labels.is_unsigned:
                continue  # token ids, of which there may be more than the memory holds
            yield from labels.split(max(1, CHUNK // max(1, labels[:1].numel())))

    def to(self, device: torch.device) -> Dataset:
        """The same data on `device` (itself where it is there already)."""
        return Dataset(
            self.train_inputs.to(device),
            self.train_labels.to(device),
            self.test_inputs.to(device),
            self.test_labels.to(device),
            self.num_classes,
            self.task,
        )
