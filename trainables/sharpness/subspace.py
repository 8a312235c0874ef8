"""Random subspaces for the box metric: the matrix A of Metric 2.1 (Keskar et al. 2017).

The paper draws A at random with 100 columns and gives neither its distribution nor its scale, and the metric depends on
both: y is bounded by epsilon (|A^+ x| + 1), and A y moves the weights by A's scale. So both common choices have names.
Values of different choices, or of different n, do not compare.
"""

from typing import Literal

import torch
from torch import Tensor

Columns = Literal["unit", "gaussian"]

PAPER_DIMENSION = 100


def random_subspace(
    params: Tensor, *, dimension: int = PAPER_DIMENSION, columns: Columns = "unit", seed: int = 0
) -> Tensor:
    """A, (n, dimension), like `params`, (n,), in dtype and device; the same for a seed on every device.

    `gaussian`: entries N(0, 1), so that a column is about sqrt(n) long; `unit`: the same divided by its length.
    Memory: n * dimension numbers. Raises ValueError for a dimension outside 1..n and for other columns.
    """
    n = params.numel()
    if not 1 <= dimension <= n:
        raise ValueError(f"`dimension` must be between 1 and the {n} parameters, got {dimension}")
    if columns not in ("unit", "gaussian"):
        raise ValueError(f"`columns` must be 'unit' or 'gaussian', got {columns!r}")
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(n, dimension, dtype=torch.float32, generator=generator).to(params)
    return matrix if columns == "gaussian" else matrix / torch.linalg.vector_norm(matrix, dim=0)
