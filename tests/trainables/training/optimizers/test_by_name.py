"""Optimizers by name: steps by hand formula, PyTorch's own steps, weight decay, groups of parameters, bad options."""

import copy
import inspect
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from narrow import as_a
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.optimizer_settings import OF_TORCH, OPTIMIZERS
from trainables.runtime.errors import UserError
from trainables.training.optimizers.by_name import build_optimizer, check_optimizer
from trainables.training.optimizers.combined import CombinedOptimizer
from trainables.training.optimizers.groups import decayed_parameters, hidden_matrices, undecayed
from trainables.training.optimizers.options import checked, weight_decay_form
from trainables.training.optimizers.plain import SGD, Adam

Make = Callable[..., TrialConfig]


class Language(nn.Module):
    """Embedding, hidden layer, norm and head."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.hidden = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embedding.weight


def network() -> Language:
    torch.manual_seed(0)
    return Language()


def random_gradients(parameters: Iterable[Tensor], seed: int = 0) -> None:
    draws = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=draws).to(parameter.dtype)


def test_every_class_of_pytorch_has_a_name() -> None:
    names = {name.lower() for name, own in vars(torch.optim).items() if inspect.isclass(own)}
    assert names - {"optimizer", "sparseadam"} <= {*OPTIMIZERS, *OF_TORCH}
    assert set(OF_TORCH) <= names


@pytest.mark.parametrize(("optimizer", "plain"), [("adam", Adam), ("sgd", SGD)])
def test_without_options_there_is_one_group_and_no_class_of_pytorch(
    make_config: Make, optimizer: str, plain: type
) -> None:
    model = network()
    built = build_optimizer(make_config(optimizer=optimizer, weight_decay=0.1), model)
    assert type(built) is plain
    (group,) = built.param_groups
    assert [id(one) for one in group["params"]] == [id(one) for one in model.parameters()]


def test_sgd_by_hand(make_config: Make) -> None:
    """Three steps of heavy-ball SGD on one weight: v <- mu v + g + lambda w, w <- w - eta v."""
    model = nn.Linear(1, 1, bias=False).double()
    rate, decay, mu = 0.05, 0.2, 0.8
    optimizer = build_optimizer(
        make_config(optimizer="sgd", learning_rate=rate, weight_decay=decay, momentum=mu), model
    )
    w, v = model.weight.item(), 0.0
    for gradient in (0.7, -0.3, 0.4):
        model.weight.grad = torch.full((1, 1), gradient).double()
        optimizer.step()
        v = mu * v + gradient + decay * w
        w -= rate * v
        assert model.weight.item() == pytest.approx(w, rel=1e-6)  # gradients in float32


def test_adamw_by_hand(make_config: Make) -> None:
    """The second step of decoupled Adam on one weight: w <- w (1 - eta lambda) - eta m_hat / (sqrt(v_hat) + eps)."""
    model = nn.Linear(1, 1).double()
    rate, decay, beta1, beta2, eps = 0.05, 0.2, 0.8, 0.9, 1e-3
    config = make_config(
        optimizer="adamw", learning_rate=rate, weight_decay=decay,
        optimizer_options=json.dumps({"betas": [beta1, beta2], "eps": eps}),
    )  # fmt: skip
    optimizer = build_optimizer(config, model)
    expected = {"weight": (float(model.weight.item()), decay), "bias": (float(model.bias.item()), 0.0)}
    gradients = (0.7, -0.3)
    m = v = 0.0
    for step, gradient in enumerate(gradients, start=1):
        model.weight.grad, model.bias.grad = torch.full((1, 1), gradient).double(), torch.full((1,), gradient).double()
        optimizer.step()
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        move = rate * (m / (1 - beta1**step)) / (math.sqrt(v / (1 - beta2**step)) + eps)
        expected = {name: (w * (1 - rate * own) - move, own) for name, (w, own) in expected.items()}
    assert model.weight.item() == pytest.approx(expected["weight"][0], rel=1e-6)  # gradients in float32
    assert model.bias.item() == pytest.approx(expected["bias"][0], rel=1e-6)


def newton_schulz(values: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Jordan's quintic iteration on singular values, x <- a x + b x^3 + c x^5 from x / ||x||, in float64;
    and a bound on the error of bfloat16 (u = 2^-9): of each rounded product, carried on by the derivative.
    """
    a, b, c, u = 3.4445, -4.7750, 2.0315, 2**-9
    x = values.double() / torch.linalg.vector_norm(values.double())
    error = 2 * u * x
    for _ in range(steps):
        linear, cubic, fifth = a * x, b * x**3, c * x**5
        slope = (a + 3 * b * x**2 + 5 * c * x**4).abs() + (6 * b * x + 20 * c * x**3).abs() * error
        rounding = u * (cubic.abs() + 2 * fifth.abs() + (cubic + fifth).abs() + (linear + cubic + fifth).abs())
        x, error = linear + cubic + fifth, slope * error + 1.1 * rounding  # 1.1: products of roundings
    return x, error


