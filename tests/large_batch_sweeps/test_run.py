"""Sweeps from Python: options as the command has them, and code of a notebook's cell as a module."""

import math
import subprocess
import sys
import threading
import types
from pathlib import Path

import made_up
import pytest
import torch

import large_batch_sweeps as lbs
from large_batch_sweeps import run
from large_batch_sweeps.notebook_code import as_module
from large_batch_sweeps.run import words

CELL = """
import math
import torch.nn.functional as F
from torch import nn
import torch as t

WIDTHS = (8, 8)
SCALE = {"gain": 1.5}
model = nn.Linear(3, 3)  # of another cell: the function below has a local of this name

def width(number):
    return WIDTHS[number] if number < len(WIDTHS) else later(number)

def later(number):
    return width(number - 1)

class Scaled(nn.Module):
    def __init__(self, inputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, width(0))

    def forward(self, x):
        return F.relu(self.linear(x)) * SCALE["gain"]

def build(input_shape, num_classes, *, depth: int = 1):
    model = nn.Sequential(nn.Flatten(), Scaled(math.prod(input_shape)), nn.Linear(width(1), num_classes))
    return model

def uses_a_tensor(input_shape, num_classes):
    return model
"""

OTHER_NAMES = """
import torch
from math import inf
from numpy import exp
from torch import nn, tanh
from torch.nn.functional import max_pool2d

LIMITS = (-inf, float("nan"), "inf")

def activation(x):
    return tanh(x)

squash = activation

@torch.no_grad()
def build(input_shape, num_classes):
    model = nn.Linear(2, 1)
    model.weight.fill_(0.5)
    return squash(model.weight.sum()), inf, exp(0.0), LIMITS, max_pool2d
"""


WITHOUT_METHODS = """
from __future__ import annotations
import enum
from dataclasses import dataclass
from typing import NamedTuple
from PIL import Image
from torch import nn

class Net(nn.Sequential):
    pass

@dataclass
class Options:
    width: int = 4

class Point(NamedTuple):
    x: int = 5

class Kind(enum.Enum):
    PLAIN = 6

class Paths:
    depth = 1
    @staticmethod
    def width():
        return 7

class Chain:
    def again(self) -> Chain:
        return Chain()

def build() -> Undefined:
    numbers = len(Net()), Options().width, Point().x, Kind.PLAIN.value, Paths.width(), Paths.depth
    return numbers, Chain().again(), Image
"""

SUBMODULES = """
import json
import os
import xml
import xml.dom.minidom
import xml.sax.saxutils as saxutils
import email as mail
import email.mime.text

def quoted(text):
    return xml.sax.saxutils.escape(text), os.path.join("a", "b"), json.decoder.JSONDecodeError.__name__

def build(text):
    tag = xml.dom.minidom.parseString(text).firstChild.tagName
    return tag, *quoted(text), mail.mime.text.MIMEText(text).as_string()
"""


