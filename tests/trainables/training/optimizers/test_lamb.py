"""LAMB: the first step by hand, Adam's step where nothing is adapted, and timm's."""

import math

import pytest
import torch
from torch import nn

from trainables.training.optimizers.lamb import LAMB


def test_first_step_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    weight.grad = torch.tensor([[2.0, -0.5]], dtype=torch.float64)
    LAMB([weight], lr=0.1, eps=0.5, weight_decay=0.25).step()
    # m_hat = g and v_hat = g^2, so u = g / (|g| + eps) + wd w = (0.8 + 0.75, -0.5 + 1)
    u = torch.tensor([[1.55, 0.5]], dtype=torch.float64)
    expected = torch.tensor([[3.0, 4.0]]).double() - 0.1 * 5 / math.hypot(1.55, 0.5) * u
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-14, atol=0)


def test_one_dimension_takes_the_step_of_adam() -> None:
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(5, dtype=torch.float64))
    theirs = nn.Parameter(ours.detach().clone())
    one, two = LAMB([ours], lr=0.01, weight_decay=0.5, eps=1e-8), torch.optim.Adam([theirs], lr=0.01, eps=1e-8)
    for _ in range(4):
        ours.grad = torch.randn_like(ours)
        theirs.grad = ours.grad.clone()
        one.step()
        two.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)


def test_each_parameter_counts_its_own_steps() -> None:
    early, late = (nn.Parameter(torch.ones(2, 2, dtype=torch.float64)) for _ in range(2))
    optimizer = LAMB([early, late], lr=0.1)
    early.grad = torch.full_like(early, 0.3)
    optimizer.step()
    after_one = early.detach().clone()
    early.grad, late.grad = None, torch.full_like(late, 0.3)
    optimizer.step()
    assert torch.equal(late, after_one)
    assert torch.equal(early, after_one)


def test_zero_weights_can_leave_zero() -> None:
    weight = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))
    weight.grad = torch.ones_like(weight)
    LAMB([weight], lr=0.5, eps=0.0).step()
    torch.testing.assert_close(weight.detach(), torch.full((1, 2), -0.5).double(), rtol=1e-14, atol=0)


@pytest.mark.slow  # by the import of timm
def test_against_timm() -> None:
    timm = pytest.importorskip("timm.optim")
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((3, 4), (4,), (2, 3, 3, 3), (2,))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    one = LAMB(ours, lr=0.02, weight_decay=0.01)
    groups = [
        {"params": [p for p in theirs if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in theirs if p.ndim <= 1], "weight_decay": 0.0},
    ]
    two = timm.Lamb(groups, lr=0.02, max_grad_norm=None)
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        one.step()
        two.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
