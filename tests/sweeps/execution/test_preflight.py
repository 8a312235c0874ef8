"""The check before the first trial, in a process of its own: neither a model nor PyTorch can hurt the driver."""

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sweeps.execution.preflight import check, checking
from sweeps.session.placement import Placement
from trainables.brief_trials import failing_measures
from trainables.check import check_trials
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.data.dataset import EXAMPLES
from trainables.measures.by_name import MEASURES
from trainables.runtime.errors import UserError

Make = Callable[..., TrialConfig]

MODELS = """
import os
import torch
from torch import nn
from torch.nn import functional as F

def _net(act):
    class Net(nn.Sequential):
        def forward(self, x):
            act(self)
            return super().forward(x)
    return lambda shape, classes: Net(nn.Flatten(), nn.Linear(64, classes))

talks = _net(lambda net: (print("a user's model speaks"), os.write(1, b"past Python")))
exits = _net(lambda net: net.training and (print("bye"), os._exit(3)))
ends = _net(lambda net: net[1].weight.dtype == torch.float64 and os._exit(3))

class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            raise RuntimeError("no second derivatives")
        return gradient

class OnceNet(nn.Sequential):
    def forward(self, x):
        return Once.apply(super().forward(x))

class DrawsNet(nn.Sequential):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.1)

once = lambda shape, classes: OnceNet(nn.Flatten(), nn.Linear(64, classes))
draws = lambda shape, classes: DrawsNet(nn.Flatten(), nn.Linear(64, classes))

def never(graph, inputs):
    raise RuntimeError("compiled")

plain = lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, classes))
compiled = lambda shape, classes: torch.compile(plain(shape, classes), backend=never)
scripted = lambda shape, classes: torch.jit.script(plain(shape, classes))
traced = lambda shape, classes: torch.jit.trace(plain(shape, classes), torch.zeros(2, *shape))
partly = lambda shape, classes: nn.Sequential(nn.Flatten(), torch.jit.script(nn.Linear(64, classes)))

def _made(change):
    def build(shape, classes):
        net = plain(shape, classes)
        net.extra = nn.Parameter(torch.zeros(3), requires_grad=False)  # of no layer
        change(net)
        return net
    return build

integers = _made(lambda net: setattr(net, "extra", nn.Parameter(torch.arange(3), requires_grad=False)))
sparse = _made(lambda net: setattr(net, "extra", nn.Parameter(torch.eye(3).to_sparse())))
repeated = _made(lambda net: setattr(net[1], "bias", nn.Parameter(torch.zeros(1).expand(8))))
overlapping = _made(lambda net: setattr(net[1], "bias", nn.Parameter(net[1].weight.detach()[0, :8])))
beside = _made(lambda net: setattr(net, "extra", nn.Parameter(torch.zeros(2, 3)[1])))
without_numbers = _made(lambda net: setattr(net, "extra", nn.Parameter(torch.zeros(0, 3))))
inference = torch.inference_mode()(plain)

class Grows(nn.Sequential):
    def forward(self, x):
        if self.training and len(self) == 2:
            self.append(nn.Linear(self[1].out_features, self[1].out_features))
        return super().forward(x)

class Forgets(nn.Sequential):
    def forward(self, x):
        with torch.no_grad():
            self[1].weight *= 0.9
        return super().forward(x)

class OfTwo(nn.Sequential):
    def forward(self, x):
        return super().forward(x)[:2]

class Rounds(nn.Sequential):
    def forward(self, x):
        return super().forward(x).long()

grows, forgets, of_two, rounds = (
    lambda shape, classes, kind=kind: kind(nn.Flatten(), nn.Linear(64, classes))
    for kind in (Grows, Forgets, OfTwo, Rounds)
)

class Complex(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64, classes, dtype=torch.complex64))
    def forward(self, x):
        return (x.flatten(1).to(torch.complex64) @ self.weight).abs()

complex_ = lambda shape, classes: Complex(classes)
"""


@pytest.fixture(autouse=True)
def users_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checked_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)


def test_what_can_run_passes(make_config: Make, digits: Source, capfd: pytest.CaptureFixture[str]) -> None:
    check([make_config(), make_config(model="checked_models:talks", model_options="{}")], digits, Placement())
    assert capfd.readouterr() == ("", "")


def test_a_target_that_no_accuracy_can_be_at_is_refused(make_config: Make, digits: Source) -> None:
    check_trials([make_config(target_metric=0.9)], digits, None, None, 1)
    with pytest.raises(UserError, match=r"`target_metric` must be between 0 and 1 for accuracy, got 90; 90 % is 0\.9"):
        check_trials([make_config(), make_config(target_metric=90.0)], digits, None, None, 1)


def test_the_labels_of_all_examples_are_looked_at(make_config: Make, digits: Source) -> None:
    """Though the process gets a few examples alone."""
    labels = np.arange(len(digits.labels)) % 2
    labels[-1] = 2
    config = make_config(task="binary")
    with pytest.raises(UserError, match="`labels` must be 0 or 1 for the task binary, got 0 to 2"):
        check([config], dataclasses.replace(digits, labels=labels, task="binary"), Placement())


