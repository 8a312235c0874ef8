"""The estimate of a sweep's time: a few examples if an epoch is long, the curve if a target loss ends it."""

import dataclasses
import math
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sweeps.plan.estimate import estimate
from sweeps.plan.pilots import Moment, Pilots, _slope, epochs_to
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.runtime.errors import UserError
from trainables.trial import Trial

Make = Callable[..., TrialConfig]


@pytest.mark.parametrize("seen", [40, 80])
def test_when_a_loss_gets_to_its_target(seen: int) -> None:
    """Between that of an exponential and that of a power law."""
    epochs = np.arange(1, seen + 1)
    fast, slow = np.exp(-0.05 * epochs), epochs**-1.5
    assert epochs_to(1e-3, list(epochs), list(fast), 100) == 100  # 138 epochs
    for curve, exact in ((fast, math.log(1000) / 0.05), (slow, 1000 ** (1 / 1.5))):
        found = epochs_to(1e-3, list(epochs), list(curve), 10_000)
        assert exact / 3 < found < 3 * exact, (found, exact)


def test_a_loss_that_does_not_fall() -> None:
    assert epochs_to(1e-3, range(1, 21), [2.3] * 20, 400) == 400
    assert epochs_to(1e-3, [1, 2], [2.3, 2.2], 400) == 400  # too few to say


def test_the_line_through_two_updates() -> None:
    moments = [Moment(size, size, 1.0 + 0.5 * size, 0.0) for size in (8, 64)]
    assert _slope(moments) == 0.5
    assert _slope(moments[:1]) == 5.0 / 8


class Slow(nn.Module):
    """Takes 2 ms of sleep for each example, forward, and counts them."""

    examples = 0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        Slow.examples += len(x)
        time.sleep(0.002 * len(x))
        return self.layer(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch_size", [16, 500])
def test_a_few_examples_of_a_slow_network(
    digits: Source, make_config: Make, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """1000 training and 700 test examples: 2700 forward passes an epoch, 5.4 s; ten epochs are not waited for."""
    monkeypatch.setattr("trainables.training.own_step.build", lambda config, data: Slow())
    config = make_config(train_size=1000, test_size=700, batch_size=batch_size, epochs=10, measure_examples=1000)
    Slow.examples = 0
    found = Pilots(digits, seconds=1.0).of(config)
    assert Slow.examples < 2000  # 8 + 64 + 512, three times each
    assert not found.is_bound
    # A pass over the data takes one forward pass for each example, and so does evaluation, here of 1700.
    assert 27 < found.seconds < 150  # 54 on a machine without other work


def test_a_quick_trial_is_trained_to_its_end(digits: Source, make_config: Make) -> None:
    pilots = Pilots(digits, seconds=60.0)
    config = make_config(batch_size=300, epochs=3)
    assert pilots.of(config).epochs == 3
    reached = pilots.of(dataclasses.replace(config, epochs=400, target_loss=2.0))
    assert reached.epochs < 400
    assert not reached.is_bound


def test_the_gradient_that_is_measured(digits: Source, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.training.own_step.build", lambda config, data: Slow())
    config = make_config(train_size=1000, test_size=700, measure_examples=1000)
    Slow.examples = 0
    seconds = Pilots(digits, seconds=1.0).gradient(config)
    assert Slow.examples < 3000
    assert 1.0 < seconds < 6.0  # 2 s on a machine without other work
    assert torch.is_grad_enabled()


class Odd(BaseException):
    """No Exception."""


@pytest.mark.parametrize("error", [ValueError("too\nlate"), SystemExit("too late"), Odd("too late")])
def test_a_pilot_that_fails_is_told_in_one_line(
    digits: Source, make_config: Make, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fails(trial: Trial, seconds: float) -> bool:
        raise error

    monkeypatch.setattr(Trial, "train", fails)
    told = f"timed, got {type(error).__name__}: too late from b32 lr0.01"
    with pytest.raises(UserError, match=told):
        estimate([make_config()], digits, threads=1)


def test_a_pilot_that_ends_the_process_is_told() -> None:
    code = "import os; from sweeps.plan.estimate import _refused\nwith _refused('b32'): os._exit(3)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr.count("\n")) == (3, 1)
    assert "timed, but b32 has ended the process" in found.stderr
