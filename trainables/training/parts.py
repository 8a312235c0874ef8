"""How a batch is cut: into one share per worker, and each into micro-batches that fit the memory; the numbers stay.

The gradient of the whole batch's mean loss is the sum over its parts of their own means, each weighted by its share of
the examples. What could depend on the cut does not:

- Batch norm. A part holds whole groups: single examples without batch norm, ghost batch norm's groups, or else the
  batch. Taken in order, the groups of a part are those that the layer makes of it (group j holds j, j + k, ...), so no
  layer knows that its input is a part. Where there are fewer groups than workers they are spread over all of these
  and synchronized instead. Running statistics take the groups in the order that they have in the batch.
- Dropout. A part's masks are its rows of the masks of the whole batch, which a worker's first part draws.
- A worker without examples repeats a part with weight 0, so that all draw and exchange the same things.

Traps: masks are the whole batch's only where `F.dropout` and its kin get tensors whose first dimension is the batch.
The dropout inside nn.LSTM draws its own for each part. A layer that is called twice in one pass takes both calls of a
part before the next part into its running statistics.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainables.runtime.errors import UserError
from trainables.runtime.seeds import random_numbers_kept
from trainables.training.ghost_batch_norm import is_channels_last
from trainables.training.parallel import Workers
from trainables.training.synchronized_batch_norm import (
    Groups,
    Spread,
    batch_norms,
    combined_running_statistics,
    use_synchronized_batch_norm,
)

DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)


@dataclass(frozen=True)
class Part:
    """Some examples of a batch: `rows`, where in it they are, and `weight`, their share in its mean, or 0."""

    rows: Tensor
    weight: float
    groups: Groups | None = None  # where they are spread over the workers


class Parts:
    """Cuts the batches that `model` is trained on, for one of `workers`; `micro_batch_size` None cuts no further.

    Changes the model's batch norm where workers may have to synchronize it.
    """

    def __init__(
        self, model: nn.Module, workers: Workers, micro_batch_size: int | None, ghost_batch_size: int | None
    ) -> None:
        self.model = model
        self.workers = workers
        self._micro = micro_batch_size or sys.maxsize
        self._layers = batch_norms(model)
        self._group = (ghost_batch_size or sys.maxsize) if self._layers else 1
        self._spread = Spread(workers)
        if workers.count > 1:
            use_synchronized_batch_norm(model, self._spread)
        self._of_size: dict[int, list[Part]] = {}

    def smaller(self, count: int, times: int) -> int | None:
        """A micro-batch size about `times` smaller than what a batch of `count` is cut into; None where none is."""
        size = min(self._group, count)
        largest = max(len(part.rows) for part in self.of(count))
        smaller = max(size, largest // times)
        return smaller if smaller < largest else None

    def leave_whole(self, count: int) -> bool:
        """Whether a batch of `count` examples is one part."""
        return self.workers.count == 1 and count <= self._micro

    def gradient(self, count: int, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Leaves in `.grad`, which is empty before, the gradient of a batch's mean loss; returns that loss.

        `loss(rows)` is the mean over these examples of the batch.
        """
        losses = []

        def add(part: Part) -> None:
            share = loss(part.rows) * part.weight
            share.backward()
            losses.append(share.detach())

        groups = self._groups(count)[-1]
        tracking = [layer for layer in self._layers if layer.training and layer.track_running_stats]
        if tracking and 1 < self.workers.count <= groups:
            with combined_running_statistics(tracking, self.workers, groups):
                self.run(count, add)
        else:
            self.run(count, add)
        return self.workers.sum_gradients(self.model.parameters(), torch.stack(losses).sum())

    def run(self, count: int, work: Callable[[Part], None]) -> None:
        """`work` on each of this worker's parts of a batch of `count`, with the random numbers of one pass over it."""
        parts = self.of(count)
        masks = _MasksOfBatch(parts, count)

        def do(part: Part) -> None:
            self._spread.groups = part.groups
            try:
                with masks:
                    work(part)
            finally:
                self._spread.groups = None

        do(parts[0])
        with random_numbers_kept(self._device):  # workers may have more and fewer parts, and draw as one
            for part in parts[1:]:
                do(part)

    def of(self, count: int) -> list[Part]:
        """This worker's parts of a batch of `count` examples.

        Raises UserError where a micro-batch cannot hold one group of batch norm.
        """
        if count not in self._of_size:
            self._of_size[count] = self._cut(count)
        return self._of_size[count]

    def _cut(self, count: int) -> list[Part]:
        size, regular, groups = self._groups(count)
        if self._layers and groups < self.workers.count:
            return [self._part_of_spread_groups(count, size * regular, regular, groups)]
        self._check_micro(size, count)
        strided = torch.arange(size * regular).view(size, regular)  # a column is a group
        rest = torch.arange(size * regular, count)

        def rows(first: int, last: int) -> Tensor:
            own = strided[:, first : min(last, regular)].reshape(-1)
            return (torch.cat([own, rest]) if last > regular else own).to(self._device)

        own = self.workers.share(groups)
        step = max(1, self._micro // size)
        found = [rows(first, min(first + step, own.stop)) for first in range(own.start, own.stop, step)]
        return [Part(one, len(one) / count) for one in found] or [Part(rows(0, 1), 0.0)]

    def _part_of_spread_groups(self, count: int, in_regular: int, regular: int, groups: int) -> Part:
        own = self.workers.share(count)
        self._check_micro(own.stop - own.start, count)
        group = torch.full((count,), regular)  # the last one, where it is not regular
        group[:in_regular] = torch.arange(in_regular) % max(1, regular)
        sizes = torch.bincount(group, minlength=groups)
        rows = torch.arange(count)[own] if own.stop > own.start else torch.arange(1)
        member = F.one_hot(group[rows], groups)
        counted = member if own.stop > own.start else torch.zeros_like(member)
        spread = Groups(*(tensor.to(self._device) for tensor in (member, counted, sizes)))
        return Part(rows.to(self._device), (own.stop - own.start) / count, spread)

    def _groups(self, count: int) -> tuple[int, int, int]:
        """The size and number of the regular groups of a batch, and the number of all: see ghost_batch_norm."""
        size = min(self._group, count)
        regular, left = divmod(count, size)
        if left == 1 and regular:  # a single example joins the last one
            return size, regular - 1, regular
        return size, regular, regular + (left > 0)

    def _check_micro(self, needed: int, count: int) -> None:
        if self._layers and needed > self._micro:
            raise UserError(
                f"`micro_batch_size` must be at least {needed} for a network with batch norm, which sees these "
                f"examples of a batch of {count} together, got {self._micro}; give a smaller ghost_batch_size"
            )

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


class _MasksOfBatch(TorchFunctionMode):
    """Inside, dropout takes a part's rows of a mask for the whole batch of `count`: at the n-th time those of part n.

    They are drawn at the first time and kept, as bools: drawing is half of a step where every part does it (C2, ten).
    """

    def __init__(self, parts: list[Part], count: int) -> None:
        super().__init__()
        self._rows, self._count = [part.rows for part in parts], count
        self._kept: defaultdict[Any, list[list[Tensor]]] = defaultdict(list)  # by what is masked; by call, by part
        self._calls: Counter[Any] = Counter()
        self._part = -1

    def __enter__(self) -> Self:
        self._part += 1
        self._calls.clear()
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in DROPOUTS or len(self._rows[self._part]) == self._count:
            return func(*args, **kwargs)
        return self._masked(func, *args, **kwargs)

    def _masked(
        self, dropout: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p in (0, 1) or input.ndim == 0 or len(input) != len(self._rows[self._part]):
            return dropout(input, p, training, inplace)  # type: ignore[no-any-return]
        masked = dropout, p, input.shape[1:]
        kept, call = self._kept[masked], self._calls[masked]
        if call == len(kept):
            drawn: Tensor = dropout(_ones_laid_out_as(input, self._count), p, True) != 0
            kept.append([drawn[rows] for rows in self._rows])
        self._calls[masked] += 1
        return input * kept[call][self._part].to(input.dtype).div_(1 - p)


def _ones_laid_out_as(input: Tensor, count: int) -> Tensor:
    """(count, ...) for an input of fewer examples: random numbers go by the order of memory."""
    if not is_channels_last(input):
        return input.new_ones(count, *input.shape[1:])
    return input.new_ones(count, *input.shape[2:], input.shape[1]).movedim(-1, 1)
