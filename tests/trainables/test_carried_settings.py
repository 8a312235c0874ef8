"""Rules that carry a setting to another batch size: closed forms, and what stays by each of them."""

import json
import math
from typing import Any

import pytest

from trainables.config import TrialConfig
from trainables.optimizer_settings import canonical_options, read_options
from trainables.runtime.errors import UserError
from trainables.scaling_rules import SCALING_RULES, ScalingRule, half_life_beta, sde_beta

BASE: dict[str, Any] = {
    "dataset": "digits", "data_fingerprint": "abc", "train_size": 512, "test_size": 1000, "learning_rate": 0.01,
    "batch_size": 16, "epochs": 40, "measure_examples": 512,
}  # fmt: skip
RULES = {rule.name: rule for rule in SCALING_RULES}


def setting(**fields: Any) -> TrialConfig:
    return TrialConfig(**BASE | fields).canonical()


def carried(rule: str, size: int, **fields: Any) -> TrialConfig:
    found = RULES[rule].carried(setting(**fields), size)
    assert found is not None
    assert found.batch_size == size
    return found


def test_the_half_life_of_beta2_as_published() -> None:
    """Marek et al. 2025: 0.990, 0.980, 0.961 at 128, 256, 512 from 0.995 at 64; 0.95 at 512 k tokens, 0.9999 at 1 k."""
    assert [round(half_life_beta(0.995, k), 3) for k in (2, 4, 8)] == [0.990, 0.980, 0.961]
    assert half_life_beta(0.95, 1 / 512) == pytest.approx(0.99990, abs=5e-7)
    for k in (2, 4, 8):  # the half-life in steps is 1/k
        before, after = (math.log(0.5) / math.log(beta) for beta in (0.995, half_life_beta(0.995, k)))
        assert after == pytest.approx(before / k, rel=1e-9)


def test_the_decay_rates_of_the_sde() -> None:
    assert sde_beta(0.9, 4) == pytest.approx(0.6, rel=1e-12)
    assert sde_beta(0.999, 16) == pytest.approx(0.984, rel=1e-12)
    assert sde_beta(0.9, 10) == pytest.approx(0, abs=1e-12)
    assert sde_beta(0.9, 16) < 0


@pytest.mark.parametrize(("rule", "rate"), [("keep", 0.01), ("square_root", 0.02), ("linear", 0.04)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon", "my_package.optimizers:Own"])
def test_the_learning_rate(rule: str, rate: float, optimizer: str) -> None:
    found = carried(rule, 64, optimizer=optimizer)
    assert found == setting(optimizer=optimizer, batch_size=64, learning_rate=rate)


def test_adam_by_its_sde() -> None:
    found = carried("adam_sde", 64, optimizer_options=canonical_options({"betas": [0.8, 0.99], "eps": 1e-6}))
    assert found.learning_rate == 0.02
    assert read_options(found.optimizer_options) == {"betas": [0.2, 0.96], "eps": 5e-7}
    of_default = carried("adam_sde", 64, optimizer="adamw", weight_decay=0.1)
    assert read_options(of_default.optimizer_options) == {"betas": [0.6, 0.996], "eps": 5e-9}
    assert of_default.weight_decay == 0.1
    rmsprop = carried("adam_sde", 64, optimizer="rmsprop")
    assert read_options(rmsprop.optimizer_options) == {"alpha": 0.96, "eps": 5e-9}


def test_a_decay_rate_below_zero_is_no_setting() -> None:
    assert RULES["adam_sde"].carried(setting(), 160) is not None  # beta1 = 0
    assert RULES["adam_sde"].carried(setting(), 176) is None


def test_the_half_life_leaves_beta1() -> None:
    found = carried("half_life", 64, optimizer_options=canonical_options({"amsgrad": True, "betas": [0.8, 0.99]}))
    assert read_options(found.optimizer_options) == {"amsgrad": True, "betas": [0.8, 0.96059601]}
    assert found.learning_rate == 0.02


def test_the_timescale_stays() -> None:
    before = setting(optimizer="adamw", weight_decay=0.1)
    after = carried("timescale", 128, optimizer="adamw", weight_decay=0.1)
    scales = [one.batch_size / (one.learning_rate * one.weight_decay * one.train_size) for one in (before, after)]
    assert scales[1] == pytest.approx(scales[0], rel=1e-11)
    assert after.learning_rate == before.learning_rate


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.04), ("adam", 0.02)])
def test_the_average_keeps_its_half_life(optimizer: str, rate: float) -> None:
    found = carried("ema", 64, optimizer=optimizer, average="ema", average_decay=0.9)
    assert (found.learning_rate, found.average_decay) == (rate, 0.6561)
    assert carried("ema", 64, average="ema").average_decay == pytest.approx(0.99**4, rel=1e-11)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"optimizer": "sgd"}, ["keep", "square_root", "linear"]),
        ({"optimizer": "muon", "weight_decay": 0.1}, ["keep", "square_root", "linear"]),
        ({"weight_decay": 0.1}, ["keep", "square_root", "linear", "adam_sde", "half_life"]),
        (
            {"weight_decay": 0.1, "optimizer_options": canonical_options({"decoupled_weight_decay": True})},
            ["keep", "square_root", "linear", "adam_sde", "half_life", "timescale"],
        ),
        ({"optimizer": "rmsprop"}, ["keep", "square_root", "linear", "adam_sde"]),
        ({"optimizer": "sgd", "average": "ema"}, ["keep", "square_root", "linear", "ema"]),
        ({"layer_adaptation": True}, ["keep", "square_root", "linear"]),
        ({"optimizer": "gradient_descent", "batch_size": 512}, []),
    ],
)
def test_which_rules_apply(fields: dict[str, Any], names: list[str]) -> None:
    config = setting(**fields)
    assert [rule.name for rule in SCALING_RULES if rule.applies(config)] == names


@pytest.mark.parametrize("rule", SCALING_RULES, ids=lambda rule: rule.name)
def test_two_steps_are_one(rule: ScalingRule) -> None:
    """Carried to 2 B and from there to 6 B is carried to 6 B, to rounding: the rules are powers of k."""
    config = setting(optimizer="adamw", weight_decay=0.1, average="ema")
    half = rule.carried(config, 32)
    assert half is not None
    twice, once = rule.carried(half, 96), rule.carried(config, 96)
    assert twice is not None
    assert once is not None
    for name in ("learning_rate", "weight_decay", "average_decay"):
        assert getattr(twice, name) == pytest.approx(getattr(once, name), rel=1e-10)
    options = [read_options(one.optimizer_options) for one in (twice, once)]
    assert options[0].keys() == options[1].keys()
    for name in options[0]:
        assert options[0][name] == pytest.approx(options[1][name], rel=1e-10)


@pytest.mark.parametrize("betas", ["x", ["a", "b"], [0.9], 0.9, None])
@pytest.mark.parametrize("rule", ["adam_sde", "half_life"])
def test_options_that_are_no_numbers_are_refused(rule: str, betas: Any) -> None:
    """As a damaged table may hold them."""
    with pytest.raises(UserError, match="`optimizer_options` must "):
        carried(rule, 64, optimizer_options=json.dumps({"betas": betas}))
