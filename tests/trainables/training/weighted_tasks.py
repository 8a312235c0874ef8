"""Tasks of a user's own for tests: weights per example, and an augmentation with labels."""

from typing import Any

import torch
from torch import Tensor


class Weighted:
    """Squared errors of the first column of the labels; the second is the weight, 0 for some."""

    metric, unit, direction = "error", "units", "lower"

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        predicted: Tensor = outputs["value"]
        return (predicted[:, 0] - labels[:, 0]).square()

    def weights(self, labels: Tensor) -> Tensor:
        return labels[:, 1]

    def metrics(self, outputs: Any, labels: Tensor) -> dict[str, Tensor]:
        return {"error": (outputs["value"][:, 0] - labels[:, 0]).abs()}


class Mixed(Weighted):
    """The same after mixup (Zhang et al. 2018, arXiv 1710.09412), by draws of its own."""

    def augment(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(inputs), generator=generator)
        share = torch.rand(len(inputs), 1, generator=generator).to(inputs)
        return share * inputs + (1 - share) * inputs[order], share * labels + (1 - share) * labels[order]
