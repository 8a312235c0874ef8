"""What changes shared data in place is refused in one line, before it has changed any."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.check import check_trial
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.models import build_model
from trainables.runtime.errors import UserError
from trainables.runtime.in_place import kept
from trainables.trial import run_trial

Make = Callable[..., TrialConfig]

CODE = """
import math
import torch
from torch import nn
from trainables.tasks.task import Task

class Changes(nn.Linear):
    def __init__(self, shape, classes, how):
        super().__init__(math.prod(shape), classes)
        self.how = how
    def forward(self, x):
        if self.how == "subtracts": x -= 0.5
        if self.how == "view": x.view(-1).sub_(0.5)
        if self.how == "data": x.data.mul_(0.5)
        if self.how == "training" and self.training: x.mul_(0.5)
        if self.how == "part": x[:, 0] = 1.0
        if self.how == "copy": x = x.clone().sub_(0.5)
        return super().forward(x.flatten(1))

def net(shape, classes, how): return Changes(shape, classes, how)
def relu(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(math.prod(shape), classes))
def inner(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 9), nn.ReLU(inplace=True), nn.Linear(9, classes))

class Base(Task):
    def loss(self, outputs, labels): return nn.functional.cross_entropy(outputs, labels, reduction="none")
class Loss(Base):
    def loss(self, outputs, labels): return super().loss(outputs, labels.clamp_(1, 2))
class Outputs(Base):
    def loss(self, outputs, labels): return super().loss(outputs.detach().mul_(2) + outputs, labels)
class Weights(Base):
    def weights(self, labels): return labels.add_(1).clamp(max=1).double()
class Metrics(Base):
    metric, unit, direction = "size", "", "lower"
    def metrics(self, outputs, labels): return {"size": outputs.exp_().sum(1)}
class Chance(Base):
    def chance(self, labels, classes): return float(labels.add_(1).max())
class Augment(Base):
    def augment(self, inputs, labels, generator): return inputs.mul_(2), labels.clamp_(1, 2)

class Step:
    def __init__(self, config, data):
        data.train_inputs.sub_(0.5)
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    def step(self, inputs, labels, learning_rate): pass
    def state_dict(self): return {}
    def load_state_dict(self, state): pass
class StepLater(Step):
    def __init__(self, config, data):
        self.data, self.model = data, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    def step(self, inputs, labels, learning_rate): self.data.train_inputs.sub_(0.5)
"""


@pytest.fixture(autouse=True)
def users_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code_in_place.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def source(digits: Source) -> Source:
    return digits


@pytest.mark.parametrize("how", ["subtracts", "view", "data", "training", "part", "copy"])
def test_a_network(how: str, source: Source, make_config: Make) -> None:
    config = make_config(model="code_in_place:net", model_options=f'{{"how": "{how}"}}')
    if how == "copy":
        check_trial(config, source)
        return
    with pytest.raises(UserError, match=r"^`model` must not change its inputs in place: .*write x = x - mean"):
        check_trial(config, source)


def test_layers(source: Source, make_config: Make) -> None:
    with pytest.raises(UserError, match="in place"):
        build_model("code_in_place:relu", (64,), 10)
    check_trial(make_config(model="code_in_place:inner", model_options="{}"), source)


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("Loss", "outputs or"),
        ("Outputs", "outputs or"),
        ("Weights", "outputs or"),
        ("Metrics", "outputs or"),
        ("Chance", ""),
    ],
)
def test_a_task(task: str, what: str, source: Source, make_config: Make) -> None:
    config = make_config(task=f"code_in_place:{task}")
    with pytest.raises(UserError, match=f"^`task` code_in_place:{task} must not change its {what} ?labels in place"):
        check_trial(config, source)


def test_a_batch_is_a_copy_that_an_augmentation_may_change(source: Source, make_config: Make) -> None:
    before = source.inputs.copy(), source.labels.copy()
    config = make_config(task="code_in_place:Augment", measures="")
    check_trial(config, source)
    run_trial(config, source)
    assert np.array_equal(source.inputs, before[0])
    assert np.array_equal(source.labels, before[1])


@pytest.mark.parametrize("trial", ["Step", "StepLater"])
def test_a_training_step(trial: str, source: Source, make_config: Make) -> None:
    config = make_config(trial=f"code_in_place:{trial}", measures="")
    with pytest.raises(UserError, match=f"^`trial` code_in_place:{trial} must not change its data in place"):
        check_trial(config, source)


def test_data_that_are_mapped_from_a_file(tmp_path: Path, make_config: Make) -> None:
    """A write to them would end the process."""
    random = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 20)):
        np.save(tmp_path / f"{part}_inputs.npy", random.normal(size=(count, 5)).astype("float32"))
        np.save(tmp_path / f"{part}_labels.npy", random.integers(0, 2, count))
    source = load_source("arrays", root=tmp_path, cache_dir=tmp_path / "cache")
    config = make_config(
        dataset="arrays",
        model="code_in_place:net",
        model_options='{"how": "subtracts"}',
        train_size=60,
        test_size=20,
        measure_examples=60,
        measures="",
    )
    with pytest.raises(UserError, match="in place"):
        run_trial(config, source)


def test_tensors_of_every_kind() -> None:
    values = (
        torch.ones(2),
        torch.ones(2, dtype=torch.bool),
        torch.ones(2, dtype=torch.int64),
        torch.tensor([float("nan")]),
    )
    with torch.inference_mode():
        made = torch.ones(2)
    with kept("who", "what", *values, made, None, exact=True):
        pass
    for value in values:
        with pytest.raises(UserError, match=r"^who must not change its what in place"), kept("who", "what", value):
            as_changed(value)


def as_changed(value: Tensor) -> None:
    value[0] = 0
