"""An optimizer's class made into an optimizer: its groups, its own options and those of the machine.

Fused kernels are asked for where a class has them.
"""

import functools
import inspect
from typing import Any

import torch

from trainables.config import TrialConfig
from trainables.runtime.errors import UserError, one_line
from trainables.runtime.importing import is_import_path
from trainables.training.optimizers.groups import Group
from trainables.training.optimizers.optimizer import Optimizer, is_schedule_free
from trainables.training.optimizers.options import takes_weight_decay


def as_dicts(config: TrialConfig, groups: list[Group]) -> list[dict[str, Any]]:
    takes = takes_weight_decay(config)
    return [group.as_dict(takes_weight_decay=takes) for group in groups]


def built(
    config: TrialConfig, own: Any, groups: list[dict[str, Any]], rate: float, options: dict[str, Any]
) -> Optimizer:
    parameters = inspect.signature(own).parameters
    machine: dict[str, Any] = {}
    device = groups[0]["params"][0].device
    if "fused" in parameters and not is_import_path(config.optimizer):
        machine["fused"] = _has_fused_kernel(own, device.type)
        if "capturable" in parameters:  # without which PyTorch refuses to record a step
            machine["capturable"] = device.type == "cuda"
    if takes_weight_decay(config):
        machine["weight_decay"] = config.weight_decay
    try:
        optimizer: Optimizer = own(groups, lr=rate, **machine, **options)
        if is_schedule_free(optimizer):
            optimizer.train()
        return optimizer
    except Exception as error:
        raise UserError(f"`optimizer`: {config.optimizer} cannot be built: {one_line(error)}") from error


@functools.cache
def _has_fused_kernel(own: Any, device: str) -> bool:
    """Whether PyTorch can do a step of the optimizer in one kernel on that kind of device: Adagrad's came late to GPUs.

    A step is tried, since that is when PyTorch refuses.
    """
    if device == "cpu":
        return True
    number = torch.zeros(1, device=device, requires_grad=True)
    number.grad = torch.zeros(1, device=device)
    try:
        own([number], fused=True).step()
    except RuntimeError as error:
        if "fused" not in str(error):
            raise
        return False
    return True
