"""Every optimizer goes on from its saved state to the same bits, and the state loads without executing anything."""

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.training.full_batch import GradientDescent, full_batch_lbfgs
from trainables.training.lamb import LAMB
from trainables.training.lars import LARS

BUILDERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "lars": lambda parameters: LARS(parameters, lr=1.0, weight_decay=0.01),
    "lamb": lambda parameters: LAMB(parameters, lr=0.01, weight_decay=0.01),
    "gradient_descent": lambda parameters: GradientDescent(parameters, lr=0.1),
    "lbfgs": lambda parameters: full_batch_lbfgs(parameters, 1.0),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01, fused=True),
}


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    draws = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(30, 4, generator=draws), torch.arange(30) % 3

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        return loss.detach()

    for _ in range(count):
        optimizer.step(closure)


@pytest.mark.parametrize("name", BUILDERS)
def test_resumed_run_has_the_same_bits(name: str) -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(2)]
    straight = BUILDERS[name](models[0].parameters())
    start = [p.detach().clone() for p in models[0].parameters()]
    steps(models[0], straight, 4)
    file = io.BytesIO()
    torch.save({"model": models[0].state_dict(), "optimizer": straight.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    models[1].load_state_dict(saved["model"])
    resumed = BUILDERS[name](models[1].parameters())
    resumed.load_state_dict(saved["optimizer"])
    steps(models[0], straight, 4)
    steps(models[1], resumed, 4)
    for p, q, before in zip(models[0].parameters(), models[1].parameters(), start, strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, before)
