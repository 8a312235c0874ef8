"""Statistics of batch norm that a forward pass is given and sees, layer by layer, for the mode `recalibrated`."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class Tape:
    """What the hooks of batch norm layers are given and see in one forward pass, call by call."""

    def __init__(self) -> None:
        self._given: list[Tensor] = []
        self._seen: list[Tensor] = []

    def begin(self, given: list[Tensor]) -> None:
        self._given, self._seen = given, []

    def end(self) -> list[Tensor]:
        """What was seen; forgotten here, so that no graph outlives its chunk."""
        seen, self._given, self._seen = self._seen, [], []
        return seen

    def normalize(self, layer: _BatchNorm, arguments: tuple[Tensor]) -> tuple[Tensor]:
        """The inputs by the given (mean, variance), or by their own if none is given yet; notes the moments."""
        (inputs,) = arguments
        rows = inputs.movedim(1, -1).flatten(0, -2)
        known = self._given[len(self._seen) :]
        mean, second = known[0] if known else (rows.mean(0), rows.var(0, correction=0))
        # With given statistics, moments about a constant: equal to the variance, and a mean over examples.
        center = mean.detach() if known else mean
        self._seen.append(torch.stack([rows.mean(0), (rows - center).square().mean(0)]))
        deviation = (second - (mean - center).square() + layer.eps).sqrt()
        return (((inputs.movedim(1, -1) - mean) / deviation).movedim(-1, 1),)
