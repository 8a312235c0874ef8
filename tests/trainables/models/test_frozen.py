"""Frozen parameters: no update and no measure touches them, and the sweep says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweeps.plan.users_network import fingerprint_of
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.models import build_model
from trainables.runtime.errors import UserError
from trainables.trial import Trial

MODELS = """
from torch import nn
def half(shape, classes, frozen=True):
    model = nn.Sequential(nn.Linear(shape[0], 4), nn.Tanh(), nn.Linear(4, classes))
    model[0].requires_grad_(not frozen)
    return model
def whole(shape, classes):
    return half(shape, classes).requires_grad_(False)
"""
FROZEN, ALL = 3 * 4 + 4, 3 * 4 + 4 + 4 * 2 + 2


@pytest.fixture(autouse=True)
def users_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "frozen_code.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))


def source() -> Source:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(40, 3)).astype(np.float32)
    return Source("made up", inputs, (inputs[:, 0] > 0).astype(np.int64), None, None, 2)


WAYS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "weight_decay": 0.1},
    "sgd": {"optimizer": "sgd", "weight_decay": 0.1},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "muon": {"optimizer": "muon", "weight_decay": 0.1},
    "adagrad": {"optimizer": "adagrad", "weight_decay": 0.1},
    "lars": {"optimizer": "sgd", "weight_decay": 0.1, "layer_adaptation": True},
    "lamb": {"optimizer": "adam", "weight_decay": 0.1, "layer_adaptation": True},
    "sam": {"optimizer": "sgd", "sam_radius": 0.1},
    "robust": {"optimizer": "sgd", "weight_adversary": 0.1},
    "proximal": {"optimizer": "sgd", "proximal": 0.1},
    "line search": {"optimizer": "gradient_descent", "batch_size": 30},
    "lbfgs": {"optimizer": "lbfgs", "batch_size": 30},
    "batches that grow": {"optimizer": "progressive_lbfgs"},
    "micro-batches": {"optimizer": "sgd", "momentum": 0.5},
}


@pytest.mark.parametrize("way", WAYS)
def test_they_stay_as_they_were(way: str) -> None:
    fields: dict[str, Any] = {
        "dataset": "made up", "data_fingerprint": "", "train_size": 30, "test_size": 10, "model": "frozen_code:half",
        "learning_rate": 0.1, "batch_size": 10, "epochs": 2, "measures": "", "measure_examples": 30,
    }  # fmt: skip
    trial = Trial(TrialConfig(**fields | WAYS[way]), source(), micro_batch_size=4 if way == "micro-batches" else None)
    before = [own.detach().clone() for own in trial.training.model.parameters()]
    trial.train()
    same = [torch.equal(a, b) for a, b in zip(before, trial.training.model.parameters(), strict=True)]
    assert same == [True, True, False, False]


def test_no_measure_has_them_and_the_row_says_so() -> None:
    config = TrialConfig(
        dataset="made up", data_fingerprint="", train_size=30, test_size=10, model="frozen_code:half",
        learning_rate=0.1, batch_size=10, epochs=1, measures="hessian_trace", measure_examples=30,
    )  # fmt: skip
    trial = Trial(config, source())
    trial.train()
    trial.measure()
    assert trial._bound().params.numel() == ALL - FROZEN
    row = trial.record().trial
    assert (row["parameters"], row["frozen_parameters"]) == (ALL, FROZEN)


def test_the_sweep_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    fingerprint_of("frozen_code:half", {}, source(), None)
    assert f"{FROZEN} of the {ALL} parameters of frozen_code:half are frozen" in capsys.readouterr().err
    fingerprint_of("frozen_code:half", {"frozen": False}, source(), None)
    assert "frozen (" not in capsys.readouterr().err


def test_something_must_be_trained() -> None:
    with pytest.raises(UserError, match="must have parameters that require gradients, got none; unfreeze"):
        build_model("frozen_code:whole", (3,), 2)
