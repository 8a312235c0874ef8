"""Optimizers with remedies: the pair trains and changes something, or it is refused in one line."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.check import check_trial
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.optimizer_settings import (
    FULL_BATCH_OPTIMIZERS,
    LINE_SEARCH_OPTIMIZERS,
    OF_TORCH,
    OPTIMIZERS,
    PROGRESSIVE,
)
from trainables.remedies import REMEDIES
from trainables.runtime.errors import UserError
from trainables.trial import Trial

Make = Callable[..., TrialConfig]
EVERY = (*OPTIMIZERS, *OF_TORCH, "torch.optim:Adamax")
SWITCH = {"switch_epoch": 1, "switch_batch_size": 20}
WITH: dict[str, dict[str, Any]] = {
    "plain": {},
    "learning_rate_scaling": {"learning_rate_scaling": "sqrt", "base_batch_size": 5},
    "same_steps": {"same_steps": True, "base_batch_size": 5},
    "batch_schedule": {"batch_schedule": "1:20"},
    "decay": {"decay": "cosine"},
    "decay, shared": {"decay": "wsd", "decay_share": 0.5, "decay_floor": 0.1},
    "decay_by": {"decay": "step", "decay_epochs": "1", "decay_by": "batch_size", "decay_factor": 0.5},
    "decay_by, seesaw": {"decay": "step", "decay_epochs": "1", "decay_by": "seesaw", "decay_factor": 0.5},
    "momentum_correction": {"momentum_correction": False, "warmup_epochs": 1.0},
    "layer_adaptation": {"layer_adaptation": True},
    "ghost_batch_size": {"ghost_batch_size": 5},
    "noise_batch_size": {"noise_batch_size": 5},
    "sam_radius": {"sam_radius": 0.05},
    "sam_adaptive": {"sam_radius": 0.5, "sam_adaptive": True},
    "clip_norm": {"clip_norm": 0.1},
    "label_smoothing": {"label_smoothing": 0.1},
    "augmentation": {"augmentation": "paper"},
    "proximal": {"proximal": 0.1},
    "weight_adversary": {"weight_adversary": 0.1},
    "input_adversary": {"input_adversary": 0.1},
    "gradient_penalty": {"gradient_penalty": 0.01, "penalty_batch_size": 5},
    "svrg_every": {"svrg_every": "3steps", "model_options": '{"widths": [8, 8]}'},
    "average, ema": {"average": "ema", "average_decay": 0.9},
    "average, swa": {"average": "swa", "average_from": 1.0},
    "average, lawa": {"average": "lawa", "average_last": 2},
    "local_workers": {"local_workers": 2, "local_steps": 3, "local_from": 0.5},
    "switch, reset": {**SWITCH, "switch_optimizer_state": "reset"},
    "switch, keep": {**SWITCH, "switch_optimizer_state": "keep"},
    "bfloat16": {"precision": "bfloat16"},
    "weight_decay": {"weight_decay": 0.1},
    "parameter_groups": {"parameter_groups": "*.bias:lr=2x"},
}
# What changes the gradient or the data alone is tried with these. All other optimizers are built, stepped and stored as
# adam is, and tried with what meets the optimizer: its arguments, rates, state, copies and calls of a closure.
WITH_EVERY_REMEDY = ("adam", "sgd", *LINE_SEARCH_OPTIMIZERS)
OF_THE_OPTIMIZER = (
    "plain", "decay", "momentum_correction", "layer_adaptation", "sam_radius", "local_workers", "switch, keep",
    "bfloat16", "weight_decay", "parameter_groups",
)  # fmt: skip
PAIRS = [
    (optimizer, remedy) for remedy in WITH for optimizer in EVERY
    if optimizer in WITH_EVERY_REMEDY or remedy in OF_THE_OPTIMIZER
]  # fmt: skip
NOT_FOR_LINE_SEARCHES = {
    "learning_rate_scaling", "decay", "decay, shared", "decay_by, seesaw",
    "batch_schedule", "decay_by", "momentum_correction", "layer_adaptation", "noise_batch_size", "sam_radius",
    "sam_adaptive", "clip_norm", "augmentation", "proximal", "weight_adversary", "input_adversary",
    "gradient_penalty", "local_workers", "svrg_every", "switch, reset",
    "switch, keep", "bfloat16", "weight_decay", "parameter_groups",
}  # fmt: skip
OTHERS_REFUSED = {
    (PROGRESSIVE, "same_steps"),
    (PROGRESSIVE, "ghost_batch_size"),
    ("rprop", "weight_decay"),
    *((name, "layer_adaptation") for name in EVERY if name not in ("adam", "sgd")),
    *((name, "momentum_correction") for name in EVERY if name != "sgd"),
}


def test_all_remedies_are_tried() -> None:
    tried = {name for changes in WITH.values() for name in changes}
    assert set(REMEDIES) - {"decay_fingerprint"} <= tried  # that is the hash of the source of a schedule of one's own


def is_refused(optimizer: str, remedy: str) -> bool:
    line_search = optimizer in LINE_SEARCH_OPTIMIZERS and remedy in NOT_FOR_LINE_SEARCHES
    return line_search or (optimizer, remedy) in OTHERS_REFUSED


def config_of(make: Make, optimizer: str, remedy: str) -> TrialConfig:
    size = 40 if optimizer in FULL_BATCH_OPTIMIZERS else 10
    fields: dict[str, Any] = {
        "train_size": 40,
        "test_size": 20,
        "measure_examples": 10,
        "batch_size": size,
        "epochs": 2,
        "measures": "",
        "model_options": json.dumps({"widths": [8, 8], "batch_norm": optimizer != PROGRESSIVE}),
        "optimizer": optimizer,
    }
    return make(**fields | WITH[remedy])


@pytest.mark.parametrize(("optimizer", "remedy"), PAIRS)
def test_trains_or_is_refused(make_config: Make, digits: Source, optimizer: str, remedy: str) -> None:
    if is_refused(optimizer, remedy):
        with pytest.raises(UserError) as refusal:
            check_trial(config_of(make_config, optimizer, remedy), digits)
        assert "\n" not in str(refusal.value)
        return
    config = config_of(make_config, optimizer, remedy)
    check_trial(config, digits)
    trial = Trial(config, digits)
    start = [parameter.detach().clone() for parameter in trial.training.model.parameters()]
    trial.train()
    for parameter, before in zip(trial.training.model.parameters(), start, strict=True):
        assert parameter.ndim < 2 or not torch.equal(parameter, before)  # biases before batch norm have no gradient
    assert trial.training.epochs[-1]["train_loss"] < 100


@pytest.mark.parametrize("optimizer", EVERY)
def test_resumed_trials_have_the_same_bits(make_config: Make, digits: Source, optimizer: str, tmp_path: Path) -> None:
    config = dataclasses.replace(config_of(make_config, optimizer, "plain"), epochs=3)
    straight, first, second = (Trial(config, digits) for _ in range(3))
    straight.train()
    first.training.train_epoch()
    first.save(tmp_path / "trial.pt")
    assert second.resume(tmp_path / "trial.pt")
    second.train()
    for p, q in zip(straight.training.model.parameters(), second.training.model.parameters(), strict=True):
        assert torch.equal(p, q)