def test_the_few_examples_need_no_labels(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first examples of a language model's data may be padding alone."""
    monkeypatch.setattr("sweeps.execution.preflight.beside", lambda *_: contextlib.nullcontext())
    tokens = np.arange(40).reshape(20, 2) % 5
    labels = np.where(np.arange(20)[:, None] < EXAMPLES, -100, tokens)
    source = Source("made up", tokens, labels, None, None, 5, task="language")
    with checking([make_config()], source, Placement()):
        pass


def test_a_model_that_ends_its_process_is_refused(make_config: Make, digits: Source) -> None:
    """Those that raise, hang or do not fit: tests/test_bad_input.py."""
    config = make_config(model="checked_models:exits", model_options="{}")
    with pytest.raises(
        UserError,
        match="checked_models:exits cannot train on two examples: its process ended with status 3: bye",
    ):
        check([make_config(), config, make_config(seed=1)], digits, Placement())


def test_a_compiled_model_is_not_compiled_to_be_checked(make_config: Make, digits: Source) -> None:
    """Its measures have their second derivatives; the backend raises if it is called."""
    measures = "box_sharpness,hessian_max_eig"
    config = make_config(model="checked_models:compiled", model_options="{}", measures=measures)
    few = dataclasses.replace(digits, inputs=digits.inputs[:EXAMPLES], labels=digits.labels[:EXAMPLES])
    check_trials([config], few, None, None, 1)
    assert list(failing_measures([config], few, None)) == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("scripted", r"got TorchScript \(torch.jit\); return the module"),
        ("traced", r"got TorchScript \(torch.jit\); return the module"),
        ("partly", r"got TorchScript \(torch.jit\) in 1; return the module"),
        ("complex_", "must have real parameters, got weight of type complex64"),
        ("integers", "must have floating-point parameters, got extra of type int64; make it a buffer"),
        ("sparse", "must have dense parameters, got extra of layout sparse_coo"),
        ("repeated", "must have parameters without repeated memory, got 1.bias"),
        ("overlapping", "must have parameters that share no memory, got 1.(bias|weight) and 1.(bias|weight)"),
        ("inference", r"must be built outside of torch.inference_mode, got 1.weight"),
        ("grows", "must make its parameters before training, got a new 2.weight in a training pass"),
        ("forgets", "must not change its parameters in evaluation mode"),
        ("of_two", r"must map 3 inputs to logits of shape \(3, 10\), got \(2, 10\)"),
        ("rounds", r"must map 2 inputs to logits of shape \(2, 10\), got int64, which has no gradient"),
    ],
)
def test_models_that_cannot_be_trained_or_measured(make_config: Make, digits: Source, model: str, message: str) -> None:
    config = make_config(model=f"checked_models:{model}", model_options="{}")
    with pytest.raises(UserError, match=message):
        check_trials([config], digits, None, None, 1)


@pytest.mark.parametrize("model", ["beside", "without_numbers"])
def test_models_with_unusual_parameters(make_config: Make, digits: Source, model: str) -> None:
    check_trials([make_config(model=f"checked_models:{model}", model_options="{}")], digits, None, None, 1)


def test_the_driver_does_without_pytorch() -> None:
    modules = "sweeps.studies.study, sweeps.tuning.run, analysis.reporting.report, analysis.reporting.summary"
    code = f"import sys, {modules}; from trainables.data import load_source; load_source('digits'); "
    code += "assert not {'torch', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_what_takes_long_to_import_is_imported_beside_the_check() -> None:
    code = "import sys, sweeps.batch_grid, sweeps.studies.study; from trainables.data import load_source; "
    code += "load_source('digits'); assert not {'pandas', 'scipy', 'matplotlib', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_a_measure_that_fails_is_told_beforehand(make_config: Make, digits: Source) -> None:
    """In one line for each reason; what can be measured, and what cannot be trained, is as before."""
    measures = "box_sharpness,hessian_max_eig,gaussian_sharpness"
    once, draws, ends = (
        make_config(model=f"checked_models:{name}", model_options="{}", measures=measures)
        for name in ("once", "draws", "ends")
    )
    can, unmeasured = make_config(measures=measures), dataclasses.replace(draws, measures="", seed=1)
    of_once, of_draws = check([unmeasured, once, can, draws], digits, Placement())
    assert of_once == (
        "hessian_max_eig on checked_models:once cannot be measured, the trials go on without: "
        "RuntimeError: no second derivatives"
    )
    assert of_draws.startswith(
        "box_sharpness, hessian_max_eig, gaussian_sharpness on checked_models:draws cannot be measured"
    )
    assert "`loss` must be deterministic" in of_draws
    (of_ends,) = check([can, ends], digits, Placement())
    assert of_ends.startswith("measuring checked_models:ends ended its process with status 3")


@pytest.mark.parametrize("mode", ["running", "batch", "recalibrated"])
def test_no_measure_fails_on_a_few_examples_alone(make_config: Make, digits: Source, mode: str) -> None:
    """Every measure can be begun on the examples of the check."""
    options = '{"widths": [8], "batch_norm": true}'
    config = make_config(model_options=options, measures=",".join(MEASURES), measure_batch_norm=mode)
    few = dataclasses.replace(digits, inputs=digits.inputs[:EXAMPLES], labels=digits.labels[:EXAMPLES])
    assert list(failing_measures([config], few, None)) == []


def test_what_cannot_be_tried_is_told_too(make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as where the few examples are too few."""
    monkeypatch.setattr(
        "trainables.brief_trials.BriefTrial.train", lambda *_: (_ for _ in ()).throw(ValueError("too\nfew"))
    )
    assert list(failing_measures([make_config()], digits, None)) == [
        "measures on mlp could not be tried: ValueError: too few"
    ]


def test_a_measure_that_hangs_is_not_waited_for(
    make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.brief_trials.MEASURES_SECONDS", 1.0)
    monkeypatch.setitem(MEASURES, "hessian_trace", lambda *_: time.sleep(60))
    lines = list(failing_measures([make_config(measures="hessian_trace,stability")], digits, None))
    assert lines == ["hessian_trace, stability on mlp could not be tried: took more than 1 s"]
