"""Every measure by name: documented, repeatable, blind to chunks and order, and it leaves the caller's model alone."""

import copy
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from narrow import as_a
from torch import Tensor, nn

from trainables.measures.by_name import MEASURES, Context, measure
from trainables.measuring import OF_STEPS
from trainables.records.tables import MEASURES as TABLE
from trainables.runtime.errors import UserError
from trainables.sharpness import (
    ModelLoss,
    batch_sharpness,
    hessian_eigenvalues,
    minibatch_stability,
    model_loss,
    stability,
)
from trainables.sharpness.ball import SETTLED_GAP
from trainables.training.optimizers.lamb import LAMB
from trainables.training.optimizers.optimizer import Optimizer
from trainables.training.optimizers.plain import SGD, Adam

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "measures.md"
EXAMPLES = 12
CONTEXT = Context(learning_rate=0.1, batch_size=4, train_size=EXAMPLES, momentum=0.9)
# A maximum that is searched for: the search ends where no move promises more than SETTLED_GAP of the rise so far.
SEARCHED = {name for name in MEASURES if re.match(r"box_|.*_ball_|(adaptive_)?m_sharpness", name)}
# What large losses are measured by in float32, where that is as good.
IN_FLOAT32 = SEARCHED | {name for name in MEASURES if re.match(r"(hessian|layer|gauss_newton)_(max|min|top)", name)}
# What depends on which examples come together: groups and batches.
OF_GROUPS = {
    "m_sharpness",
    "adaptive_m_sharpness",
    "gradient_noise_scale",
    "curvature_noise_scale",
    "batch_sharpness",
    "minibatch_stability",
}


NOISE_SCALES = {"gradient_noise_scale", "curvature_noise_scale"}  # none where |G|^2 or G'HG is not above 0


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Dropout(0.3), nn.Linear(3, 3)]
    model = nn.Sequential(*layers)
    inputs, labels = data()
    nn.functional.cross_entropy(model(inputs), labels).backward()  # with running statistics and gradients
    return model


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(EXAMPLES, 4, generator=generator), torch.randint(0, 3, (EXAMPLES,), generator=generator)


def named(rows: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [
        (f"{row['method']} {row.get('space')} {row.get('scale')} {row.get('epsilon')}", row["value"]) for row in rows
    ]


def values(loss: ModelLoss, name: str) -> list[tuple[str, float]]:
    return named(measure(loss, [name], CONTEXT))


@functools.cache
def expected_values(name: str) -> list[tuple[str, float]]:
    """On the network and data above, in float64 throughout."""
    return values(ModelLoss(network(), *data()), name)


def test_every_measure_is_documented() -> None:
    documented = set(re.findall(r"\*\*`(\w+)`\*\*", DOCUMENTATION.read_text()))
    assert set(MEASURES) - documented == set()
    assert {name for name in documented if name.islower()} - set(MEASURES) == set()


def test_the_readme_counts_them() -> None:
    readme = (DOCUMENTATION.parents[1] / "README.md").read_text()
    assert re.findall(r"any of the (\d+) in\s+\[docs/measures.md\]", readme) == [str(len(MEASURES))]


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_leaves_everything_as_it_was(name: str) -> None:
    """Parameters, buffers, gradients, modes and the random state, bit for bit; and it gives the same numbers again."""
    model, (inputs, labels) = network(), data()
    before = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]
    state, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    rows = measure(ModelLoss(model, inputs, labels), [name], CONTEXT)
    assert named(rows) == expected_values(name)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(torch.equal(old, new.grad) for old, new in zip(gradients, model.parameters(), strict=True))  # type: ignore[arg-type]
    assert all(set(row) <= set(TABLE.names) for row in rows)
    assert all(type(row["value"]) is float and type(row["converged"]) is bool for row in rows if "converged" in row)
    assert all(isinstance(row["evaluations"], int) for row in rows)
    assert len(dict(named(rows))) == len(rows)  # no two rows look alike


