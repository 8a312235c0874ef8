"""The optimizers: PyTorch's fused updates (one kernel for all parameters), and those for large batches."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.sgd import sgd

from trainables.config import TrialConfig
from trainables.training.optimizers.adam import Adam
from trainables.training.optimizers.full_batch import GradientDescent, full_batch_lbfgs
from trainables.training.optimizers.lamb import LAMB
from trainables.training.optimizers.lars import LARS
from trainables.training.optimizers.optimizer import Optimizer, PlainOptimizer


class SGD(PlainOptimizer):
    """`torch.optim.SGD(fused=True)`, to the same bits: `lr`, `momentum` and `weight_decay`."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        velocities: list[Tensor | None] = [self.state[p].get("momentum_buffer") for p in parameters]
        sgd(
            parameters,
            gradients,
            velocities,
            fused=True,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if group["momentum"]:
            for p, velocity in zip(parameters, velocities, strict=True):
                self.state[p]["momentum_buffer"] = velocity


class Adagrad(PlainOptimizer):
    """`torch.optim.Adagrad(fused=True)`, to the same bits: `lr`, `eps` and `weight_decay`."""

    def __init__(self, params: Iterable[Tensor], lr: float, *, eps: float = 1e-10, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if p not in self.state:
                self.state[p] = {"step": torch.zeros((), device=p.device), "sum": torch.zeros_like(p)}
        adagrad(
            parameters,
            gradients,
            [self.state[p]["sum"] for p in parameters],
            [self.state[p]["step"] for p in parameters],
            fused=True,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            lr_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )


def build_optimizer(config: TrialConfig, parameters: Iterable[Tensor]) -> Optimizer:
    """Adam (beta 0.9, 0.999, epsilon 1e-8), SGD with momentum or Adagrad; with layer adaptation LAMB and LARS.

    Weight decay is an L2 term in the gradient; LARS and LAMB have their own. `gradient_descent` and `lbfgs` search
    along a line, and take a closure.
    """
    rate, decay = config.learning_rate, config.weight_decay
    momentum = config.canonical().momentum or 0.0
    match config.optimizer, config.layer_adaptation:
        case "adam", False:
            return Adam(parameters, rate, weight_decay=decay)
        case "sgd", False:
            return SGD(parameters, rate, momentum=momentum, weight_decay=decay)
        case "adam", True:
            return LAMB(parameters, rate, weight_decay=decay)
        case "sgd", True:
            return LARS(parameters, rate, momentum=momentum, weight_decay=decay)
        case "adagrad", _:
            return Adagrad(parameters, rate, weight_decay=decay)
        case "gradient_descent", _:
            return GradientDescent(parameters, rate)
        case _:
            return full_batch_lbfgs(parameters, rate)


def scale_velocity(optimizer: Optimizer, factor: float) -> None:
    """Multiplies every momentum buffer: an SGD velocity that has absorbed the learning rate of its time."""
    buffers = [
        state["momentum_buffer"] for state in optimizer.state.values() if state.get("momentum_buffer") is not None
    ]
    if buffers:
        torch._foreach_mul_(buffers, factor)
