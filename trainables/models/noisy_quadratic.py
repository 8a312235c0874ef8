"""The noisy quadratic model (Zhang et al. 2019, arXiv 1907.04164), for the dataset of this name."""

import torch
from torch import Tensor, nn


class NoisyQuadratic(nn.Module):
    """xi (N, K) to the losses 1/2 sum_i h_i x_i^2 + sum_i x_i xi_i, (N,), with h_i = i^-power.

    The parameters are x, (K,). They start at +1 or -1, so that E x_i(0)^2 = 1 as in the paper.
    """

    h: Tensor

    def __init__(self, coordinates: int, power: float = 1.0) -> None:
        super().__init__()
        self.x = nn.Parameter(2.0 * torch.randint(2, (coordinates,)) - 1.0)
        self.register_buffer("h", torch.arange(1, coordinates + 1, dtype=torch.float64).pow(-power).float())

    def forward(self, inputs: Tensor) -> Tensor:
        return 0.5 * (self.h * self.x.square()).sum() + inputs @ self.x


def noisy_quadratic(input_shape: tuple[int, ...], num_classes: int, *, power: float = 1.0) -> NoisyQuadratic:
    """The model for examples (K,); `power` is that of the curvatures, that of the noise is the dataset's."""
    return NoisyQuadratic(input_shape[0], power)
