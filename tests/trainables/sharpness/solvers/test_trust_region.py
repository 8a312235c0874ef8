"""The maximum of a quadratic over a ball: closed forms, optimality, and what the search by products leaves out."""

import pytest
import torch
from oracles import random, rotated
from torch import Tensor

from trainables.sharpness.solvers.trust_region import largest_in_ball

SPECTRA = {
    "concave": -torch.logspace(-3, 3, 20, dtype=torch.float64),
    "convex": torch.logspace(-3, 3, 20, dtype=torch.float64),
    "indefinite": torch.linspace(-1, 1, 20, dtype=torch.float64),
    "flat on top": -torch.arange(20, dtype=torch.float64),
    "one": -torch.ones(1, dtype=torch.float64),
}


def solve(hessian: Tensor, linear: Tensor, limit: int = 100) -> Tensor:
    found = largest_in_ball(lambda v: hessian @ v, linear, limit, 0.0, torch.Generator().manual_seed(0))
    assert found is not None
    return found


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 1e4])
def test_the_conditions_of_a_maximum(kind: str, size: float) -> None:
    """(m - H) u = c, m >= max(lambda_max, 0), ||u|| <= 1, m (1 - ||u||) = 0 prove it (Nocedal and Wright, 4.1)."""
    values = SPECTRA[kind]
    hessian, linear = rotated(values), size * random(1, len(values))
    u = solve(hessian, linear)
    gradient, length = linear + hessian @ u, float(u.norm())
    multiplier = float(gradient @ u) / length**2 if length > 1 - 1e-9 else 0.0
    scale = float(linear.norm() + values.abs().max() * length)
    torch.testing.assert_close(gradient, multiplier * u, rtol=0, atol=1e-6 * scale)
    assert multiplier >= max(float(values.max()), 0.0) - 1e-6 * scale
    assert length <= 1 + 1e-12


def test_inside_it_is_the_newton_step() -> None:
    values = SPECTRA["concave"]
    hessian, linear = rotated(values), 1e-4 * random(2, len(values))
    torch.testing.assert_close(solve(hessian, linear), torch.linalg.solve(-hessian, linear), rtol=1e-6, atol=1e-9)


def test_few_products_give_less_but_something() -> None:
    """More products give more; one gives the best point along c."""
    hessian, linear = rotated(SPECTRA["indefinite"]), random(3, 20)

    def value(u: Tensor) -> float:
        return float(linear @ u + u @ hessian @ u / 2)

    values = [value(solve(hessian, linear, limit)) for limit in (1, 2, 4, 20)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(value(linear / linear.norm()), rel=1e-9)


def test_nothing_to_go_along() -> None:
    generator = torch.Generator().manual_seed(0)
    assert largest_in_ball(lambda v: v, torch.zeros(3), 5, 1e-3, generator) is None
    assert largest_in_ball(lambda v: v / 0, torch.ones(3), 5, 1e-3, generator) is None
