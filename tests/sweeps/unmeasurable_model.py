"""A user's network that trains, and goes wrong when it is measured, in another way at each batch size."""

import os
import signal
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn

RIGHT, RAISES, HANGS, KILLED = 20, 21, 22, 23


class Unmeasurable(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, classes)
        self.batch_size = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.batch_size = max(self.batch_size, len(x))  # the last one is short
        elif x.dtype == torch.float64:  # only measures are
            if self.batch_size == RAISES:
                raise ArithmeticError("the sum of all fears")
            while self.batch_size == HANGS:
                time.sleep(0.1)
            if self.batch_size == KILLED:
                os.kill(os.getpid(), signal.SIGKILL)
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def build(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Unmeasurable(int(torch.Size(input_shape).numel()), num_classes)


class RaisesIn(nn.Sequential):
    """Cannot be measured by the workers of these ranks; the only one of a process has rank 0."""

    def __init__(self, ranks: tuple[int, ...], *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.ranks = ranks

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64 and (dist.get_rank() if dist.is_initialized() else 0) in self.ranks:
            raise ArithmeticError("measured")
        logits: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return logits


def by_second(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return RaisesIn((1,), nn.Flatten(), nn.Linear(int(torch.Size(input_shape).numel()), num_classes))


def by_any(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return RaisesIn((0, 1), nn.Flatten(), nn.Linear(int(torch.Size(input_shape).numel()), num_classes))
