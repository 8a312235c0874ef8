"""Conservative training: the iterates by hand on a quadratic, and one pass's worth of traces."""

import pytest
import torch
from narrow import as_a
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.training.proximal import proximal_step


def test_iterates_on_a_quadratic() -> None:
    hessian = torch.tensor([3.0, 0.5], dtype=torch.float64)
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    model = nn.Module()
    model.x = nn.Parameter(start.clone())
    model.unused = nn.Parameter(torch.ones(1))

    def closure() -> Tensor:
        loss = (hessian * as_a(Tensor, model.x) ** 2).sum() / 2
        loss.backward()
        return loss

    loss = proximal_step(model, torch.optim.SGD(model.parameters(), lr=0.1), closure, weight=0.7, steps=3)
    x = start
    for _ in range(3):
        x = x - 0.1 * (hessian * x + 0.7 * (x - start))
    torch.testing.assert_close(model.x.detach(), x, rtol=1e-14, atol=0)
    assert loss.item() == pytest.approx(2.5)


def test_many_iterations_reach_the_minimizer() -> None:
    start = torch.tensor([4.0], dtype=torch.float64)
    model = nn.Module()
    model.x = nn.Parameter(start.clone())

    def closure() -> Tensor:
        loss = as_a(Tensor, model.x).square().sum()
        loss.backward()
        return loss

    proximal_step(model, torch.optim.SGD(model.parameters(), lr=0.1), closure, weight=2.0, steps=200)
    assert model.x.item() == pytest.approx(2.0, rel=1e-12)  # 2 x + 2 (x - 4) = 0


def test_batch_norm_counts_one_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    inputs, labels = torch.randn(9, 4), torch.arange(9) % 3

    def closure() -> Tensor:
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    proximal_step(model, optimizer, closure, weight=1e-3)
    assert model[1].num_batches_tracked == 1
    assert {state["step"].item() for state in optimizer.state.values()} == {3}
