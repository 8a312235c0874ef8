"""Matched gradient noise: the factors' moments by Monte Carlo, the mean gradient's by enumerating every batch."""

from itertools import combinations, product

import pytest
import torch

from trainables.training.matched_noise import noise_factors


def covariance_of_factors(count: int, noise_batch_size: int) -> torch.Tensor:
    """s^2 on the diagonal, -s^2 / (B - 1) off it."""
    variance = count / noise_batch_size - 1
    return variance * (count * torch.eye(count, dtype=torch.float64) - 1) / (count - 1)


@pytest.mark.parametrize(("count", "small"), [(6, 2), (5, 4), (2, 1)])
def test_moments_of_the_factors(count: int, small: int) -> None:
    draws, repeats = torch.Generator().manual_seed(0), 4000
    factors = torch.stack([noise_factors(count, small, draws) for _ in range(repeats)]).double()
    torch.testing.assert_close(factors.mean(1), torch.ones(repeats).double(), rtol=0, atol=1e-6)
    variance = count / small - 1
    standard_error = variance * (2 / repeats) ** 0.5
    assert (factors.mean(0) - 1).abs().max() < 5 * (variance / repeats) ** 0.5
    assert (factors.T.cov() - covariance_of_factors(count, small)).abs().max() < 5 * standard_error


def test_noise_equals_that_of_the_small_batch() -> None:
    total, count, small = 6, 4, 2
    gradients = torch.randn(total, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    second = covariance_of_factors(count, small) + 1  # E z z^T
    for batches_of in (
        lambda size: combinations(range(total), size),  # without replacement
        lambda size: product(range(total), repeat=size),  # with
    ):
        large = [gradients[list(batch)] for batch in batches_of(count)]
        noisy = sum(g.T @ second @ g for g in large) / (len(large) * count**2)
        plain = [gradients[list(batch)].mean(0) for batch in batches_of(small)]
        wanted = sum(torch.outer(g, g) for g in plain) / len(plain)
        torch.testing.assert_close(noisy, wanted, rtol=1e-12, atol=1e-13)


def test_nothing_to_add() -> None:
    draws = torch.Generator().manual_seed(0)
    assert torch.equal(noise_factors(4, 4, draws), torch.ones(4))
    assert torch.equal(noise_factors(3, 4, draws), torch.ones(3))
    assert torch.equal(noise_factors(1, 1, draws), torch.ones(1))
