"""A user's network that goes wrong in training, in another way at each batch size."""

import os
import signal
import sys
import time

import torch
from torch import Tensor, nn

RIGHT, RAISES, HANGS, WRONG_SHAPE, NAN, LEAKS, EXITS, KILLED = 20, 21, 22, 23, 24, 25, 26, 27


class Wayward(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, classes)
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        batch_size = len(x) if self.training else None
        if batch_size == RAISES:
            raise ArithmeticError("the sum of all fears")
        while batch_size == HANGS:
            time.sleep(0.1)
        if batch_size == WRONG_SHAPE:
            return logits[:, :3]
        if batch_size == NAN:
            return logits * float("nan")
        if batch_size in (LEAKS, 4, 3):  # the smaller micro-batches of a second try too
            self.kept += [torch.empty(2**28) for _ in range(100)]  # 1 GiB each
        if batch_size == EXITS:
            sys.exit("enough")
        if batch_size == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        return logits


def build(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Wayward(int(torch.Size(input_shape).numel()), num_classes)
