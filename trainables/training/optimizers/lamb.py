"""LAMB: Adam with decoupled weight decay whose step is adapted to each layer (You et al. 2020, arXiv 1904.00962).

Algorithm 2 of the paper with phi the identity. For a weight w of two or more dimensions with gradient g, at its step t:

    m = beta1 * m + (1 - beta1) * g              m_hat = m / (1 - beta1^t)
    v = beta2 * v + (1 - beta2) * g^2            v_hat = v / (1 - beta2^t)
    u = m_hat / (sqrt(v_hat) + eps) + weight_decay * w
    w = w - lr * ||w|| / ||u|| * u

Trap: biases and the scales and shifts of norms (one dimension) are neither adapted nor decayed, as is the custom: they
take Adam's step, w - lr * m_hat / (sqrt(v_hat) + eps). Where ||w|| or ||u|| is 0 the ratio is 1. Unlike some versions
this one does not clip the gradient by itself. Adam's part is PyTorch's own fused kernel.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trainables.training.optimizers.plain import PlainOptimizer, adam_step, moments


class LAMB(PlainOptimizer):
    """`lr`, `betas`, `eps` and `weight_decay`."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        # -m_hat / (sqrt(v_hat) + eps): where Adam with rate 1 goes from 0.
        directions = [torch.zeros_like(p) for p in parameters]
        adam_step(directions, gradients, moments(self.state, parameters), group, lr=1.0, weight_decay=0.0)
        adapted = [place for place, p in enumerate(parameters) if p.ndim > 1]
        if adapted:
            weights, updates = [parameters[place] for place in adapted], [directions[place] for place in adapted]
            torch._foreach_add_(updates, weights, alpha=-group["weight_decay"])
            torch._foreach_mul_(updates, _trust_ratios(weights, updates))
        torch._foreach_add_(parameters, directions, alpha=group["lr"])


def _trust_ratios(weights: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
    """||w|| / ||u|| of each layer, as scalars on the device: nothing waits for it."""
    weight_norms = torch.stack(torch._foreach_norm(weights))
    update_norms = torch.stack(torch._foreach_norm(updates))
    defined = (weight_norms > 0) & (update_norms > 0)
    return list(torch.where(defined, weight_norms / update_norms, 1.0).unbind())
