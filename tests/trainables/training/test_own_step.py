"""A training step of one's own: the example of the manual in a sweep's trial, resumed, measured and refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from narrow import not_none

from sweeps.execution.preflight import check
from sweeps.plan.grid import Grid, expand
from sweeps.session.placement import Placement
from trainables.check import check_trials
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.runtime.errors import UserError
from trainables.training.loop import Training
from trainables.trial import Trial, run_trial

MANUAL = Path(__file__).parents[3] / "docs" / "own-step.md"
Make = Callable[..., TrialConfig]

STEPS = """
import torch
from torch import nn
from torch.func import functional_call
from trainables.models.of_config import build

class Sgd:  # what the loop does by itself, by hand
    def __init__(self, config, data):
        self.model = build(config, data)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0, momentum=0.9)

    def step(self, inputs, labels, learning_rate):
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(inputs), labels).backward()
        self.optimizer.step()

    def state_dict(self):
        return self.optimizer.state_dict()

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state)

class Quadratic:  # 1/2 sum h_i x_i^2, by Newton's steps; no data at all
    metric, unit, direction = "height", "m", "lower"

    def __init__(self, config, data):
        self.model = nn.Linear(3, 1, bias=False)
        self.curvatures = torch.tensor([1.0, 2.0, 7.0], dtype=torch.float64)

    def loss(self, params):
        return (self.curvatures * params.double() ** 2).sum() / 2

    def step(self, inputs, labels, learning_rate):
        with torch.no_grad():
            self.model.weight.mul_(1 - learning_rate)

    def evaluate(self):
        height = float(self.loss(self.model.weight.detach().reshape(-1)))
        return {"train_loss": height, "test_loss": height, "train_metric": height, "test_metric": 2 * height}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

class Lacking:
    def __init__(self, config, data):
        self.model = nn.Linear(3, 1)
    def step(self, inputs, labels, learning_rate): ...

class WithoutNetwork(Sgd):
    def __init__(self, config, data):
        super().__init__(config, data)
        self.model = None

class WithoutWeights(Sgd):
    def __init__(self, config, data):
        super().__init__(config, data)
        self.model = nn.Flatten()

class Unsaved(Sgd):
    def state_dict(self):
        return {"generator": torch.Generator()}

class Changes(Sgd):
    def step(self, inputs, labels, learning_rate):
        self.model = nn.Sequential(self.model)

class Upwards(Quadratic):
    direction = "up"

class Worded(Quadratic):
    def evaluate(self):
        return super().evaluate() | {"test_loss": "low"}

class Idle(Sgd):  # trains a copy
    def __init__(self, config, data):
        super().__init__(config, data)
        self.model = build(config, data)

class Waits(Sgd):  # for its first 20 steps
    steps = 0
    def step(self, inputs, labels, learning_rate):
        self.steps += 1
        if self.steps > 20:
            super().step(inputs, labels, learning_rate)

class Raises(Sgd):
    def step(self, inputs, labels, learning_rate):
        raise ArithmeticError("not today")
