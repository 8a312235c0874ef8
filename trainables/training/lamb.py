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

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT


class LAMB(torch.optim.Optimizer):
    """`lr`, `betas`, `eps` and `weight_decay` hold per parameter group."""

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        # `fused` tells load_state_dict to put the step counts on the device, where the fused kernel wants them.
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "fused": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; with a closure, from the gradient that it computes."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        parameters = sorted(parameters, key=lambda p: p.ndim <= 1)  # layers first, then what is not adapted
        layers = [p for p in parameters if p.ndim > 1]
        directions = self._adam_directions(parameters, group)
        if layers:
            adapted = directions[: len(layers)]
            torch._foreach_add_(adapted, layers, alpha=-group["weight_decay"])
            torch._foreach_mul_(adapted, _trust_ratios(layers, adapted))
        torch._foreach_add_(parameters, directions, alpha=group["lr"])

    def _adam_directions(self, parameters: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """-m_hat / (sqrt(v_hat) + eps) of each parameter: where PyTorch's Adam with rate 1 goes from 0."""
        for p in parameters:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                self.state[p].update(exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        states = [self.state[p] for p in parameters]
        directions = [torch.zeros_like(p) for p in parameters]
        adam(
            directions,
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=1.0,
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )
        return directions


def _trust_ratios(weights: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
    """||w|| / ||u|| of each layer, as scalars on the device: nothing waits for it."""
    weight_norms = torch.stack(torch._foreach_norm(weights))
    update_norms = torch.stack(torch._foreach_norm(updates))
    defined = (weight_norms > 0) & (update_norms > 0)
    return list(torch.where(defined, weight_norms / update_norms, 1.0).unbind())
