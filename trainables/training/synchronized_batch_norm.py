"""Batch norm whose groups are spread over the workers of a trial: mean and variance of all examples, wherever they are.

    mean_k = sum of group k / its count        variance_k = sum of (x - mean_k)^2 / its count

each sum over the workers, two messages forward and two backward per layer. The group is the whole batch for plain batch
norm, or one of ghost batch norm's. Running statistics are computed alike on every worker, group by group. It is our own
because torch.nn.SyncBatchNorm works on GPUs alone, and knows no groups within a batch.

Where no group is spread (`Spread.groups` is None) these layers are the ghost batch norm they were.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.runtime.errors import UserError
from trainables.training.ghost_batch_norm import (
    GHOSTS,
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    _GhostBatchNorm,
    change_classes,
    use_ghost_batch_norm,
)
from trainables.training.parallel import Workers


@dataclass(frozen=True)
class Groups:
    """The groups of a batch, seen from one worker's n examples in it."""

    member: Tensor  # (n, K): 1 where the example is in the group, else 0
    counted: Tensor  # (n, K): the same, or 0 for examples that only stand in for none
    sizes: Tensor  # (K,): the examples of the whole batch


class Spread:
    """What the layers of one model share: the workers, and the groups of the batch that is being normalized."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.groups: Groups | None = None


class _SynchronizedBatchNorm(_GhostBatchNorm):
    spread: Spread

    def forward(self, input: Tensor) -> Tensor:
        """`input` (n, C, ...), this worker's examples; normalized, in training mode, by groups of all workers'."""
        groups = self.spread.groups
        if not self.training or groups is None:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        rows = input.reshape(*input.shape[:2], -1)
        rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        member, counted, sizes = (each.to(rows.dtype) for each in (groups.member, groups.counted, groups.sizes))
        numbers = sizes[:, None] * rows.shape[2]
        mean = self.spread.workers.sum(counted.T @ rows.sum(2)) / numbers
        deviation = rows - (member @ mean)[:, :, None]
        variance = self.spread.workers.sum(counted.T @ deviation.square().sum(2)) / numbers
        output = deviation * (member @ (variance + self.eps).rsqrt())[:, :, None]
        if self.weight is not None:
            output = output * self.weight[:, None] + self.bias[:, None]
        if self.track_running_stats:
            self._update_running(mean.detach(), (variance * numbers / (numbers - 1)).detach())
        return output.to(input.dtype).reshape(input.shape)


class SynchronizedBatchNorm1d(_SynchronizedBatchNorm, GhostBatchNorm1d):
    """nn.BatchNorm1d over groups that several workers share."""


class SynchronizedBatchNorm2d(_SynchronizedBatchNorm, GhostBatchNorm2d):
    """nn.BatchNorm2d over groups that several workers share."""


class SynchronizedBatchNorm3d(_SynchronizedBatchNorm, GhostBatchNorm3d):
    """nn.BatchNorm3d over groups that several workers share."""


SYNCHRONIZED: Mapping[type[nn.Module], type[_SynchronizedBatchNorm]] = {
    GhostBatchNorm1d: SynchronizedBatchNorm1d,
    GhostBatchNorm2d: SynchronizedBatchNorm2d,
    GhostBatchNorm3d: SynchronizedBatchNorm3d,
}


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers of `model` whose output for an example depends on the others of the batch."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def use_synchronized_batch_norm(model: nn.Module, spread: Spread) -> None:
    """Makes every batch norm of `model`, plain or ghost, one that `spread` may synchronize, in place.

    Raises UserError for a layer derived from PyTorch's batch norm: what it computes is not known here.
    """
    layers: list[Any] = batch_norms(model)
    for layer in layers:
        if type(layer) not in {*GHOSTS, *SYNCHRONIZED, *SYNCHRONIZED.values()}:
            raise UserError(
                f"`workers_per_trial` must be 1 for batch norm of the type {type(layer).__name__}; "
                "nn.BatchNorm1d, 2d and 3d can be synchronized"
            )
    if layers and not any(isinstance(layer, _GhostBatchNorm) for layer in layers):
        use_ghost_batch_norm(model, sys.maxsize)  # one group, the batch
    change_classes(layers, SYNCHRONIZED)
    for layer in layers:
        layer.spread = spread


@contextmanager
def combined_running_statistics(layers: list[_BatchNorm], workers: Workers, groups: int) -> Iterator[None]:
    """Inside, a worker's groups alone move the running statistics of `layers`; afterwards all `groups` have.

    With r_w what the groups of worker w make of 0, m the momentum and n the batches tracked before,

        run <- (1 - m)^K run + sum_w (1 - m)^(groups after those of w) r_w        K = `groups`
        run <- (n run + sum_w (groups of w) r_w) / (n + K)                        without momentum

    which is what one worker comes to. One message for all layers. A layer that was not called stays as it was.
    """
    own = workers.share(groups)
    buffers: list[Any] = [(layer.running_mean, layer.running_var, layer.num_batches_tracked) for layer in layers]
    before = [[buffer.clone() for buffer in three] for three in buffers]
    for three in buffers:
        for buffer in three:
            buffer.zero_()
    yield
    with torch.no_grad():
        keeps = []
        for layer, (mean, variance, _), (*_, tracked) in zip(layers, buffers, before, strict=True):
            if layer.momentum is None:
                batches = tracked.to(mean.dtype)
                keep, weight = batches / (batches + groups), (own.stop - own.start) / (batches + groups)
            else:
                keep = torch.full_like(mean[0], (1 - layer.momentum) ** groups)
                weight = (1 - layer.momentum) ** (groups - own.stop) * (own.stop > own.start)
            keeps.append(keep)
            mean.mul_(weight)
            variance.mul_(weight)
        moments = [moment for mean, variance, _ in buffers for moment in (mean, variance)]
        sums = iter(workers.sum(torch.cat(moments)).split([len(moment) for moment in moments]))
        for keep, three, olds in zip(keeps, buffers, before, strict=True):
            was_called = three[2] > 0
            for now, old in zip(three[:2], olds[:2], strict=True):
                now.copy_(torch.where(was_called, keep * old + next(sums), old))
            three[2].copy_(torch.where(was_called, olds[2] + groups, olds[2]))