def test_muon_by_hand(make_config: Make) -> None:
    """Two steps: m <- mu m + (1 - mu) g, w <- w (1 - eta lambda) - eta sqrt(max(1, rows / columns)) NS(...), with
    Nesterov's (1 - mu) g + mu m. Gradients are diagonal, as are their momentum and its orthogonalization then.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    rate, decay, mu = 0.02, 0.1, 0.95
    options = json.dumps({"ns_steps": 2})  # of five, the bound on the error would be the size of a step
    config = make_config(optimizer="muon", learning_rate=rate, weight_decay=decay, optimizer_options=options)
    optimizer = build_optimizer(config, model)
    weight = as_a(Tensor, model[0].weight)
    expected, momentum, allowed = weight.detach().double(), torch.zeros(4), torch.zeros(8, 4).double()
    for gradient in (torch.tensor([1.0, -0.5, 0.25, 2.0]), torch.tensor([0.5, 1.0, 0.25, -1.0])):
        weight.grad = torch.cat([torch.diag(gradient), torch.zeros(4, 4)])
        optimizer.step()
        momentum = mu * momentum + (1 - mu) * gradient
        values, error = newton_schulz(((1 - mu) * gradient + mu * momentum).abs(), 2)
        update = torch.diag(values * torch.sign((1 - mu) * gradient + mu * momentum).double())
        scale = rate * math.sqrt(8 / 4)
        expected = expected * (1 - rate * decay) - scale * torch.cat([update, torch.zeros(4, 4).double()])
        allowed[:4] += scale * torch.diag(error)
    assert bool(((weight.detach() - expected).abs() <= allowed + 1e-6).all())  # float32 elsewhere
    assert float(allowed.max()) < 0.2 * rate  # of two steps of about 1.4 times the rate


@pytest.mark.parametrize(("options", "ratio"), [({}, 0.015), ({"adjust_lr_fn": "match_rms_adamw"}, 1.0)])
def test_muon_beside_adamw_step_by_step(make_config: Make, options: dict[str, Any], ratio: float) -> None:
    config = make_config(
        optimizer="muon", learning_rate=0.02, weight_decay=0.1,
        optimizer_options=json.dumps({**options, "adamw_betas": [0.9, 0.95]}),
    )  # fmt: skip
    ours, theirs = network(), network()
    optimizer = build_optimizer(config, ours)
    assert isinstance(optimizer, CombinedOptimizer)
    for group in optimizer.param_groups:  # as the loop sets it
        group["lr"] = 0.02 * group.get("lr_ratio", 1.0)
    muon = torch.optim.Muon([theirs.hidden.weight], lr=0.02, weight_decay=0.1, **options)
    decayed = [theirs.embedding.weight, theirs.head.weight]
    others = [theirs.hidden.bias, theirs.norm.weight, theirs.norm.bias]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(
        groups,
        lr=0.02 * ratio, betas=(0.9, 0.95), weight_decay=0.1, fused=True,
    )  # fmt: skip
    for step in range(4):
        for model in (ours, theirs):
            random_gradients(model.parameters(), step)
        optimizer.step()
        muon.step()
        adamw.step()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(p, q)


def test_what_muon_takes() -> None:
    assert list(hidden_matrices(network())) == ["hidden.weight"]
    assert list(hidden_matrices(Language(tied=True))) == ["hidden.weight"]  # the head is an embedding
    convolutions = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2))
    assert list(hidden_matrices(convolutions)) == ["2.weight"]


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_decoupled_weight_decay_leaves_out_norms_and_biases(make_config: Make, name: str) -> None:
    model = network()
    assert set(undecayed(model)) == {"hidden.bias", "norm.weight", "norm.bias"}
    config = make_config(optimizer=name, weight_decay=0.1)
    optimizer = build_optimizer(config, model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {key: decay[id(p)] for key, p in model.named_parameters()} == {
        "embedding.weight": 0.1, "hidden.weight": 0.1, "head.weight": 0.1,
        "hidden.bias": 0.0, "norm.weight": 0.0, "norm.bias": 0.0,
    }  # fmt: skip
    assert weight_decay_form(config) == "decoupled"
    assert decayed_parameters(config, model) == 7 * 4 + 4 * 4 + 4 * 7


def test_an_l2_term_acts_on_all(make_config: Make) -> None:
    model = network()
    for name in ("adam", "sgd", "rmsprop", "nadam"):
        config = make_config(optimizer=name, weight_decay=0.1)
        assert weight_decay_form(config) == "L2"
        assert decayed_parameters(config, model) == sum(p.numel() for p in model.parameters())
        assert {group["weight_decay"] for group in build_optimizer(config, model).param_groups} == {0.1}
    assert weight_decay_form(make_config(weight_decay=0.0)) is None
    as_adamw = make_config(optimizer_options='{"decoupled_weight_decay": true}', weight_decay=0.1)
    assert weight_decay_form(as_adamw) == "decoupled"
    adapted = make_config(layer_adaptation=True, weight_decay=0.1)  # LAMB
    assert decayed_parameters(adapted, model) == 72


def test_groups_by_name(make_config: Make) -> None:
    model = network()
    groups = "head.*:lr=10x,weight_decay=0 *.bias:lr=0.002,weight_decay=2x norm.*:betas=0.5,0.6"
    config = make_config(optimizer="adamw", learning_rate=0.01, weight_decay=0.1, parameter_groups=groups)
    optimizer = build_optimizer(config, model)
    own = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {
        name: (own[id(p)].get("lr_ratio", 1.0), own[id(p)]["weight_decay"], own[id(p)]["betas"])
        for name, p in model.named_parameters()
    }
    usual = (0.9, 0.999)
    assert found == {
        "embedding.weight": (1.0, 0.1, usual),
        "hidden.weight": (1.0, 0.1, usual),
        "hidden.bias": (pytest.approx(0.2), 0.2, usual),
        "norm.weight": (1.0, 0.0, (0.5, 0.6)),
        "norm.bias": (pytest.approx(0.2), 0.2, usual),  # the first pattern counts
        "head.weight": (10.0, 0.0, usual),
    }


def test_a_group_can_choose_adamw_for_muon(make_config: Make) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    config = make_config(optimizer="muon", parameter_groups="0.weight:optimizer=adamw,adamw_eps=0.5")
    optimizer = build_optimizer(config, model)
    assert isinstance(optimizer, CombinedOptimizer)
    muon, adamw = optimizer.parts
    assert [id(p) for group in muon.param_groups for p in group["params"]] == [id(model[1].weight)]
    assert {group["eps"] for group in adamw.param_groups} == {0.5, 1e-8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamw", "optimizer_options": '{"beta": 1}'}, "adamw has no option beta; did you mean betas?"),
        ({"optimizer": "adamw", "optimizer_options": '{"betas": 0.9}'}, "betas of adamw must be 2 numbers"),
        ({"optimizer": "adamw", "optimizer_options": '{"betas": [0.9]}'}, "betas of adamw must be 2 numbers"),
        ({"optimizer": "adamw", "optimizer_options": '{"betas": [0.9, 1.5]}'}, "Invalid beta parameter at index 1"),
        ({"optimizer": "adamw", "optimizer_options": '{"eps": "small"}'}, "eps of adamw must be a number, got small"),
        ({"optimizer": "adamw", "optimizer_options": '{"eps": NaN}'}, "eps of adamw must be a number, got nan"),
        ({"optimizer": "adamw", "optimizer_options": '{"amsgrad": 1}'}, "amsgrad of adamw must be true or false"),
        ({"optimizer": "adamw", "optimizer_options": '{"lr": 0.1}'}, "lr has an option of its own, --learning-rates"),
        ({"optimizer": "sgd", "optimizer_options": '{"momentum": 0.1}'}, "momentum has an option of its own"),
        ({"optimizer": "adamw", "optimizer_options": '{"fused": true}'}, "adamw has no option fused"),
        ({"optimizer": "lbfgs", "batch_size": 300, "optimizer_options": '{"history_size": 5}'}, "its options are none"),
        ({"optimizer": "rprop", "weight_decay": 0.1}, "`weight_decay` cannot be used with rprop"),
        ({"optimizer": "rprop", "parameter_groups": "*:weight_decay=1"}, "rprop has no weight_decay"),
        ({"optimizer": "muon", "optimizer_options": '{"adamw_lr_ratio": 0}'}, "must be a number above 0, got 0"),
        ({"optimizer": "muon", "optimizer_options": '{"adjust_lr_fn": "best"}'}, "best is not supported"),
        ({"optimizer": "muon", "parameter_groups": "hidden.weight:adamw_eps=1"}, "this group must be Muon's"),
        ({"optimizer": "muon", "parameter_groups": "norm.weight:optimizer=muon"}, "muon takes only matrices"),
        ({"optimizer": "adam", "parameter_groups": "norm.weight:optimizer=muon"}, "is for muon alone"),
        ({"parameter_groups": "heads.*:lr=10x"}, "no parameter is named heads"),
        ({"parameter_groups": "head.*:rate=10x"}, "adam has no option rate"),
        ({"parameter_groups": "head.*:lr=-1x"}, "lr must be a number above 0"),
        ({"parameter_groups": "head.*:lr=fast"}, "lr must be a number above 0"),
        ({"parameter_groups": "head.*"}, "must be PATTERN:KEY=VALUE"),
        ({"parameter_groups": "head.*:lr=1x,lr=2x"}, "each key once"),
        ({"optimizer": "adamW"}, "did you mean adamw?"),
        ({"optimizer": "sparseadam"}, "must take dense gradients"),
        ({"optimizer_options": "[1]"}, "`optimizer_options` must be a JSON object"),
        ({"optimizer": "torch.optim:Nothing"}, "`optimizer` must be an importable"),
        ({"optimizer": "json:dumps"}, "json:dumps"),
    ],
)  # fmt: skip
def test_refused_in_one_line(make_config: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_optimizer(make_config(**changes), network())
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_muon_needs_a_hidden_matrix(make_config: Make) -> None:
    with pytest.raises(UserError, match="needs a hidden matrix"):
        build_optimizer(make_config(optimizer="muon"), nn.Linear(3, 2))


def test_options_at_their_defaults_are_no_options(make_config: Make) -> None:
    given = make_config(optimizer="adamw", optimizer_options='{"betas": [0.9, 0.999], "eps": 1, "amsgrad": false}')
    assert checked(given).optimizer_options == '{"eps": 1.0}'
    old = make_config(optimizer_options='{"betas": [0.9, 0.999]}')
    assert checked(old).trial_id == make_config().trial_id


class Forgetful(torch.optim.SGD):
    """Keeps a number outside of its state."""

    steps_done = 0

    def step(self, closure: Any = None) -> Any:
        self.steps_done += 1
        for group in self.param_groups:
            group["lr"] = 1.0 / self.steps_done
        return super().step(closure)


class LooksAhead(torch.optim.SGD):
    """Goes back half of the way every five steps, counted outside of its state."""

    steps_done = 0

    def step(self, closure: Any = None) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"]]
        if self.steps_done % 5 == 0:
            self.slow = [parameter.detach().clone() for parameter in parameters]
        super().step(closure)
        self.steps_done += 1
        if self.steps_done % 5 == 0:
            with torch.no_grad():
                torch._foreach_lerp_(parameters, self.slow, 0.5)


class OtherNames(torch.optim.SGD):
    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["alpha"] = group.pop("lr")


class WithoutGroups:
    def __init__(self, params: Any, lr: float) -> None: ...


@pytest.mark.parametrize("own", ["OtherNames", "WithoutGroups"])
def test_an_optimizer_without_learning_rates_is_refused(make_config: Make, own: str) -> None:
    with pytest.raises(UserError, match=f"{own} must have `param_groups`, a list of dictionaries with .* `lr`, which"):
        check_optimizer(make_config(optimizer=f"{__name__}:{own}"), network())


class Unsaveable(torch.optim.SGD):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rule": Forgetful}


class Idle(torch.optim.SGD):
    """Updates copies."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__([{**group, "params": copy.deepcopy(group["params"])} for group in params], lr=lr)


