"""How a batch is cut: into one share per worker, and each into micro-batches that fit the memory; the numbers stay.

The gradient of the whole batch's mean loss is the sum over its parts of their own means, each weighted by its share of
the examples, or of their weights where the task has some (padded tokens). What could depend on the cut does not:

- Batch norm. A part holds whole groups: single examples without batch norm, ghost batch norm's groups, or else the
  batch. Taken in order, the groups of a part are those that the layer makes of it (group j holds j, j + k, ...), so no
  layer knows that its input is a part. Where there are fewer groups than workers they are spread over all of these
  and synchronized instead. Running statistics take the groups in the order that they have in the batch.
- Dropout. A part's masks are its rows of the masks of the whole batch, which a worker's first part draws.
- A worker without examples repeats a part with weight 0, so that all draw and exchange the same things.

- Attention. Its dropout is handled likewise, in `F.scaled_dot_product_attention` and `nn.MultiheadAttention`.

Traps: masks are the whole batch's only where dropout gets tensors whose first dimension is the batch, or the batch
times the heads. The dropout inside nn.LSTM draws its own for each part. On a GPU a fused attention kernel draws other
masks for a whole batch than are drawn here for its parts; `gpt`, `vit` and `seq2seq` do not use it with dropout. A
layer that is called twice in one pass takes both calls of a part before the next part into its running statistics.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainables.runtime.errors import UserError
from trainables.runtime.seeds import preserve_rng
from trainables.tasks.task import TINY
from trainables.training.parallel import Workers
from trainables.training.synchronized_batch_norm import (
    Groups,
    Spread,
    batch_norms,
    combined_running_statistics,
    use_synchronized_batch_norm,
)

MOST_SIZES = 64  # of batches whose parts are kept: a batch that grows has ever new ones
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)


@dataclass(frozen=True)
class Part:
    """Some examples of a batch: `rows`, where in it they are, and `weight`, their share of its examples, or 0."""

    rows: Tensor
    weight: float
    groups: Groups | None = None  # where they are spread over the workers

    def of_mean(self, mean: Tensor, weights: Tensor | None) -> Tensor:
        """`mean`, that of these examples, times their share in the batch: `weight`, or by the batch's `weights`."""
        if weights is None or not self.weight:
            return mean * self.weight
        own, whole = (some.sum(dtype=torch.float64) for some in (weights[self.rows], weights))
        return mean * (own / whole.clamp(min=TINY)).to(mean.dtype)


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

    def gradient(self, count: int, loss: Callable[[Tensor], Tensor], weights: Tensor | None = None) -> Tensor:
        """Leaves in `.grad`, which is empty before, the gradient of a batch's mean loss; returns that loss.

        `loss(rows)` is the mean over these examples of the batch, `weights` (count,) what each weighs in it.
        """
        losses = []

        def add(part: Part) -> None:
            share = part.of_mean(loss(part.rows), weights)
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
        with preserve_rng(self._device):  # workers may have more and fewer parts, and draw as one
            for part in parts[1:]:
                do(part)

    def of(self, count: int) -> list[Part]:
        """This worker's parts of a batch of `count` examples.

        Raises UserError where a micro-batch cannot hold one group of batch norm.
        """
        if count not in self._of_size:
            if len(self._of_size) == MOST_SIZES:
                self._of_size.clear()
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
        if len(self._rows[self._part]) == self._count:
            return func(*args, **kwargs)
        if func in DROPOUTS:
            return self._masked(func, *args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is F.multi_head_attention_forward:  # in it this mode is off
            names = {"dropout": partial(self._masked, F.dropout), "scaled_dot_product_attention": self._attention}
            own = FunctionType(func.__code__, {**func.__globals__, **names}, None, func.__defaults__)
            return own(*args, **kwargs)
        if func is Tensor.bernoulli_:
            return self._bernoulli(*args, **kwargs)
        return func(*args, **kwargs)

    def _masked(
        self, dropout: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        mask = self._mask(dropout, input, p) if training else None
        if mask is None:
            return dropout(input, p, training, inplace)  # type: ignore[no-any-return]
        return input * mask.to(input.dtype).div_(1 - p)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        """Attention whose dropout is that of its weights (..., T, S); no fused kernel takes a mask for it."""
        weights = query.new_empty(*query.shape[:-1], key.shape[-2]) if dropout_p else query
        mask = self._mask(F.dropout, weights, dropout_p)
        if mask is None:
            return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **options)
        weights = torch._scaled_dot_product_attention_math(query, key, value, attn_mask, 0.0, is_causal, **options)[1]
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3) if query.ndim > 3 else value
        return (weights * mask.to(weights.dtype).div_(1 - dropout_p)) @ value

    def _mask(self, dropout: Any, input: Tensor, p: float) -> Tensor | None:
        """What of `input` is kept; None where nothing is dropped, or `input` does not hold this part's examples."""
        if p in (0, 1):
            return None
        return self._own((dropout, p), input, lambda ones: dropout(ones, p, True) != 0)

    def _bernoulli(self, input: Tensor, p: Any = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
        """Masks of stochastic depth."""
        is_simple = isinstance(p, float) and generator is None
        drawn = self._own(("bernoulli", p), input, lambda ones: ones.bernoulli_(p)) if is_simple else None
        return input.bernoulli_(p, generator=generator) if drawn is None else input.copy_(drawn)

    def _own(self, purpose: Any, input: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor | None:
        """This part's rows of what `draw` makes of ones like `input` for the whole batch.

        An example has one row, or several that follow each other, such as one for each head. None where the rows are
        not those of this part's examples.
        """
        each, rest = divmod(len(input), len(self._rows[self._part])) if input.ndim else (0, 0)
        if rest or not each:
            return None
        masked = *purpose, each, input.shape[1:]
        kept, call = self._kept[masked], self._calls[masked]
        if call == len(kept):
            drawn = draw(_ones_laid_out_as(input, each * self._count))
            if each > 1:
                drawn = drawn.unflatten(0, (self._count, each))
            kept.append([drawn[rows].flatten(0, 1) if each > 1 else drawn[rows] for rows in self._rows])
        self._calls[masked] += 1
        return kept[call][self._part]


def _ones_laid_out_as(input: Tensor, count: int) -> Tensor:
    """(count, ...) for an input of fewer examples: random numbers go by the order of memory.

    Of one example, whose place in that order no stride tells, equal strides say that it comes late.
    """
    strides = input.stride()
    order = sorted(range(input.ndim), key=lambda dimension: (-strides[dimension], dimension == 0))
    sizes = (count, *input.shape[1:])
    laid_out = input.new_ones([sizes[dimension] for dimension in order])
    return laid_out.permute([order.index(dimension) for dimension in range(input.ndim)])
