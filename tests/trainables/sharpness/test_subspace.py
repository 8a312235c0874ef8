"""Random subspaces: lengths of columns, seeds, and the box metric in them."""

import pytest
import torch
from oracles import quadratic

from trainables.sharpness import box_sharpness, random_subspace

X = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_columns() -> None:
    unit, gaussian = (random_subspace(X, columns=columns, seed=1) for columns in ("unit", "gaussian"))
    assert unit.shape == gaussian.shape == (400, 100)
    torch.testing.assert_close(torch.linalg.vector_norm(unit, dim=0), torch.ones(100).double())
    torch.testing.assert_close(unit * torch.linalg.vector_norm(gaussian, dim=0), gaussian)
    assert float(gaussian.std()) == pytest.approx(1, abs=5 / 40_000**0.5)
    assert torch.equal(unit, random_subspace(X, seed=1))
    assert not torch.equal(unit, random_subspace(X, seed=2))


def test_a_convex_gain_is_at_least_that_of_the_best_single_column() -> None:
    """With f = |p - x|^2 / 2 a step y along column a gains b^2 |a|^2 / 2, b = epsilon (|(A+ x)_i| + 1)."""
    subspace = random_subspace(X, dimension=10, seed=3)
    result = box_sharpness(quadratic(torch.eye(400).double(), torch.zeros(400).double(), X), X, subspace=subspace)
    widths = 1e-3 * ((torch.linalg.pinv(subspace) @ X).abs() + 1)
    assert result.value >= 100 * float(widths.max()) ** 2 / 2
    assert result.value <= 100 * float((subspace.abs() @ widths) @ (subspace.abs() @ widths)) / 2


@pytest.mark.parametrize(
    ("arguments", "message"), [({"dimension": 401}, "`dimension` must"), ({"columns": "sparse"}, "`columns` must")]
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_subspace(X, **arguments)  # type: ignore[arg-type]
