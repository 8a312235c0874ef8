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
import os
from torch import nn

def _net(act):
    class Net(nn.Sequential):
        def forward(self, x):
            act(self)
            return super().forward(x)
    return lambda shape, classes: Net(nn.Flatten(), nn.Linear(64, classes))

talks = _net(lambda net: print("a user's model speaks"))
exits = _net(lambda net: net.training and os._exit(3))
"""


@pytest.fixture(autouse=True)
def users_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checked_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)


def test_what_can_run_passes(make_config: Make, digits: Source, capfd: pytest.CaptureFixture[str]) -> None:
    check([make_config(), make_config(model="checked_models:talks", model_options="{}")], digits, Placement())
    assert capfd.readouterr() == ("", "")


def test_a_model_that_ends_its_process_is_refused(make_config: Make, digits: Source) -> None:
    """Those that raise, hang or do not fit: tests/test_bad_input.py."""
    config = make_config(model="checked_models:exits", model_options="{}")
    with pytest.raises(UserError, match="got checked_models:exits, which ended with status 3: nothing said"):
        check([config], digits, Placement())


def test_the_driver_does_without_pytorch() -> None:
    modules = "sweeps.study, sweeps.tuning_run, analysis.report, analysis.summary"
    code = f"import sys, {modules}; from trainables.data import load_source; load_source('digits'); "
    code += "assert not {'torch', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
