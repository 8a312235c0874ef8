"""A user's code that goes wrong after the check, in the middle of a training, fails its own trial and no other.

Under both adapters, in one process each: what a worker of a trial raises is pickled, as between processes.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.train import WorkerGroupError

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.tables import read_tables
from trainables.training.parallel import Workers
from trainables.tune import parallel_trial
from trainables.tune.parallel_trial import ParallelTrial
from trainables.tune.trial_placement import TrialPlacement
from trainables.tune.tune_trial import TuneTrial

CODE = """
import sys, torch
from torch.nn.functional import cross_entropy
from trainables.models.of_config import build

class Odd(BaseException): pass
class Silent(Exception):
    def __str__(self): raise ValueError
class OfTwo(Exception):
    def __init__(self, one, other): super().__init__(f"{one} and {other}")
def deep(): deeper()
def deeper(): deep()
def fails(error): raise error
FAULTS = [lambda: None, lambda: fails(ValueError("too\\nlate")), lambda: sys.exit("enough"), deep,
          lambda: fails(KeyboardInterrupt()), lambda: fails(Odd("odd")), lambda: fails(Silent()),
          lambda: fails(StopIteration("end")), lambda: fails(GeneratorExit("end")), lambda: fails(OfTwo(1, 2)),
          lambda: fails(RuntimeError("the store is full"))]
calls = 0

def late(number):
    global calls
    calls += 1
    if calls > 12:
        calls = 0
        FAULTS[number]()

class Step:
    def __init__(self, config, data):
        global calls
        calls, self.fault, self.model = 0, config.seed, build(config, data)
    def step(self, inputs, labels, rate):
        late(self.fault)
    def state_dict(self): return {}
    def load_state_dict(self, state): pass

class Optimizer(torch.optim.SGD):
    def step(self, closure=None): late(round(self.param_groups[0]["lr"] * 100) - 1)

class Task:
    def num_outputs(self, classes, shape): return classes
    def loss(self, outputs, labels): return cross_entropy(outputs, labels, reduction="none")
    def metrics(self, outputs, labels):
        late(1)
        return {"right": (outputs.argmax(1) == labels).double()}

def decay(progress):
    late(1)
    return 1.0
"""
NAMES = ("", "ValueError: too late", "SystemExit: enough", "RecursionError", "KeyboardInterrupt", "Odd: odd", "Silent",
         "StopIteration: end", "GeneratorExit: end", "OfTwo: 1 and 2", "RuntimeError: the store is full")  # fmt: skip


class Trainer:
    """A TorchTrainer whose workers are one, in this process."""

    def __init__(self, work: Callable[[dict[str, Any]], None], *, train_loop_config: dict[str, Any], **_: Any) -> None:
        self._work, self._settings = work, train_loop_config

    def fit(self) -> None:
        try:
            self._work(self._settings)
        except Exception as error:
            raise WorkerGroupError("all\nthat Ray says", {0: pickle.loads(pickle.dumps(error))}) from None


@pytest.fixture(params=[TuneTrial, ParallelTrial])
def drive(
    request: pytest.FixtureRequest, tmp_path: Path, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[dict[str, Any]]]:
    """Runs trials one after another in one process, as Tune does in a worker; returns their rows in this order."""
    (tmp_path / "late_faults.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ray.get", lambda reference: reference)
    monkeypatch.setattr(parallel_trial, "TorchTrainer", Trainer)
    monkeypatch.setattr(parallel_trial, "remove_orphaned_groups", lambda: None)
    monkeypatch.setattr(parallel_trial, "_join", lambda uses_gpu: Workers())

    def run(*trials: TrialConfig) -> list[dict[str, Any]]:
        for part in ("trials", "checkpoints"):
            (tmp_path / part).mkdir()
        configs = {trial.trial_id: trial for trial in trials}
        about = {"configs": configs, "source": digits, "folder": str(tmp_path), "placement": TrialPlacement()}
        worker = request.param(config={**about, "trial_id": trials[0].trial_id})
        for trial in trials:
            assert worker.reset_config({**about, "trial_id": trial.trial_id})
            while not worker.step()["done"]:
                pass
        rows = {row["trial_id"]: row for row in read_tables(tmp_path).trials.to_pylist()}
        return [rows[trial.trial_id] for trial in trials]

    return run


def check(row: dict[str, Any], fault: str) -> None:
    if not fault:
        assert row["status"] == "completed"
        return
    assert row["status"] == "failed"
    assert row["error"].startswith("Traceback")
    assert fault in row["error"].strip().splitlines()[-1]
    assert len(row["error"]) < 2**16


@pytest.mark.parametrize("fault", range(1, len(NAMES)))
def test_a_step(
    drive: Callable[..., list[dict[str, Any]]], make_config: Callable[..., TrialConfig], fault: int
) -> None:
    trials = [make_config(trial="late_faults:Step", measures="", seed=seed) for seed in (fault, 0)]
    for row, name in zip(drive(*trials), (NAMES[fault], ""), strict=True):
        check(row, name)


def test_a_schedule_fails_in_the_words_of_the_error(
    drive: Callable[..., list[dict[str, Any]]], make_config: Callable[..., TrialConfig]
) -> None:
    (failed,) = drive(make_config(measures="", epochs=20, decay="late_faults:decay"))
    assert failed["error"].splitlines()[-1].startswith("`decay` late_faults:decay raises ValueError at 0.")


@pytest.mark.parametrize(
    "changes",
    [{"optimizer": "late_faults:Optimizer", "learning_rate": 0.02}, {"task": "late_faults:Task"},
     {"decay": "late_faults:decay"}],
    ids=["optimizer", "task", "decay"],
)  # fmt: skip
def test_an_optimizer_a_metric_a_schedule(
    drive: Callable[..., list[dict[str, Any]]], make_config: Callable[..., TrialConfig], changes: dict[str, Any]
) -> None:
    failed, completed = drive(make_config(measures="", epochs=20, **changes), make_config(measures=""))
    check(failed, "too late")
    check(completed, "")
