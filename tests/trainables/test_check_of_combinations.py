"""What a trial refuses when it starts is refused before the sweep, whatever other trials the sweep has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainables.check import check_trials
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.runtime.errors import UserError
from trainables.trial import Trial

Make = Callable[..., TrialConfig]
LOCAL = {"local_workers": 2, "local_steps": 2, "local_from": 0.0}
FEW: dict[str, Any] = {"train_size": 40, "test_size": 20, "measure_examples": 10, "batch_size": 10, "measures": ""}
OWN = """
import torch

class Averaging(torch.optim.SGD):
    '''SGD with the interface of an optimizer that averages the weights itself.'''

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)
        self.train()

    def train(self):
        for group in self.param_groups:
            group["train_mode"] = True

    def eval(self):
        for group in self.param_groups:
            group["train_mode"] = False

class OwnNorm(torch.nn.BatchNorm1d):
    pass

def network(input_shape, num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), OwnNorm(64), torch.nn.Linear(64, num_classes))
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_combinations.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("shared", "own", "message"),
    [
        ({"optimizer": "own_combinations:Averaging"}, LOCAL, "`local_workers` cannot be used with an optimizer"),
        (
            {"optimizer": "own_combinations:Averaging"},
            {"average": "ema"},
            "`average` cannot be used with an optimizer",
        ),
        (
            {"optimizer": "sgd", "optimizer_options": '{"nesterov": true}'},
            {"momentum": 0.0},
            "sgd cannot be built: Nesterov momentum requires",
        ),
        ({}, {"ghost_batch_size": 5}, "`ghost_batch_size` cannot be used with a model without batch norm"),
        ({}, {"noise_scale": "normalization"}, "`noise_scale` normalization needs trainable layers"),
        (
            {"model_options": '{"widths": [8], "batch_norm": true}'},
            {"svrg_every": "1epochs"},
            "`svrg_every` cannot be used with a network with batch norm",
        ),
    ],
)
def test_refused_beside_a_trial_that_trains(
    make_config: Make, digits: Source, shared: dict[str, Any], own: dict[str, Any], message: str
) -> None:
    fine, refused = make_config(**FEW | shared), make_config(**FEW | shared | own)
    check_trials([fine], digits, None, None, 1)
    with pytest.raises(UserError, match=message):
        Trial(refused, digits)
    for configs in ([refused, fine], [fine, refused]):
        with pytest.raises(UserError, match=message) as refusal:
            check_trials(configs, digits, None, None, 1)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("later", [{"switch_epoch": 1, "switch_batch_size": 1}, {"batch_schedule": "1:1"}])
def test_batch_norm_and_a_later_batch_of_one(make_config: Make, digits: Source, later: dict[str, Any]) -> None:
    plain = make_config(**FEW, model_options='{"widths": [8]}', epochs=2, **later)
    fine = make_config(**FEW, model_options='{"widths": [8], "batch_norm": true}', epochs=2)
    check_trials([plain, fine], digits, None, None, 1)
    refused = make_config(**FEW, model_options='{"widths": [8], "batch_norm": true}', epochs=2, **later)
    for configs in ([refused, fine], [fine, refused]):
        with pytest.raises(
            UserError, match="`--model` mlp cannot train at batch size 1: it raises ValueError: Expected more than 1"
        ):
            check_trials(configs, digits, None, None, 1)


def test_batch_norm_that_workers_cannot_share(make_config: Make, digits: Source) -> None:
    config = make_config(**FEW, model="own_combinations:network", model_options="{}")
    check_trials([config], digits, None, None, 1)
    with pytest.raises(UserError, match="`workers_per_trial` must be 1 for batch norm of the type OwnNorm"):
        check_trials([config], digits, None, None, 2)
