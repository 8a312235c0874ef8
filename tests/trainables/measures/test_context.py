"""What measures know of the optimizer: where its steps become unstable on a quadratic, and its preconditioner."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.measures.by_name import measure
from trainables.measures.context import Context
from trainables.runtime.errors import UserError
from trainables.sharpness import ModelLoss, stability_threshold
from trainables.training.optimizers.by_name import build_optimizer

Make = Callable[..., TrialConfig]


@pytest.mark.parametrize(
    ("momentum", "options"),
    [(0.0, {}), (0.9, {}), (0.9, {"nesterov": True}), (0.6, {"dampening": 0.5}), (0.0, {"dampening": 0.5})],
)
def test_the_edge_of_stability_of_sgd(momentum: float, options: dict[str, Any]) -> None:
    """On lambda x^2 / 2 steps shrink just below the threshold that the context gives, and grow just above it."""
    rate = 0.1
    x = nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr=rate, momentum=momentum, **options)
    context = Context.of(optimizer, [x], 8, 30)
    threshold = stability_threshold(context.learning_rate, momentum=context.momentum, form=context.gathers)
    for factor, grows in ((0.99, False), (1.01, True)):
        x.data.fill_(1.0)
        optimizer.state.clear()
        for _ in range(1000):
            x.grad = factor * threshold * x.detach()
            optimizer.step()
        assert (abs(x.item()) > 1) is grows


def trained(config: TrialConfig, steps: int = 3) -> tuple[nn.Module, Any, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    inputs, labels = torch.randn(30, 4), torch.arange(30) % 3
    optimizer = build_optimizer(config, model)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model, optimizer, inputs, labels


def flat(optimizer: Any, model: nn.Module, name: str) -> Tensor:
    return torch.cat([optimizer.state[p][name].double().reshape(-1) for p in model.parameters()])


PRECONDITIONERS: dict[str, tuple[str, float, Callable[[Callable[[str], Tensor]], Tensor]]] = {
    "adamw": ('{"betas": [0.8, 0.9], "eps": 0.001}', 0.8, lambda of: (of("exp_avg_sq") / (1 - 0.9**3)).sqrt() + 1e-3),
    "rmsprop": ('{"momentum": 0.5, "eps": 0.001}', 0.5, lambda of: of("square_avg").sqrt() + 1e-3),
    "adagrad": ('{"lr_decay": 0.25, "eps": 0.001}', 0.0, lambda of: (of("sum").sqrt() + 1e-3) * 1.5),
    "adamax": ('{"betas": [0.8, 0.9]}', 0.8, lambda of: of("exp_inf")),
}


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_preconditioners(make_config: Make, name: str) -> None:
    options, momentum, formula = PRECONDITIONERS[name]
    model, optimizer, inputs, labels = trained(make_config(optimizer=name, optimizer_options=options))
    context = Context.of(optimizer, model.parameters(), 8, 30)
    assert (context.momentum, context.rows) == (momentum, name)
    assert context.preconditioner is not None
    torch.testing.assert_close(
        context.preconditioner, formula(lambda key: flat(optimizer, model, key)), rtol=1e-6, atol=0
    )
    loss = ModelLoss(model, inputs, labels)
    assert [row["method"] for row in measure(loss, ["stability"], context)] == ["plain", name]


def test_amsgrad_and_centered(make_config: Make) -> None:
    model, adam, *_ = trained(make_config(optimizer="adamw", optimizer_options='{"amsgrad": true}'))
    found = Context.of(adam, model.parameters(), 8, 30).preconditioner
    expected = (flat(adam, model, "max_exp_avg_sq") / (1 - 0.999**3)).sqrt() + 1e-8
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    model, rmsprop, *_ = trained(make_config(optimizer="rmsprop", optimizer_options='{"centered": true}'))
    found = Context.of(rmsprop, model.parameters(), 8, 30).preconditioner
    variance = flat(rmsprop, model, "square_avg") - flat(rmsprop, model, "grad_avg").square()
    torch.testing.assert_close(found, variance.clamp(min=0).sqrt() + 1e-8, rtol=1e-6, atol=0)


def test_a_faster_group_is_preconditioned_so(make_config: Make) -> None:
    """In the order of the network, though the groups are in another one."""
    config = make_config(optimizer="sgd", momentum=0.5, learning_rate=0.01, parameter_groups="2.*:lr=4x")
    model, optimizer, *_ = trained(config)
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * group.get("lr_ratio", 1.0)  # as the loop sets it
    context = Context.of(optimizer, model.parameters(), 8, 30)
    expected = [torch.full((p.numel(),), 0.25 if name[0] == "2" else 1.0) for name, p in model.named_parameters()]
    assert context.preconditioner is not None
    torch.testing.assert_close(context.preconditioner, torch.cat(expected).double())
    assert (context.learning_rate, context.momentum, context.gathers) == (0.01, 0.5, "heavy_ball")


@pytest.mark.parametrize("name", ["muon", "nadam", "radam", "adadelta", "adafactor", "asgd", "rprop"])
@pytest.mark.parametrize("of_steps", ["stability", "sgd_noise_scale"])
def test_other_steps_have_no_value(make_config: Make, name: str, of_steps: str) -> None:
    model, optimizer, inputs, labels = trained(make_config(optimizer=name))
    context = Context.of(optimizer, model.parameters(), 8, 30)
    with pytest.raises(UserError, match=f"`{of_steps}` is not defined for the steps of {name}"):
        measure(ModelLoss(model, inputs, labels), [of_steps], context)
