"""The optimizers, PyTorch's own in their fused form (one kernel for all parameters, on CPU and GPU)."""

from collections.abc import Iterable

import torch
from torch import nn

from trainables.config import TrialConfig


def build_optimizer(config: TrialConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam (beta 0.9, 0.999, epsilon 1e-8) or SGD with momentum; weight decay as an L2 term in the gradient."""
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.canonical().momentum or 0.0,
        weight_decay=config.weight_decay,
        fused=True,
    )
