"""Per-example gradients of a layer's parameters, from the backward pass of a whole batch.

They follow from the layer's inputs x and the gradients y of the loss with respect to its outputs. With T positions
(tokens of a sequence, pixels of an image) an example's gradient is

    linear          weight  sum_t y_t x_t'                       bias  sum_t y_t
    convolution     weight  sum_t y_t (patch of x at t)', for each group of channels
    embedding       weight  sum_t e(token_t) y_t', e(k) the k-th unit vector
    normalization   weight  sum_t y_t xhat_t, xhat the normalized input      bias  sum_t y_t

The first three are sums of T outer products a_t b_t', of size (o, k). The squared norm can be computed without the
gradient,

    |sum_t a_t b_t'|^2 = sum_{t,s} (a_t'a_s) (b_t'b_s)           T^2 (o + k) multiplications

or from the gradient itself, with T o k multiplications. The cheaper way is taken. If a parameter is used several times
in a pass (tied weights, a layer that is called again), the inner products between its uses are added.

Goodfellow 2015 (arXiv 1510.01799); Li et al. 2022 (arXiv 2110.05679, section 4); Gray et al. 2024 (arXiv 2411.00999).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CHUNK_NUMBERS = 2**22  # of an intermediate result held at once


@dataclass(frozen=True)
class Whole:
    """Gradients of N examples, (N, ...)."""

    values: Tensor

    def squared(self) -> Tensor:
        return self.values.square().flatten(1).sum(1)

    def inner(self, other: "Whole") -> Tensor:
        return (self.values * other.values).flatten(1).sum(1)


@dataclass(frozen=True)
class Outer:
    """Gradients of N examples and G groups as sums of T outer products: `left` (N, G, T, o), `right` (N, G, T, k).

    Unit vectors on the left are given by their indices, (N, G, T) integers.
    """

    left: Tensor
    right: Tensor

    def squared(self) -> Tensor:
        positions, inputs = self.right.shape[-2:]
        if self._is_sparse:
            return self.inner(self)
        if positions == 1:
            return (_squares(self.left) * _squares(self.right)).flatten(1).sum(1)
        outputs = self.left.shape[-1]
        if positions * (outputs + inputs) <= outputs * inputs:
            return self.inner(self)
        parts = _chunks(len(self.right), self.right.shape[1] * outputs * inputs)
        return torch.cat([self._squared_directly(part) for part in parts])

    def _squared_directly(self, part: slice) -> Tensor:
        left, right = self.left[part], self.right[part]
        return (left.transpose(-1, -2) @ right).square().flatten(1).sum(1)

    def inner(self, other: "Outer") -> Tensor:
        if self._is_sparse < other._is_sparse:
            return other.inner(self)
        size = self.right.shape[1] * self.right.shape[2] * other.right.shape[2]
        parts = _chunks(len(self.right), size)
        return torch.cat([self._inner(other, part) for part in parts])

    def _inner(self, other: "Outer", part: slice) -> Tensor:
        rights = self.right[part] @ other.right[part].transpose(-1, -2)  # (N, G, T, S)
        one, two = self.left[part], other.left[part]
        if not self._is_sparse:
            return (rights * (one @ two.transpose(-1, -2))).flatten(1).sum(1)
        if other._is_sparse:
            return torch.where(one.unsqueeze(-1) == two.unsqueeze(-2), rights, 0.0).flatten(1).sum(1)
        places = one.unsqueeze(-2).expand(*two.shape[:-1], one.shape[-1])  # (N, G, S, T)
        return (rights * two.gather(-1, places).transpose(-1, -2)).flatten(1).sum(1)

    @property
    def _is_sparse(self) -> bool:
        return not self.left.is_floating_point()


Gradient = Whole | Outer


def squared_norms(uses: Sequence[Gradient]) -> Tensor:
    """(N,): squared norms of the sum of a parameter's gradients over its uses, all of one class."""
    total = sum((use.squared() for use in uses[1:]), uses[0].squared())
    for index, use in enumerate(uses):
        for other in uses[:index]:
            total = total + 2 * use.inner(other)  # type: ignore[arg-type]
    return total


def _squares(tensor: Tensor) -> Tensor:
    return tensor.square().sum(-1)