@pytest.mark.parametrize(
    ("name", "large"),
    [(name, math.inf) for name in MEASURES if name not in OF_STEPS]
    + [(name, 0.0) for name in sorted(IN_FLOAT32 - OF_STEPS)],
)
def test_chunks_and_order_do_not_change_a_value(name: str, large: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding, which searches and random bases carry on; where these are in float32, to that one's.

    A rounding may decide whether a search takes another step. In float64 that is one case in 10^9 (it takes a move that
    promises SETTLED_GAP to so many digits), in float32 one in a few hundred; then the ends differ by SETTLED_GAP.
    """
    asked, single = [], ModelLoss.single

    def noting(loss: ModelLoss) -> ModelLoss | None:
        asked.append(name)
        return single(loss)

    monkeypatch.setattr(ModelLoss, "single", noting)
    monkeypatch.setattr(model_loss, "LARGE", large)
    rel = 1e-5 if large else SETTLED_GAP if name in SEARCHED else 1e-4
    model, (inputs, labels) = network(), data()
    generator = torch.Generator().manual_seed(2)
    order = torch.arange(EXAMPLES) if name in OF_GROUPS else torch.randperm(EXAMPLES, generator=generator)
    whole = expected_values(name) if large else values(ModelLoss(model, inputs, labels), name)
    cut = values(ModelLoss(model, inputs[order], labels[order], chunk_size=7), name)
    for (one, expected), (other, value) in zip(whole, cut, strict=True):
        assert one == other
        assert value == pytest.approx(expected, rel=rel, abs=1e-10, nan_ok=True)
    assert bool(asked) == (name in IN_FLOAT32)


IN_BATCHES = OF_GROUPS | {"box_sharpness", "hessian_max_eig", "gauss_newton_trace", "relative_flatness"}


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {"batch_norm": "recalibrated"}) for name in MEASURES]
    + [(name, {"batch_norm": "batch", "batch_size": 7}) for name in sorted(IN_BATCHES)],
)
def test_measures_work_in_every_mode_of_batch_norm(name: str, options: dict[str, Any]) -> None:
    rows = measure(ModelLoss(network(), *data(), **options), [name], CONTEXT)
    assert rows
    assert all(math.isfinite(row["value"]) or name in NOISE_SCALES for row in rows)


@pytest.mark.parametrize("name", [name for name in MEASURES if name not in OF_STEPS])
def test_float32_is_near_float64(name: str) -> None:
    single = values(ModelLoss(network(), *data(), dtype=torch.float32), name)
    for (one, expected), (other, value) in zip(expected_values(name), single, strict=True):
        assert one == other
        assert value == pytest.approx(expected, rel=0.02, abs=1e-4, nan_ok=True)


class Noisy(nn.Module):
    """Dropout by function, which eval mode does not switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(nn.functional.dropout(inputs, 0.5))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "sgd_noise_scale"])
def test_a_random_loss_is_refused_and_the_random_state_put_back(name: str) -> None:
    torch.manual_seed(5)
    loss = ModelLoss(Noisy(), *data())
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"must be deterministic.*dropout and augmentation"):
        measure(loss, [name], CONTEXT)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", [name for name in MEASURES if name not in OF_STEPS])
def test_a_loss_that_is_not_finite_is_a_result(name: str) -> None:
    inputs, labels = data()
    inputs[3, 2] = math.inf
    rows = measure(ModelLoss(nn.Linear(4, 3), inputs, labels), [name], CONTEXT)
    assert not any(math.isfinite(row["value"]) for row in rows)
    assert not any(row.get("converged") for row in rows if "variance" not in row["method"])


@pytest.mark.parametrize("name", sorted(OF_STEPS))
def test_measures_of_steps_need_the_optimizer(name: str) -> None:
    with pytest.raises(UserError, match=f"`learning_rate` must be given for the measure {name}, got none"):
        measure(ModelLoss(network(), *data()), [name])


