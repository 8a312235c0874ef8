"""LARS: two steps by hand, plain SGD where nothing is adapted, and timm's."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.training.optimizers.lars import LARS


def tensor(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def parameter(values: list[Any]) -> nn.Parameter:
    return nn.Parameter(tensor(values))


def test_two_steps_by_hand() -> None:
    weight, bias = parameter([[3.0, 4.0]]), parameter([2.0])
    optimizer = LARS([weight, bias], lr=10.0, momentum=0.5, weight_decay=0.1, trust=0.01)
    weight.grad, bias.grad = tensor([[0.0, 2.0]]), tensor([0.01])
    optimizer.step()
    # ||w|| = 5, ||g|| = 2, local = 0.01 * 5 / (2 + 0.1 * 5) = 0.02, v = 0.02 * (0.3, 2.4) = (0.006, 0.048)
    torch.testing.assert_close(weight.detach(), tensor([[2.94, 3.52]]), rtol=1e-15, atol=0)
    torch.testing.assert_close(bias.detach(), tensor([1.9]), rtol=1e-15, atol=0)  # neither decay nor local
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    weight.grad, bias.grad = tensor([[1.0, 0.0]]), tensor([0.01])
    optimizer.step()
    norm = math.hypot(2.94, 3.52)
    local = 0.01 * norm / (1 + 0.1 * norm)
    velocity = (0.5 * 0.006 + local * (1 + 0.294), 0.5 * 0.048 + local * 0.352)
    expected = tensor([[2.94 - velocity[0], 3.52 - velocity[1]]])
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-15, atol=0)
    torch.testing.assert_close(bias.detach(), tensor([1.9 - (0.5 * 0.01 + 0.01)]), rtol=1e-15, atol=0)


def test_no_ratio_where_a_norm_is_zero() -> None:
    at_zero, no_gradient, untouched = parameter([[0.0, 0.0]]), parameter([[1.0, 0.0]]), parameter([[5.0, 5.0]])
    at_zero.grad, no_gradient.grad = torch.ones(1, 2).double(), torch.zeros(1, 2).double()
    LARS([at_zero, no_gradient, untouched], lr=0.5).step()
    assert at_zero.tolist() == [[-0.5, -0.5]]  # a plain step, or it would stay at 0 for ever
    assert no_gradient.tolist() == [[1.0, 0.0]]
    assert untouched.tolist() == [[5.0, 5.0]]


@pytest.mark.slow  # by the import of timm
def test_against_timm() -> None:
    timm = pytest.importorskip("timm.optim")
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((3, 4), (4,), (2, 3, 3, 3), (2,))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    one = LARS(ours, lr=0.7, momentum=0.9, weight_decay=0.01, trust=0.02)
    groups = [
        {"params": [p for p in theirs if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in theirs if p.ndim <= 1], "weight_decay": 0.0},
    ]
    two = timm.Lars(groups, lr=0.7, momentum=0.9, trust_coeff=0.02, eps=0.0)
    for step in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        one.param_groups[0]["lr"] = 0.7 / (step + 1)
        for group in two.param_groups:
            group["lr"] = 0.7 / (step + 1)
        one.step()
        two.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)
