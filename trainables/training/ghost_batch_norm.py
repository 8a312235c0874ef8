"""Ghost batch norm: a large batch normalized in small groups (Hoffer et al. 2017, arXiv 1705.08741, Algorithm 1).

In training mode every group of `group_size` examples is normalized by its own mean and variance, so that a large batch
keeps the noise of a small one's statistics. Of B examples in k = B // group_size groups, group j holds the examples
j, j + k, j + 2k, ...: batches come in random order, so any partition will do, and this one is a view, normalized by
one call on k * C channels. What is left over is a group of its own; a single example joins the last group.

The running statistics take the groups one after another, as plain batch norm would after k small batches:

    run <- (1 - momentum)^k run + sum_j momentum (1 - momentum)^(k - 1 - j) statistic_j

(the paper's formula raises to the power of the group size where it must mean the number of groups). Evaluation is plain
batch norm's, and so are the names and shapes of weights and buffers: a state dict loads either way.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.runtime.errors import UserError


class _GhostBatchNorm(_BatchNorm):
    group_size: int

    def forward(self, input: Tensor) -> Tensor:
        """`input` (B, C, ...), normalized per group in training mode."""
        examples = len(input)
        groups, left = divmod(examples, self.group_size)
        if left == 1:  # one example has no variance
            groups, left = groups - 1, self.group_size + 1
        if not self.training or examples <= self.group_size or groups == 0:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        output, mean, variance = self._normalize(input[: examples - left], groups)
        if left:
            last, last_mean, last_variance = self._normalize(input[examples - left :], 1)
            output = torch.cat([output, last])
            mean, variance = torch.cat([mean, last_mean]), torch.cat([variance, last_variance])
        if self.track_running_stats:
            self._update_running(mean, variance)
        return output

    def _normalize(self, input: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
        """The output, and mean and unbiased variance of each group, (groups, C)."""
        channels = input.shape[1]
        kept = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
        mean, variance = torch.zeros(2, groups * channels, dtype=kept, device=input.device)
        output = batch_norm(
            _as_channels(input, groups),
            mean,
            variance,
            None if self.weight is None else self.weight.repeat(groups),
            None if self.bias is None else self.bias.repeat(groups),
            training=True,
            momentum=1.0,  # the buffers above take the batch's statistics whole
            eps=self.eps,
        )
        return _as_examples(output, groups), mean.view(groups, channels), variance.view(groups, channels)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        """Counts each group as a batch; without `momentum` the average over all batches so far."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        groups = len(mean)
        keep: float | Tensor
        if self.momentum is None:
            before = self.num_batches_tracked.to(mean.dtype)
            keep = before / (before + groups)
            weights = torch.ones(groups, dtype=mean.dtype, device=mean.device) / (before + groups)
        else:
            keep = (1 - self.momentum) ** groups
            age = torch.arange(groups - 1, -1, -1, dtype=mean.dtype, device=mean.device)
            weights = self.momentum * (1 - self.momentum) ** age
        self.running_mean.mul_(keep).add_(weights @ mean)
        self.running_var.mul_(keep).add_(weights @ variance)
        self.num_batches_tracked += groups


def _as_channels(input: Tensor, groups: int) -> Tensor:
    """(B, C, ...) as (B / groups, groups * C, ...), in the layout that it has: another one would slow what follows."""
    if not is_channels_last(input):
        return input.reshape(-1, groups * input.shape[1], *input.shape[2:])
    grouped: Tensor = input.movedim(1, -1).unflatten(0, (-1, groups))
    return grouped.movedim(1, -2).flatten(-2).movedim(-1, 1)


def _as_examples(output: Tensor, groups: int) -> Tensor:
    """The inverse of `_as_channels`."""
    if not is_channels_last(output):
        return output.reshape(-1, output.shape[1] // groups, *output.shape[2:])
    grouped: Tensor = output.movedim(1, -1).unflatten(-1, (groups, -1))
    return grouped.movedim(-2, 1).flatten(0, 1).movedim(-1, 1)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the numbers of `tensor` (B, C, ...) lie as images do in PyTorch's channels-last layouts, and only so."""
    return tensor.ndim > 3 and not tensor.is_contiguous() and tensor.movedim(1, -1).is_contiguous()


class GhostBatchNorm1d(_GhostBatchNorm, nn.BatchNorm1d):
    """nn.BatchNorm1d over groups."""


class GhostBatchNorm2d(_GhostBatchNorm, nn.BatchNorm2d):
    """nn.BatchNorm2d over groups."""


class GhostBatchNorm3d(_GhostBatchNorm, nn.BatchNorm3d):
    """nn.BatchNorm3d over groups."""


GHOSTS: Mapping[type[nn.Module], type[_GhostBatchNorm]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}


def use_ghost_batch_norm(model: nn.Module, group_size: int) -> None:
    """Turn every batch norm of `model` into ghost batch norm over groups of `group_size` examples, in place.

    Raises UserError for a group of less than 2 examples, and for a model without batch norm.
    """
    if group_size < 2:
        raise UserError(f"`ghost_batch_size` must be at least 2, got {group_size}; one example has no variance")
    layers: list[Any] = [
        module for module in model.modules() if isinstance(module, _GhostBatchNorm) or type(module) in GHOSTS
    ]
    if not layers:
        raise UserError(
            f"`ghost_batch_size` cannot be used with a model without batch norm, got {group_size} for "
            f"{type(model).__name__}; `noise_batch_size` works for any model"
        )
    change_classes(layers, GHOSTS)
    for layer in layers:
        layer.group_size = group_size


def change_classes(layers: Iterable[Any], classes: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """Give each layer the class that `classes` has for its own; the other layers keep theirs.

    PyTorch's parametrizations do the same. The layers stay the same objects: a network that keeps some of them in a
    list would go on calling layers that had been replaced.
    """
    for layer in layers:
        layer.__class__ = classes.get(type(layer), type(layer))