def _chunks(count: int, numbers: int) -> Iterator[slice]:
    step = max(1, CHUNK_NUMBERS // max(1, numbers))
    return (slice(first, first + step) for first in range(0, count, step))


Named = dict[str, Gradient]


def _linear(layer: Any, x: Tensor, y: Tensor) -> Named:
    count = len(y)
    rows, columns = (tensor.reshape(count, 1, -1, tensor.shape[-1]) for tensor in (y, x))
    return {"weight": Outer(rows, columns), "bias": Whole(rows.sum((1, 2)))}


def _convolution(layer: Any, x: Tensor, y: Tensor) -> Named:
    count, groups = len(y), layer.groups
    rows = y.reshape(count, groups, y.shape[1] // groups, -1).transpose(2, 3)
    mode = "constant" if layer.padding_mode == "zeros" else str(layer.padding_mode)
    patches = F.pad(x, _padding(layer), mode=mode)
    axes = len(layer.kernel_size)
    for axis, size, stride, dilation in zip(
        range(2, 2 + axes), layer.kernel_size, layer.stride, layer.dilation, strict=True
    ):
        patches = patches.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    patches = patches.movedim(1, 1 + axes)  # (N, positions ..., C, kernel ...)
    columns = patches.reshape(count, rows.shape[2], groups, -1).transpose(1, 2)
    return {"weight": Outer(rows, columns), "bias": Whole(y.flatten(2).sum(2))}


def _padding(layer: Any) -> list[int]:
    """The padding of a convolution before and after each axis, last axis first, as `F.pad` takes it."""
    sides = {"valid": [(0, 0)] * len(layer.kernel_size)}
    totals = [(size - 1) * dilation for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)]
    sides["same"] = [(total // 2, total - total // 2) for total in totals]
    own = sides[layer.padding] if isinstance(layer.padding, str) else [(size, size) for size in layer.padding]
    return [size for pair in reversed(own) for size in pair]


def _embedding(layer: Any, tokens: Tensor, y: Tensor) -> Named:
    count = len(y)
    if layer.padding_idx is not None:
        y = y.masked_fill((tokens == layer.padding_idx).unsqueeze(-1), 0.0)
    return {"weight": Outer(tokens.reshape(count, 1, -1), y.reshape(count, 1, -1, y.shape[-1]))}


def _of_last_axes(normalized: Tensor, y: Tensor, shape: tuple[int, ...]) -> Named:
    def summed(tensor: Tensor) -> Whole:
        return Whole(tensor.reshape(len(y), -1, *shape).sum(1))

    return {"weight": summed(y * normalized), "bias": summed(y)}


def _of_channels(normalized: Tensor, y: Tensor) -> Named:
    def summed(tensor: Tensor) -> Whole:
        return Whole(tensor.flatten(2).sum(2) if tensor.ndim > 2 else tensor)

    return {"weight": summed(y * normalized), "bias": summed(y)}


def _layer_norm(layer: Any, x: Tensor, y: Tensor) -> Named:
    return _of_last_axes(F.layer_norm(x, layer.normalized_shape, eps=layer.eps), y, layer.normalized_shape)


def _rms_norm(layer: Any, x: Tensor, y: Tensor) -> Named:
    return _of_last_axes(F.rms_norm(x, layer.normalized_shape, eps=layer.eps), y, layer.normalized_shape)


def _group_norm(layer: Any, x: Tensor, y: Tensor) -> Named:
    return _of_channels(F.group_norm(x, layer.num_groups, eps=layer.eps), y)


def _instance_norm(layer: Any, x: Tensor, y: Tensor) -> Named:
    return _of_channels(F.instance_norm(x, eps=layer.eps), y)


def _batch_norm_in_evaluation(layer: Any, x: Tensor, y: Tensor) -> Named:
    return _of_channels(F.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps), y)


Rule = Callable[[Any, Tensor, Tensor], Named]
NORMALIZATION: dict[type[nn.Module], Rule] = {
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _instance_norm),
    _BatchNorm: _batch_norm_in_evaluation,
}
OTHERS: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    nn.Embedding: _embedding,
}
OF_LAST_AXIS = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm)  # any axes may come before it


def rule_of(layer: nn.Module, only_normalization: bool) -> Rule | None:
    """The function from inputs and output gradients of `layer` to its per-example gradients; None if unsupported."""
    rules = NORMALIZATION if only_normalization else {**NORMALIZATION, **OTHERS}
    return next((rule for kind, rule in rules.items() if isinstance(layer, kind)), None)
