"""Adam (Kingma and Ba 2015), by PyTorch's fused kernel: the same bits as `torch.optim.Adam(fused=True)`."""

from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from trainables.training.optimizers.optimizer import PlainOptimizer


class Adam(PlainOptimizer):
    """`weight_decay` is an L2 term in the gradient."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        states = moments(self.state, parameters)
        adam_step(parameters, gradients, states, group, lr=group["lr"], weight_decay=group["weight_decay"])


def moments(state: MutableMapping[Tensor, dict[str, Any]], parameters: list[Tensor]) -> list[dict[str, Tensor]]:
    """The step count and the two moments of each parameter; zeros are left in `state` where there are none yet."""
    for p in parameters:
        if p not in state:
            zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            state[p] = {"step": torch.zeros((), dtype=torch.float32, device=p.device), **zeros}
    return [state[p] for p in parameters]


def adam_step(
    points: list[Tensor],
    gradients: list[Tensor],
    moments: list[dict[str, Tensor]],
    group: dict[str, Any],
    *,
    lr: float,
    weight_decay: float,
) -> None:
    """Moves the `points` and their `moments` by one step of Adam with the `betas` and `eps` of `group`."""
    adam(
        points,
        gradients,
        [of_one["exp_avg"] for of_one in moments],
        [of_one["exp_avg_sq"] for of_one in moments],
        [],
        [of_one["step"] for of_one in moments],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=lr,
        weight_decay=weight_decay,
        eps=group["eps"],
        maximize=False,
    )
