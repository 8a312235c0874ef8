"""One trial, the experiment on one screen: data, model, training, evaluation, sharpness, rows.

It knows nothing of Ray: `run_trial` is a plain function of its configuration and the data, and the Tune adapter
drives the same `Trial` in slices of time, with checkpoints between them.
"""

import datetime
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from trainables import measures
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.models import build_model
from trainables.seeds import derive_seed
from trainables.tables import Record, Row
from trainables.training.loop import Training

HIGH_TRAIN_ACCURACY = 0.999
PAPER_FAR_BELOW_STRONG = 0.5


class Trial:
    """One configuration on `source`, on one device: `train`, then `measure`, then `record`."""

    def __init__(self, config: TrialConfig, source: Source, device: torch.device | None = None) -> None:
        self.config = config.canonical()
        self.device = device or torch.device("cpu")
        data = source.split(config.train_size, config.test_size, config.split_seed).to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "weights"))
            model = build_model(config.model, data.input_shape, data.num_classes, **json.loads(config.model_options))
        self.training = Training(self.config, model.to(self.device), data)
        self.measures: list[Row] = []
        self.resumed_epoch: int | None = None

    def train(self, seconds: float = float("inf")) -> bool:
        """Trains whole epochs until the trial is finished or `seconds` have passed; returns whether it is finished."""
        started = time.perf_counter()
        while not self.training.finished:
            self.training.train_epoch()
            if time.perf_counter() - started > seconds:
                break
        return self.training.finished

    def measure(self) -> None:
        """The sharpness of the minimum, rows of measures.parquet, on training data. A diverged trial has none."""
        if self.training.diverged:
            return
        config = self.config
        loss = measures.loss_of(
            self.training.model,
            self.training.data,
            examples=config.measure_examples,
            dtype=config.measure_dtype,
            batch_norm=config.measure_batch_norm,
            batch_size=config.measure_batch_size,
        )
        about = {
            "space": "full",
            "split": "train",
            "examples": config.measure_examples,
            "batch_norm": config.measure_batch_norm,
            "batch_norm_batch_size": config.measure_batch_size,
            "dtype": config.measure_dtype,
        }
        self.measures = [{**about, **row} for row in measures.measure(loss, config.measures.split(","))]

    def record(self) -> Record:
        """The rows of a trial that trained to its end and was measured."""
        last = self.training.epochs[-1]
        row = {
            "status": "diverged" if self.training.diverged else "completed",
            **_identity(self.config),
            "epochs_done": self.training.epochs_done,
            "steps": self.training.step,
            **{name: last[name] for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy")},
            "generalization_gap": last["train_accuracy"] - last["test_accuracy"],
            "box_sharpness": self._value("box_sharpness", "strong", measures.EPSILONS[0]),
            "box_sharpness_paper": self._value("box_sharpness", "paper", measures.EPSILONS[0]),
            "hessian_max_eig": self._value("hessian_max_eig", "lanczos", None),
            "reached_target": self.training.reached_target,
            "flags": self._flags(),
            "parameters": sum(parameter.numel() for parameter in self.training.model.parameters()),
            "train_seconds": self.training.seconds,
            "sharpness_seconds": sum(row["seconds"] for row in self.measures),
            "resumed_epoch": self.resumed_epoch,
            **_place(self.device),
        }
        return Record(row, self.training.epochs, self.measures)

    def save(self, path: Path) -> None:
        """A checkpoint from which `resume` goes on to the same numbers."""
        save_checkpoint(path, self.training.state_dict())

    def save_weights(self, path: Path) -> None:
        """The final weights and buffers, to be loaded with torch.load(path, weights_only=True)."""
        save_checkpoint(path, self.training.model.state_dict())

    def resume(self, path: Path) -> bool:
        """Goes on from the checkpoint at `path`, where there is one; returns whether there was."""
        state = load_checkpoint(path, self.device)
        if state is not None:
            self.training.load_state_dict(state)
            self.resumed_epoch = self.training.epochs_done
        return state is not None

    def _value(self, measure: str, method: str, epsilon: float | None) -> float | None:
        for row in self.measures:
            if row["measure"] == measure and row["method"] == method and row.get("epsilon") == epsilon:
                return float(row["value"])
        return None

    def _flags(self) -> list[str]:
        """What a reader has to know before this trial is compared with others."""
        if self.training.diverged:
            return ["diverged"]
        flags = []
        last, config = self.training.epochs[-1], self.config
        if self.training.reached_target is False:
            flags.append("missed target loss")
        if last["train_accuracy"] < HIGH_TRAIN_ACCURACY:
            flags.append("train accuracy below 99.9 %")
        if config.switch_epoch is not None and self.training.epochs_done <= config.switch_epoch:
            flags.append("ended before its switch")
        paper = self._value("box_sharpness", "paper", measures.EPSILONS[0])
        strong = self._value("box_sharpness", "strong", measures.EPSILONS[0])
        if paper is not None and strong is not None and paper < PAPER_FAR_BELOW_STRONG * strong:
            flags.append("paper method far below strong")
        if any(row.get("converged") is False for row in self.measures if row["method"] != "paper"):
            flags.append("a measure did not converge")
        return flags


def run_trial(config: TrialConfig, source: Source, device: torch.device | None = None) -> Record:
    """Trains, measures and reports one trial in this process."""
    trial = Trial(config, source, device)
    trial.train()
    trial.measure()
    return trial.record()


def failed_record(config: TrialConfig, error: str, device: torch.device | None = None) -> Record:
    """The record of a trial that could not be finished, with the reason."""
    row = {"status": "failed", **_identity(config), "flags": ["failed"], "error": error}
    return Record({**row, **_place(device or torch.device("cpu"))}, [], [])


def _identity(config: TrialConfig) -> dict[str, Any]:
    return {"trial_id": config.trial_id, **vars(config.canonical())}


def _place(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": name,
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "python_version": platform.python_version(),
        "torch_version": torch.__version__,
    }
