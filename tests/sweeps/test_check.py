"""The check before the first trial, in a process of its own: neither a model nor PyTorch can hurt the driver."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.check import check
from sweeps.placement import Placement
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.errors import UserError

Make = Callable[..., TrialConfig]

MODELS = """
import os, time
from torch import nn

def _net(act):
    class Net(nn.Sequential):
        def forward(self, x):
            act(self)
            return super().forward(x)
    return lambda shape, classes: Net(nn.Flatten(), nn.Linear(64, classes))

talks = _net(lambda net: print("a user's model speaks"))
exits = _net(lambda net: net.training and os._exit(3))
hangs = _net(lambda net: net.training and time.sleep(60))
"""


@pytest.fixture(autouse=True)
def users_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checked_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)


def test_what_can_run_passes(make_config: Make, digits: Source, capfd: pytest.CaptureFixture[str]) -> None:
    check([make_config(), make_config(model="checked_models:talks", model_options="{}")], digits, Placement())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "limits", "message"),
    [
        ({"ghost_batch_size": 16}, {}, "`ghost_batch_size` must"),
        ({"model": "checked_models:exits", "model_options": "{}"}, {}, "which ended with status 3: nothing said$"),
        (
            {"model": "checked_models:hangs", "model_options": "{}"},
            {"trial_timeout": 0.5},
            "^`model` must train on two examples first, got checked_models:hangs, which took more than the 0.5 s",
        ),
        (
            {"model_options": '{"widths": [16], "batch_norm": true}'},
            {"micro_batch_size": 16},
            "`micro_batch_size` must",
        ),
    ],
)
def test_what_cannot_is_said_in_one_line(
    make_config: Make, digits: Source, changes: dict[str, str], limits: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check([make_config(**changes)], digits, Placement(**limits))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_driver_does_without_pytorch() -> None:
    modules = "sweeps.study, sweeps.tuning_run, analysis.report, analysis.summary"
    code = f"import sys, {modules}; from trainables.data import load_source; load_source('digits'); "
    code += "assert not {'torch', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
