"""Schedules of the learning rate at exact points, in epochs and in steps; and a user's own."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.plan.grid import Grid, expand
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.runtime.errors import UserError
from trainables.training.loop import Training
from trainables.training.schedule import batch_size_at, learning_rate_at
from trainables.trial import Trial

Make = Callable[..., TrialConfig]

IN_STEPS: dict[str, Any] = {"epochs": None, "budget": "110steps", "warmup_steps": 10, "learning_rate": 0.5}


def factors(config: TrialConfig, steps: list[int]) -> list[float]:
    """Of the peak, at updates counted from 1, with 10 of 30 examples in an epoch."""
    rates = [learning_rate_at(config, step / 10, config.batch_size, step) for step in steps]
    return [rate / config.learning_rate for rate in rates]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [0.1, 0.9, 1, 1, 1, 1, 1]),
        ({"decay": "linear"}, [0.1, 0.9, 1, 1, 0.75, 0.5, 0.01]),
        ({"decay": "linear", "decay_floor": 0.2}, [0.1, 0.9, 1, 1, 0.8, 0.6, 0.2 + 0.8 * 0.01]),
        (
            {"decay": "cosine"},
            [0.1, 0.9, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 + math.cos(0.99 * math.pi)) / 2],
        ),
        ({"decay": "cosine", "decay_floor": 0.2}, [0.1, 0.9, 1, 1, 0.6 + 0.4 * math.sqrt(0.5), 0.6, None]),
        ({"decay": "wsd", "decay_share": 5 / 11}, [0.1, 0.9, 1, 1, 1, 1, 0.02]),
        ({"decay": "wsd", "decay_share": 5 / 11, "decay_floor": 0.5}, [0.1, 0.9, 1, 1, 1, 1, 0.51]),
        (
            {"decay": "wsd", "decay_share": 1.0},
            [0.1, 0.9, 1 - 9 / 110, 1 - 10 / 110, 1 - 35 / 110, 1 - 60 / 110, 1 / 110],
        ),
        ({"decay": "step", "decay_epochs": "35steps,60steps"}, [0.1, 0.9, 1, 1, 0.1, 0.01, 0.01]),
        ({"decay": "step", "decay_epochs": "3.5,6", "decay_factor": 0.5}, [0.1, 0.9, 1, 1, 0.5, 0.25, 0.25]),
    ],
)
def test_the_factor_at_exact_steps(make_config: Make, schedule: dict[str, Any], expected: list[float | None]) -> None:
    """Updates 1, 9 and 10 of a warmup of 10 steps; then after 0, 1/4, 1/2 and 99/100 of the other 100."""
    config = make_config(**IN_STEPS, **schedule, batch_size=30).canonical()
    found = factors(config, [1, 9, 10, 11, 36, 61, 110])
    for one, other in zip(found, expected, strict=True):
        assert other is None or one == pytest.approx(other, abs=1e-12)


def test_in_epochs_as_in_steps(make_config: Make) -> None:
    """Where batches divide the data both units say the same."""
    for schedule in ({"decay": "linear"}, {"decay": "cosine", "decay_floor": 0.1}, {"decay": "wsd"}):
        steps = make_config(**IN_STEPS, **schedule, batch_size=30)
        epochs = make_config(epochs=11, warmup_epochs=1.0, learning_rate=0.5, batch_size=30, **schedule)
        mixed = make_config(epochs=11, warmup_steps=10, learning_rate=0.5, batch_size=30, **schedule)
        every = list(range(1, 111))
        assert factors(steps, every) == pytest.approx(factors(epochs, every), abs=1e-12)
        assert factors(steps, every) == pytest.approx(factors(mixed, every), abs=1e-12)


def test_a_decay_ends_the_trial(make_config: Make, digits: Source) -> None:
    config = make_config(decay="linear", decay_epochs="7steps", target_loss=1e-9, epochs=20, measures="")
    trial = Trial(config, digits)
    trial.train()
    assert trial.training.step == 7
    assert trial.training.epochs[-1]["lr"] == pytest.approx(0.01 / 7)


def test_the_batch_grows_after_steps(make_config: Make, digits: Source) -> None:
    config = make_config(batch_schedule="3steps:100,5steps:300", batch_size=50, epochs=2, measures="")
    assert [batch_size_at(config, 0.0, step) for step in range(7)] == [50, 50, 50, 100, 100, 300, 300]
    data = digits.split(300, 1497, 0)
    training = Training(config, Trial(config, digits).training.model, data)
    training.train_epoch()
    assert training.step == 5  # 50, 50, 50, 100, and of 100 the 50 that are left


SCHEDULES = """
def halved(progress):
    assert 0 <= progress <= 1
    return 0.5 if progress < 0.5 else 0.25

def negative(progress):
    return 0.5 - progress

def failing(progress):
    raise KeyError("lost")
"""


@pytest.fixture
def users_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "users_schedules.py"
    file.write_text(SCHEDULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return file


def grid(**changes: Any) -> Grid:
    return Grid(batch_sizes=[30], learning_rates=[0.5], model_options={}, train_size=300, **changes)


def test_a_function_of_ones_own(users_schedules: Path, digits: Source) -> None:
    in_steps = {"budget": "110steps", "schedule": {"decay": "users_schedules:halved"}}
    (config,) = expand(grid(**in_steps), digits)
    assert factors(config, [1, 50, 51, 110]) == pytest.approx([0.5, 0.5, 0.5, 0.25])
    assert factors(config, [55, 56]) == pytest.approx([0.5, 0.25])
    assert config.decay_fingerprint is not None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("negative", "must return a finite factor of 0 or more, got -0.5 at 1"),
        ("failing", "raises KeyError at 0"),
        ("missing", "must be an importable"),
    ],
)
def test_functions_that_are_refused(users_schedules: Path, digits: Source, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        expand(grid(epochs=2, schedule={"decay": f"users_schedules:{name}"}), digits)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"decay": "wsd", "decay_share": 0.0}, "`decay_share` must be above 0"),
        ({"decay": "linear", "decay_share": 0.5}, "`decay_share` needs decay=wsd"),
        ({"decay": "step", "decay_epochs": "2", "decay_floor": 0.1}, "`decay_floor` needs decay=cosine, linear or wsd"),
        ({"decay": "linear", "target_loss": 0.1}, "`decay` linear needs its length with a target"),
        ({"decay": "wsd", "target_metric": 0.9}, "`decay` wsd needs its length with a target"),
        ({"decay": "step", "decay_epochs": "2,30steps"}, "`decay_epochs` must be rising"),
        ({"decay": "linear", "decay_epochs": "50steps"}, "at most `epochs` \\(4\\), got 50steps"),
        ({"decay": "warm"}, "`decay` must be one of cosine, linear, wsd, step"),
    ],
)
def test_what_is_refused(make_config: Make, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        make_config(**changes)
