"""Every optimizer goes on from its saved state to the same bits, and the state loads without executing anything."""

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.config import TrialConfig
from trainables.training.optimizers.by_name import build_optimizer, load_state
from trainables.training.optimizers.full_batch import GradientDescent, full_batch_lbfgs
from trainables.training.optimizers.lamb import LAMB
from trainables.training.optimizers.lars import LARS
from trainables.training.optimizers.optimizer import Optimizer
from trainables.training.optimizers.plain import SGD, Adam

BUILDERS: dict[str, Callable[..., Optimizer]] = {
    "adam": lambda parameters: Adam(parameters, 0.01, weight_decay=0.01),
    "sgd": lambda parameters: SGD(parameters, 0.1, momentum=0.9, weight_decay=0.01),
    "lars": lambda parameters: LARS(parameters, lr=1.0, weight_decay=0.01),
    "lamb": lambda parameters: LAMB(parameters, lr=0.01, weight_decay=0.01),
    "gradient_descent": lambda parameters: GradientDescent(parameters, lr=0.1),
    "lbfgs": lambda parameters: full_batch_lbfgs(parameters, 1.0),
}


OF_TORCH: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, weight_decay=0.01, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01, fused=True),
}


def steps(model: nn.Module, optimizer: Optimizer, count: int) -> None:
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


@pytest.mark.parametrize("name", OF_TORCH)
def test_the_same_bits_as_pytorch(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    model[0].bias.requires_grad_(False)  # has no gradient, and stays
    theirs = copy.deepcopy(model)
    steps(model, BUILDERS[name](model.parameters()), 6)
    steps(theirs, OF_TORCH[name](theirs.parameters()), 6)
    for p, q in zip(model.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.slow
def test_a_trial_does_not_import_the_compiler() -> None:
    """Which takes every worker two seconds and 150 MiB, or its SymPy, 0.7 s more."""
    source = (
        "import sys; from trainables.config import TrialConfig; from trainables.data import load_source; "
        "from trainables.trial import run_trial; from trainables.runtime.process import prepare_process; "
        "prepare_process(1); digits = load_source('digits'); "
        "run_trial(TrialConfig(dataset='digits', data_fingerprint='', train_size=50, test_size=50, batch_size=10, "
        "learning_rate=0.01, epochs=1, measure_examples=20), digits); "
        "print(*{'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_saved_state_brings_no_kernels_along(make_config: Callable[..., TrialConfig], name: str) -> None:
    """A trial may go on on another device, whose kernels the optimizer was built for."""
    config = make_config(optimizer=name)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    saved, resumed = build_optimizer(config, model), build_optimizer(config, model)
    state = copy.deepcopy(saved.state_dict())
    for part in state.get("parts", [state]):
        for group in part["param_groups"]:
            group |= {option: not group[option] for option in ("fused", "capturable") if option in group}
            group["lr"] = 0.5
    load_state(resumed, state)
    for group, own in zip(resumed.param_groups, saved.param_groups, strict=True):
        assert group["lr"] == 0.5
        assert all(group[option] == own[option] for option in ("fused", "capturable") if option in own)
    assert any("fused" in group for group in resumed.param_groups)


def test_a_state_of_any_layout_is_taken_up() -> None:
    """As some wrappers of others have it: their optimizer's state under a name of their own."""

    class Wrapper(SGD):
        def state_dict(self) -> dict[str, Any]:
            return {"inner": super().state_dict()}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict["inner"])

    weights = torch.zeros(2, requires_grad=True)
    saved, resumed = Wrapper([weights], lr=0.5), Wrapper([weights], lr=0.25)
    load_state(resumed, saved.state_dict())
    assert resumed.param_groups[0]["lr"] == 0.5