"""


@pytest.fixture(autouse=True)
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_steps_of_test.py").write_text(STEPS)
    example = re.search(r"```python\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    assert example
    (tmp_path / "my_steps.py").write_text(example[1])
    monkeypatch.syspath_prepend(str(tmp_path))


def trials(digits: Source, trial: str, **changes: Any) -> list[TrialConfig]:
    fields: dict[str, Any] = {
        "batch_sizes": [30], "learning_rates": [0.05], "model_options": {"widths": [8]}, "epochs": 6, "train_size": 300,
        "measures": (),
    }  # fmt: skip
    return expand(Grid(trial=trial, **fields | changes), digits)


def test_the_example_of_the_manual_learns(digits: Source) -> None:
    config, large = trials(digits, "my_steps:EvolutionStrategy", batch_sizes=[30, 300], measures=("hessian_max_eig",))
    assert config.trial_fingerprint is not None
    check_trials([config, large], digits, None, None, 1)
    record = run_trial(config, digits)
    losses = [row["train_loss"] for row in record.epochs]
    assert losses[-1] < 0.8 * losses[0]
    assert (record.trial["trial"], record.trial["metric"]) == ("my_steps:EvolutionStrategy", "accuracy")
    assert record.trial["hessian_max_eig"] is not None


@pytest.mark.parametrize("stop_after", [1, 2])
def test_it_goes_on_to_the_same_bits(digits: Source, tmp_path: Path, stop_after: int) -> None:
    (config,) = trials(digits, "my_steps:EvolutionStrategy", epochs=None, budget="11steps", evaluate_every="4steps")
    whole = Trial(config, digits)
    whole.train()
    first = Trial(config, digits)
    for _ in range(stop_after):
        first.training.train_epoch()
    first.save(tmp_path / "trial.pt")
    second = Trial(config, digits)
    assert second.resume(tmp_path / "trial.pt")
    second.train()
    for one, other in zip(whole.training.epochs, second.training.epochs, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_sgd_by_hand_is_sgd(digits: Source, make_config: Make) -> None:
    """The same batches, rates and initial weights: only the order of additions in a step may differ."""
    (own,) = trials(digits, "own_steps_of_test:Sgd", epochs=2, warmup_epochs=[1.0])
    plain = make_config(
        optimizer="sgd", batch_size=30, learning_rate=0.05, warmup_epochs=1.0, epochs=2, measures="",
        model_options=own.model_options,
    )  # fmt: skip
    found, expected = run_trial(own, digits).epochs, run_trial(plain, digits).epochs
    for one, other in zip(found, expected, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["lr"] == other["lr"]


def test_a_loss_and_metric_of_ones_own(digits: Source) -> None:
    """Of the quadratic the largest eigenvalue is 7; a step at rate 0.05 shrinks the height by 0.95^2."""
    (config,) = trials(
        digits, "own_steps_of_test:Quadratic", epochs=2, measures=("hessian_max_eig", "hessian_trace", "layer_trace")
    )
    record = run_trial(config, digits)
    row = record.trial
    assert row["hessian_max_eig"] == pytest.approx(7, rel=1e-6)
    assert row["train_loss"] == pytest.approx(0.95**20 * record.epochs[0]["train_loss"], rel=1e-5)
    assert (row["metric"], row["metric_unit"], row["metric_direction"]) == ("height", "m", "lower")
    assert row["generalization_gap"] == pytest.approx(row["test_metric"] - row["train_metric"])
    assert (row["train_accuracy"], row["status"]) == (None, "completed")
    errors = {measure["measure"]: measure.get("error") for measure in record.measures}
    assert errors["hessian_trace"] is None
    assert "which this measure needs" in not_none(errors["layer_trace"])


@pytest.mark.parametrize(
    ("trial", "changes", "reason"),
    [
        ("own_steps_of_test:Missing", {}, "`trial` must be an importable"),
        ("own_steps_of_test:Sgd", {"remedies": [{"sam_radius": 0.1}]}, "`sam_radius` cannot be used with --trial"),
        (
            "own_steps_of_test:Sgd",
            {"optimizers": [("lbfgs", {})], "batch_sizes": [300]},
            "`optimizer lbfgs` cannot be used with --trial",
        ),
        (
            "own_steps_of_test:Sgd",
            {"measures": ("stability",)},
            "`stability` cannot be used with --trial",
        ),
    ],
)
def test_what_is_refused(digits: Source, trial: str, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        trials(digits, trial, **changes)


@pytest.mark.parametrize(
    ("trial", "reason"),
    [
        ("Lacking", "must have step, state_dict, load_state_dict, got none named state_dict, load_state_dict"),
        ("WithoutNetwork", "must have its network as `model`"),
        ("WithoutWeights", "must have a network with parameters that are trained, got none"),
        ("Unsaved", "must have a `state_dict` of tensors, numbers, text, lists and dictionaries, got UnpicklingError"),
        ("Changes", "must keep its `model`, got another one after a step"),
        ("Upwards", "must have a `direction` of higher or lower, got 'up'"),
        ("Worded", r"must return numbers from `evaluate`, got \{.*'test_loss': 'low'"),
        ("Raises", "cannot train on two examples: it raises ArithmeticError: not today"),
    ],
)
def test_a_class_that_lacks_a_part(digits: Source, trial: str, reason: str) -> None:
    configs = trials(digits, f"own_steps_of_test:{trial}")
    with pytest.raises(UserError, match=f"^`(--)?trial` own_steps_of_test:{trial} {reason}"):
        check_trials(configs, digits, None, None, 1)


def test_a_step_that_changes_nothing_is_told(digits: Source) -> None:
    configs = [*trials(digits, "own_steps_of_test:Idle"), *trials(digits, "own_steps_of_test:Waits")]
    assert check(configs, digits, Placement()) == [
        "`--trial` own_steps_of_test:Idle changes no parameter of its model in 100 steps on a few examples"
    ]


def test_whole_batches_alone(digits: Source) -> None:
    configs = trials(digits, "own_steps_of_test:Sgd")
    for micro_batch_size, workers in ((8, 1), (None, 2)):
        with pytest.raises(UserError, match="`trial` must train on one worker without micro-batches"):
            check_trials(configs, digits, None, micro_batch_size, workers)
    assert Trial(configs[0], digits).smaller_micro_batch() is None  # after running out of memory


def test_plain_trials_stay_plain(digits: Source, make_config: Make) -> None:
    assert type(Trial(make_config(measures=""), digits).training) is Training
    assert torch.is_grad_enabled()
