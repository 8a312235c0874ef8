"""The Ray Tune adapter: the only file of this package that knows Ray.

Why it is as it is (Ray 2.50 to 2.60):
- A Tune step is a slice of time, not an epoch: reporting every epoch of a trial of half a second would cost more
  than the trial. Numbers do not depend on where the slices fall.
- Actors are reused for the next trial of the same resources, so `reset_config` does what `setup` does.
- Checkpoints and records are ours, under the trial's own key in the results folder. When a worker is killed Tune
  runs the trial anew, it finds its checkpoint, and goes on to the same numbers; so does a new driver.
- An exception inside a trial becomes its `failed` record: the actor lives on and takes the next trial.
"""

import os
import time
import traceback
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.tables import Record, write_record
from trainables.trial import Trial, failed_record

SLICE_SECONDS = 2.0


class TuneTrial(tune.Trainable):  # type: ignore[misc]
    """Trains and measures one TrialConfig, and leaves its record in the results folder.

    The Tune configuration has `trial_id`; `configs` and `source`, object references to the TrialConfigs by their
    key and to the shared Source; `folder`, the results folder; `cpus` and `gpus` of a trial; `checkpoint_seconds`
    between checkpoints; and `keep_weights`.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([{"CPU": config["cpus"], "GPU": config["gpus"]}])

    def setup(self, config: dict[str, Any]) -> None:
        _limit_threads(config["cpus"])
        self._device = torch.device("cuda" if config["gpus"] else "cpu")
        self._folder = Path(config["folder"])
        self._keep_weights = config["keep_weights"]
        self._checkpoint_seconds = config["checkpoint_seconds"]
        self._configs: dict[str, TrialConfig] = ray.get(config["configs"])
        self._source: Source = ray.get(config["source"])
        self._begin(config["trial_id"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config["trial_id"])
        return True

    def step(self) -> dict[str, Any]:
        try:
            record = self._advance()
        except Exception:
            record = failed_record(self._config, traceback.format_exc(), self._device)
        if record is None:
            last = self._trial.training.epochs[-1] if self._trial else {}
            return {**_metrics(last), "done": False}
        record.trial["ray_version"] = ray.__version__
        write_record(self._folder, record)
        self._checkpoint.unlink(missing_ok=True)
        return {**_metrics(record.trial), "status": record.trial["status"], "done": True}

    def _begin(self, trial_id: str) -> None:
        self._config = self._configs[trial_id]
        self._checkpoint = self._folder / "checkpoints" / f"{trial_id}.pt"
        self._trial: Trial | None = None
        self._saved_at = time.monotonic()

    def _advance(self) -> Record | None:
        """One slice of work; the record when the trial has come to its end."""
        if self._trial is None:
            self._trial = Trial(self._config, self._source, self._device)
            self._trial.resume(self._checkpoint)
        finished = self._trial.train(SLICE_SECONDS)
        if time.monotonic() - self._saved_at > self._checkpoint_seconds:
            self._trial.save(self._checkpoint)
            self._saved_at = time.monotonic()
        if not finished:
            return None
        self._trial.measure()
        record = self._trial.record()
        if self._keep_weights:
            self._trial.save_weights(self._folder / "weights" / f"{self._config.trial_id}.pt")
        self._trial = None
        return record


def _metrics(row: dict[str, Any]) -> dict[str, Any]:
    names = (
        "train_loss",
        "train_accuracy",
        "test_accuracy",
        "box_sharpness",
        "hessian_max_eig",
        "epochs_done",
        "epoch",
    )
    return {name: row[name] for name in names if row.get(name) is not None}


def _limit_threads(cpus: float) -> None:
    """As many threads as the trial has CPUs, and reproducible kernels: numbers must not depend on the neighbours."""
    torch.set_num_threads(max(1, int(cpus)))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