def test_stability_of_batches() -> None:
    """Halves of the rate times the functions' values; a batch larger than what is measured is refused."""
    loss = ModelLoss(network(), *data())
    batches: dict[str, Any] = {"examples": EXAMPLES, "batch_size": 4}
    along = batch_sharpness(loss.of_examples, loss.params, **batches)
    mean, of_means = measure(loss, ["batch_sharpness"], CONTEXT)
    assert (mean["method"], mean["value"], mean["stderr"]) == ("mean of ratios", along.value, along.stderr)
    assert (of_means["method"], of_means["value"]) == ("ratio of means", along.ratio_of_means)
    first, second = measure(loss, ["minibatch_stability"], CONTEXT)
    assert (first["method"], first["value"]) == ("batch sharpness", pytest.approx(0.1 * along.value / 2))
    top = hessian_eigenvalues(loss, loss.params).vectors[0]
    found = minibatch_stability(loss.of_examples, loss.params, top, learning_rate=0.1, **batches)
    assert (second["method"], second["value"]) == ("top eigenvector", pytest.approx(found.ratio))
    assert {row["scale"] for row in (mean, of_means, first, second)} == {4}
    with pytest.raises(UserError, match="`measure_examples` must be at least the batch size 13 for the measure batch_"):
        measure(loss, ["batch_sharpness"], Context(learning_rate=0.1, batch_size=EXAMPLES + 1))
    with pytest.raises(UserError, match="`batch_size` must be given for the measure minibatch_stability"):
        measure(loss, ["minibatch_stability"], Context(learning_rate=0.1))


def test_stability_forms() -> None:
    """eta lambda / 2; eta lambda / (2 + 2 beta); with Adam the preconditioned Hessian."""
    loss = ModelLoss(network(), *data())
    top = float(hessian_eigenvalues(loss, loss.params).values[0])
    plain, momentum = measure(loss, ["stability"], CONTEXT)
    assert (plain["method"], plain["value"]) == ("plain", pytest.approx(0.1 * top / 2))
    assert (momentum["method"], momentum["value"]) == ("momentum", pytest.approx(0.1 * top / 3.8))
    assert momentum["evaluations"] == 0
    scale = torch.linspace(0.5, 2, len(loss.params)).double()
    _, adam = measure(loss, ["stability"], Context(0.1, momentum=0.9, preconditioner=scale))
    own = stability(loss, loss.params, learning_rate=0.1, momentum=0.9, form="averaged", preconditioner=scale)
    assert (adam["method"], adam["value"]) == ("adam", own.ratio)


@pytest.mark.parametrize("kind", ["adam", "sgd", "lamb"])
def test_the_context_of_an_optimizer(kind: str) -> None:
    model, (inputs, labels) = network(), data()
    first = as_a(nn.Linear, model.get_submodule("0"))
    first.bias.requires_grad_(False)
    optimizers: dict[str, Callable[[], Optimizer]] = {
        "adam": lambda: Adam(model.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-3),
        "sgd": lambda: SGD(model.parameters(), lr=0.01, momentum=0.7),
        "lamb": lambda: LAMB(model.parameters(), lr=0.01),
    }
    optimizer = optimizers[kind]()
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    context = Context.of(optimizer, model.parameters(), 8, 30)
    assert (context.learning_rate, context.batch_size, context.train_size) == (0.01, 8, 30)
    assert context.momentum == {"adam": 0.8, "sgd": 0.7, "lamb": 0.0}[kind]
    assert (context.preconditioner is not None) == (kind == "adam")
    if context.preconditioner is not None:
        assert context.preconditioner.shape == ModelLoss(model, inputs, labels).params.shape
        moment = optimizer.state[first.weight]["exp_avg_sq"].double().reshape(-1)
        torch.testing.assert_close(context.preconditioner[:12], (moment / (1 - 0.9**2)).sqrt() + 1e-3)


def test_layers_and_quantiles_are_rows() -> None:
    loss = ModelLoss(network(), *data())
    assert [row["space"] for row in measure(loss, ["layer_trace"])] == ["0", "1", "4"]
    whole = measure(loss, ["hessian_trace"])[0]["value"]
    assert sum(row["value"] for row in measure(loss, ["layer_trace"])) == pytest.approx(whole, rel=1e-9)
    top = measure(loss, ["hessian_max_eig"])[0]["value"]
    assert all(row["value"] <= top * 1.001 for row in measure(loss, ["layer_max_eig"]))
    quantiles = measure(loss, ["spectral_density"])
    assert [row["value"] for row in quantiles] == sorted(row["value"] for row in quantiles)
    assert quantiles[-1]["value"] == pytest.approx(top, rel=1e-2)
