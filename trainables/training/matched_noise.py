"""Gradient noise of a small batch in a large one: random factors on examples (Hoffer et al. 2017, arXiv 1705.08741).

The update's gradient is (1/B) sum_i z_i g_i with E z_i = 1 and Var z_i = s^2. Let mu and S be the mean and the
covariance of one example's gradient. Independent factors, as in the paper, give

    Cov = (1 + s^2) S / B + (s^2 / B) mu mu^T

whose second part is no gradient noise but a random rate. Factors whose sum is exactly B have none of it: with Gaussian
xi_i of variance 1 and their mean xi_bar,

    z_i = 1 + s sqrt(B / (B - 1)) (xi_i - xi_bar)        Cov(z_i, z_j) = -s^2 / (B - 1)

    with replacement      Cov = (1 + s^2) S / B                               equal to S / b at s^2 = B / b - 1
    without replacement   Cov = S / B [(N - B) / (N - 1) + s^2 N / (N - 1)]   equal to S / b (N - b) / (N - 1)
                                                                              at the same s^2 = B / b - 1

(N examples in all, S then with denominator N; the second line from E g_i g_j^T = mu mu^T - S / (N - 1) for i != j). So
the first two moments are those of batch b, exactly, the full batch included.

Where examples weigh w_i in the batch's mean (sequences with padding), the factors are centered on their weighted mean,
so that sum_i w_i z_i = sum_i w_i: the gradient of what all examples share is not scaled.

Trap: batch norm couples the examples, so there g_i is only an example's share in the gradient.
"""

import math

import torch
from torch import Tensor

from trainables.tasks.task import TINY


def noise_factors(
    count: int, noise_batch_size: int, generator: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """Factors (count,) with mean 1, exactly, and variance count / noise_batch_size - 1, in float32 on the CPU.

    `count` is B, the examples in this batch, `noise_batch_size` is b; where b >= B all are 1. `weights` (count,) are
    what the examples weigh, where they differ: the mean is the weighted one.
    """
    if noise_batch_size >= count:
        return torch.ones(count)
    draws = torch.randn(count, generator=generator)
    scale = math.sqrt((count / noise_batch_size - 1) * count / (count - 1))
    if weights is None:
        return 1 + scale * (draws - draws.mean())
    shares = weights.cpu().to(draws.dtype) / weights.sum().clamp(min=TINY).cpu()
    return 1 + scale * (draws - shares @ draws)
