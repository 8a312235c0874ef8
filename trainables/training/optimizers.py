"""The optimizers: PyTorch's own in their fused form (one kernel for all parameters), and those for large batches."""

from collections.abc import Iterable

import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.training.full_batch import GradientDescent, full_batch_lbfgs
from trainables.training.lamb import LAMB
from trainables.training.lars import LARS


def build_optimizer(config: TrialConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam (beta 0.9, 0.999, epsilon 1e-8), SGD with momentum or Adagrad; with layer adaptation LAMB and LARS.

    Weight decay is an L2 term in the gradient; LARS and LAMB have their own. `gradient_descent` and `lbfgs` search
    along a line, and take a closure.
    """
    rate, decay = config.learning_rate, config.weight_decay
    momentum = config.canonical().momentum or 0.0
    match config.optimizer, config.layer_adaptation:
        case "adam", False:
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
        case "sgd", False:
            return torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay, fused=True)
        case "adam", True:
            return LAMB(parameters, lr=rate, weight_decay=decay)
        case "sgd", True:
            return LARS(parameters, lr=rate, momentum=momentum, weight_decay=decay)
        case "adagrad", _:
            return torch.optim.Adagrad(parameters, lr=rate, weight_decay=decay, fused=True)
        case "gradient_descent", _:
            return GradientDescent(parameters, lr=rate)
        case _:
            return full_batch_lbfgs(parameters, rate)


def scale_velocity(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiplies every momentum buffer: an SGD velocity that has absorbed the learning rate of its time."""
    buffers = [
        state["momentum_buffer"] for state in optimizer.state.values() if state.get("momentum_buffer") is not None
    ]
    if buffers:
        torch._foreach_mul_(buffers, factor)