class Sums(torch.optim.SGD):
    """Steps with the sum of 16 gradients, after 15 updates that rightly change nothing."""

    def step(self, closure: Any = None) -> Any:
        for parameter in (p for group in self.param_groups for p in group["params"]):
            state = self.state[parameter]
            state["count"] = state.get("count", 0) + 1
            state["sum"] = state.get("sum", 0) + parameter.grad
            if state["count"] % 16 == 0:
                parameter.data -= self.param_groups[0]["lr"] * state.pop("sum")


def test_an_optimizer_that_changes_nothing_is_refused(make_config: Make) -> None:
    with pytest.raises(UserError, match=r"must change parameters, got none changed after 100 steps at .* rate 0\.01$"):
        check_optimizer(make_config(optimizer=f"{__name__}:Idle"), network())
    check_optimizer(make_config(optimizer=f"{__name__}:Sums"), network())
    frozen = network().requires_grad_(False)
    frozen.head.weight.requires_grad_(True)
    check_optimizer(make_config(optimizer="adamw"), frozen)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("Forgetful", "continues differently from its saved state"),
        ("LooksAhead", "continues differently from its saved state"),
        ("Unsaveable", "cannot train"),
    ],
)
def test_an_optimizer_that_cannot_be_resumed_is_refused(make_config: Make, own: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_optimizer(make_config(optimizer=f"{__name__}:{own}"), network())


def test_a_class_of_ones_own(make_config: Make) -> None:
    config = make_config(optimizer="torch.optim:NAdam", optimizer_options='{"momentum_decay": 0.01}', weight_decay=0.1)
    model = network()
    check_optimizer(config, model)
    optimizer = build_optimizer(config, model)
    assert type(optimizer) is torch.optim.NAdam
    assert {(group["momentum_decay"], group["weight_decay"]) for group in optimizer.param_groups} == {(0.01, 0.1)}
