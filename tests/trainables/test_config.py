"""Configurations: one canonical form for one run, a key that follows from it, and what is refused."""

import dataclasses
from collections.abc import Callable

import pytest

from trainables.config import MEASURING, TrialConfig
from trainables.runtime.errors import UserError

Make = Callable[..., TrialConfig]
SWITCH = {"switch_epoch": 2, "switch_batch_size": 300}


def test_the_key_is_stable(make_config: Make) -> None:
    """A changed key orphans everybody's results: this one may change only with NUMBERS_VERSION."""
    config = dataclasses.replace(make_config(), data_fingerprint="0" * 16)
    assert config.trial_id == "b142677723207bf7"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"switch_epoch": 4, "switch_batch_size": 300}),  # a switch after the last epoch
        ({}, {"switch_epoch": 2, "switch_batch_size": 32}),  # a switch to the same batch size
        ({}, {"switch_epoch": 4, "switch_batch_size": 32, "switch_order_seed": 1}),
        ({"batch_size": 300}, {"switch_epoch": 0, "switch_batch_size": 300}),  # a switch before the first
        ({}, {"momentum": 0.5}),  # Adam has no momentum option
        ({"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.9}),
        (SWITCH, {**SWITCH, "switch_learning_rate": "keep", "switch_optimizer_state": "reset"}),
        ({}, {"learning_rate": 1e-2}),
    ],
)
def test_the_same_run_has_one_key(make_config: Make, one: dict[str, object], other: dict[str, object]) -> None:
    assert make_config(**one).trial_id == make_config(**other).trial_id
    assert make_config(**one).canonical() == make_config(**other).canonical()


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 16},
        {"learning_rate": 0.02},
        {"warmup_epochs": 0.5},
        SWITCH,
        {**SWITCH, "switch_learning_rate": "sqrt"},
        {**SWITCH, "switch_optimizer_state": "keep"},
        {"switch_epoch": 2, "switch_batch_size": 32, "switch_order_seed": 0},  # the same batch size in another order
        {"seed": 1},
        {"split_seed": 1},
        {"data_fingerprint": "other"},
        {"epochs": 5},
        {"target_loss": 0.1},
        {"optimizer": "sgd"},
    ],
)
def test_what_changes_numbers_changes_the_key(make_config: Make, change: dict[str, object]) -> None:
    assert make_config(**change).trial_id != make_config().trial_id


def test_what_is_measured_is_no_part_of_the_key(make_config: Make) -> None:
    """Not one of the fields, so that measuring more extends a trial instead of training it again."""
    changes: dict[str, object] = {
        "measure_examples": 100,
        "measure_dtype": "float32",
        "measures": "hessian_trace",
        "measure_batch_norm": "batch",
        "measure_batch_size": 50,
        "measure_every": 2,
        "measure_share": 0.5,
        "noise_scale": "all",
        "shifts": "blur",
    }
    assert changes.keys() == MEASURING
    switched = make_config(**SWITCH)
    for name, value in changes.items():
        assert make_config(**{name: value}).trial_id == make_config().trial_id
        assert make_config(**SWITCH, **{name: value}).warm_start_id == switched.warm_start_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 301}, "`batch_size` must be between 1 and the 300 training examples, got 301"),
        ({"batch_size": 0}, "`batch_size` must be between"),
        ({"switch_epoch": 1, "switch_batch_size": 500}, "`switch_batch_size` must be between"),
        ({"switch_epoch": 1}, "`switch_batch_size` must be given"),
        ({"switch_epoch": -1, "switch_batch_size": 64}, "`switch_epoch` must be 0 or more"),
        ({"learning_rate": -0.1}, "`learning_rate` must be a number above 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a number above 0"),
        ({"warmup_epochs": 5.0}, r"`warmup_epochs` must be between 0 and `epochs` \(4\)"),
        ({"target_loss": 0.0}, "`target_loss` must be a number above 0"),
        ({"weight_decay": -1.0}, "`weight_decay` must be"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
        ({"optimizer": "lion"}, "`optimizer` must be one of adam, sgd, adagrad, .*, or package.module:Class, got lion"),
        ({"measure_dtype": "float16"}, "`measure_dtype` must be one of auto, float64, float32"),
        ({"switch_learning_rate": "cubic"}, "`switch_learning_rate` must be one of keep, linear, sqrt"),
        ({"measure_examples": 301}, "`measure_examples` must be between"),
        ({"seed": -1}, "`seed` must be 0 or more"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
    ],
)
def test_bad_values(make_config: Make, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(**change)
