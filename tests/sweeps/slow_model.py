"""A user's network that takes its time, so that trials report to Tune between logging points with a test."""

import time

import torch
from torch import Tensor, nn

SECONDS = 0.25  # of an update


class Slow(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            time.sleep(SECONDS)
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def build(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Slow(int(torch.Size(input_shape).numel()), num_classes)