def run_cell(text: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The names of a notebook in which `text` was run: a module without a file, whose source can be read."""
    import linecache

    module = types.ModuleType("notebook_of_test")
    file = "<ipython-input-1>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(text, file, "exec"), module.__dict__)
    return module


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    return run_cell(CELL, monkeypatch)


def test_options_are_those_of_the_command() -> None:
    assert words({"batch_sizes": [16, 64], "learning_rates": [0.01, 1e-05], "switch_epochs": [None, 5]}) == [
        "--batch-sizes", "16", "64", "--learning-rates", "0.01", "1e-05", "--switch-epochs", "none", "5",
    ]  # fmt: skip
    assert words({"model_options": {"widths": [64, 64], "batch_norm": True}, "resume": True, "quiet": False}) == [
        "--model-options", "widths=[64, 64]", "batch_norm=true", "--resume",
    ]  # fmt: skip
    assert words({"remedies": [{}, {"sam_radius": 0.05, "clip_norm": 1.0}, "ghost_batch_size=16"]}) == [
        "--remedies", "none", "sam_radius=0.05,clip_norm=1.0", "ghost_batch_size=16",
    ]  # fmt: skip
    assert words({"dashboard": False, "reuse_actors": False, "train_size": None, "model": "mlp"}) == [
        "--no-dashboard", "--own-actors", "--model", "mlp",
    ]  # fmt: skip


def test_code_of_a_cell_becomes_a_module(
    notebook: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = as_module(notebook.build, tmp_path)
    text = (tmp_path / f"{name}.py").read_text()
    assert "import torch as t" not in text  # nothing refers to it
    monkeypatch.syspath_prepend(str(tmp_path))
    network = __import__(name).build((2, 3), 4)
    assert network(torch.zeros(5, 2, 3)).shape == (5, 4)
    assert as_module(notebook.build, tmp_path) == name  # the same text, the same name


def test_code_of_a_cell_may_use_other_names_and_decorators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second name of a function, a decorator of a library, functions of C, and constants that are not finite."""
    name = as_module(run_cell(OTHER_NAMES, monkeypatch).build, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found, infinite, one, limits, pool = __import__(name).build((2,), 2)
    assert found == pytest.approx(math.tanh(1.0), rel=1e-6)
    assert (infinite, one, limits[0], limits[2]) == (math.inf, 1.0, -math.inf, "inf")
    assert math.isnan(limits[1])
    assert pool is torch.nn.functional.max_pool2d


def test_modules_inside_packages_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`import xml.dom.minidom` gives the name `xml` alone, with which a new process does not load the module."""
    name = as_module(run_cell(SUBMODULES, monkeypatch).build, tmp_path)
    written = {line for line in (tmp_path / f"{name}.py").read_text().splitlines() if line.startswith("import ")}
    assert written == {
        "import json", "import os", "import xml", "import email as mail",  # which load json.decoder and os.path
        "import email.mime", "import email.mime.text",
        "import xml.dom", "import xml.dom.minidom", "import xml.sax", "import xml.sax.saxutils",
    }  # fmt: skip
    code = f"import {name}; print({name}.build('<p/>')[:4])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "('p', '&lt;p/&gt;', 'a/b', 'JSONDecodeError')\n", done.stderr


def test_classes_without_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python does not know their cells; the last one counts that has run, and cells may hold magics that fail."""
    notebook = run_cell(WITHOUT_METHODS, monkeypatch)
    edited = "class Paths:\n    depth = 2\n    @staticmethod\n    def width():\n        return 7"
    vars(notebook)["In"] = ["%magic", WITHOUT_METHODS, edited, "print(Paths)"]
    name = as_module(notebook.build, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    numbers, chain, _ = __import__(name).build()
    assert numbers == (0, 4, 5, 6, 7, 2)
    assert type(chain).__name__ == "Chain"


def test_a_run_that_only_tells_has_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        lbs.UserError, match=r"^This run has no results to return: the lines above are all that it does$"
    ):
        lbs.run_sweep(results=tmp_path, help=True)


def test_results_may_be_remote_or_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notebook: types.ModuleType
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made_up.write(tmp_path / "mine", [made_up.record()])
    assert len(lbs.load_sweep("~/mine").trials) == 1
    ran: list[list[str]] = []

    def refused(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
        ran.append(command)
        return 2, "no"

    monkeypatch.setattr(run, "_run", refused)
    remote = f"mock://{tmp_path}/there"
    for results, told in ((remote, remote), ("~/here", tmp_path / "here"), ("here", Path("here").absolute())):
        with pytest.raises(lbs.UserError):
            lbs.run_sweep(results=results)
        assert f"--results={told}" in ran[-1]
    with pytest.raises(lbs.UserError, match=r"^`results` must be a folder of a file system for the code of a cell, "):
        lbs.run_sweep(results=remote, model=notebook.build)


def test_an_edited_cell_is_another_module(notebook: types.ModuleType, tmp_path: Path) -> None:
    before = as_module(notebook.build, tmp_path)
    vars(notebook)["SCALE"] = {"gain": 2.0}
    assert as_module(notebook.build, tmp_path) != before


def test_what_cannot_be_written_down_is_one_line(notebook: types.ModuleType, tmp_path: Path) -> None:
    with pytest.raises(lbs.UserError, match=r"`model`, which the code refers to, must be a module, .* got Linear"):
        as_module(notebook.uses_a_tensor, tmp_path)
    with pytest.raises(lbs.UserError, match="must be a function or class of its own, not one inside another"):
        as_module(lambda shape, classes: None, tmp_path)
    with pytest.raises(lbs.UserError, match="must have source code that can be read"):
        as_module(len, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_an_exception_with_the_commands_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(lbs.UserError, match=r"unknown option --lerning-rates; did you mean --learning-rates\?"):
        lbs.run_sweep(results=tmp_path, lerning_rates=[0.1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_sweep_of_a_cell_in_a_thread(
    notebook: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random.py").write_text("raise ImportError('this is no random')")  # not to be taken for Python's own
    options = {
        "batch_sizes": [32, 150], "learning_rates": [0.01], "warmup_epochs": [0], "switch_epochs": [None],
        "seeds": [0, 1], "epochs": 2, "train_size": 150, "measures": ["none"], "dashboard": False, "quiet": True,
    }  # fmt: skip
    found: list[object] = []

    def run_it() -> None:
        try:
            found.append(lbs.run_sweep(name="cell", results=tmp_path, model=notebook.build, **options))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run_it)
    thread.start()
    thread.join(timeout=300)
    assert isinstance(found[0], lbs.SweepResults), found
    assert found[0].trials["status"].eq("completed").all()
    assert len(found[0].trials) == 4
    assert found[0].trials["model"].str.fullmatch(r"cell_[0-9a-f]{12}:build").all()
    assert (tmp_path / "notebook_code").is_dir()
    with pytest.raises(lbs.UserError, match="already has results"):
        lbs.run_sweep(name="cell", results=tmp_path, model=notebook.build, **options)
    again = lbs.run_sweep(name="cell", results=tmp_path, model=notebook.build, resume=True, **options)
    assert again.trials["finished_at"].tolist() == found[0].trials["finished_at"].tolist()  # trained once


def test_all_options_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    lbs.show_options()
    text = capsys.readouterr().out
    for option in ("--batch-sizes", "--resume", "--gpus-per-trial", "--measure-dtype"):
        assert option in text
