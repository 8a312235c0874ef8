"""LARS: SGD with momentum whose rate is adapted to each layer (You, Gitman, Ginsburg 2017, arXiv 1708.03888).

For a weight w of two or more dimensions, with gradient g (Algorithm 1 of the paper):

    local = trust * ||w|| / (||g|| + weight_decay * ||w||)
    v     = momentum * v + local * (g + weight_decay * w)
    w     = w - lr * v

The rate stays outside the velocity v, as in PyTorch's SGD; the paper has it inside. Both are the same at a constant
rate, and this form needs no correction when the rate changes (Goyal et al. 2017, remark 2).

Trap: biases and the scales and shifts of norms (one dimension) are neither adapted nor decayed, as is the custom: they
start at 0 or near it, and a rate in proportion to their norm would freeze them. They take plain SGD steps with the same
`lr`, which LARS wants far larger than SGD. Where ||w|| is 0, or both ||g|| and the decay, local is 1.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trainables.training.optimizers.plain import PlainOptimizer


class LARS(PlainOptimizer):
    """`lr`, `momentum`, `weight_decay` and `trust` (the paper's eta)."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, trust=trust)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        directions = list(gradients)
        adapted = [place for place, p in enumerate(parameters) if p.ndim > 1]
        if adapted:
            weights, slopes = [parameters[place] for place in adapted], [gradients[place] for place in adapted]
            ratios = _local_rates(weights, slopes, group["trust"], group["weight_decay"])
            steps = torch._foreach_add(slopes, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(steps, ratios)
            for place, step in zip(adapted, steps, strict=True):
                directions[place] = step
        if group["momentum"]:
            for p in parameters:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            velocities = [self.state[p]["momentum_buffer"] for p in parameters]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, directions)
            directions = velocities
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])


def _local_rates(weights: list[Tensor], gradients: list[Tensor], trust: float, weight_decay: float) -> list[Tensor]:
    """`local` of each layer, as scalars on the device: nothing waits for it."""
    weight_norms = torch.stack(torch._foreach_norm(weights))
    below = torch.stack(torch._foreach_norm(gradients)) + weight_decay * weight_norms
    defined = (weight_norms > 0) & (below > 0)
    return list(torch.where(defined, trust * weight_norms / below, 1.0).unbind())
