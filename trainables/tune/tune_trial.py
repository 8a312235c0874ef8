"""The Ray Tune adapter; with `parallel_trial`, for trials of several workers, all of this package that knows Ray.

Why it is as it is (Ray 2.50 to 2.60):
- A Tune step is a slice of time, not an epoch: reporting every epoch of a trial of half a second would cost more
  than the trial. Numbers do not depend on where the slices fall.
- Actors are reused for the next trial of the same resources, so `reset_config` does what `setup` does. Ray reads
  an actor's name once; what it does now is in its process title, which the dashboard shows, and in its log.
- Checkpoints and records are ours, under the trial's own key in the results folder. When a worker is killed Tune
  runs the trial anew, it finds its checkpoint, and goes on to the same numbers; so does a new driver.
- An exception inside a trial becomes its `failed` record: the actor lives on and takes the next trial. A trial that
  ran out of memory is tried once more first, with smaller micro-batches. What is trained is kept whatever happens to
  its measures: see trainables.records.unmeasured.
- PyTorch is imported in the worker alone: the driver, which hands this class to Tune, does without its half a GiB.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.running import RunningCurves, remove_running
from trainables.records.tables import Record, Tables, read_tables, record_of, write_record
from trainables.records.unmeasured import Unmeasured, remove_unmeasured, take_unmeasured
from trainables.runtime.errors import traceback_of
from trainables.runtime.memory import free_memory, give_back, is_out_of_memory, limit_memory
from trainables.runtime.time_limit import time_limit
from trainables.storage.checkpoint import remove_checkpoint
from trainables.storage.folders import AnyPath, place
from trainables.tune.ray_compat import set_process_title
from trainables.tune.trial_placement import TrialPlacement
from trainables.units import read_amount

if TYPE_CHECKING:
    from trainables.trial import Trial

SLICE_SECONDS = 2.0
REPORTED = (  # to Tune: for the display, the metrics and the trackers; tables are written from records
    "epoch",
    "lr",
    "batch_size",
    "train_loss",
    "train_accuracy",
    "test_accuracy",
    "train_metric",
    "test_metric",
    "task",
    "metric",
    "metric_unit",
    "metric_direction",
    "epochs_done",
    "generalization_gap",
    "box_sharpness",
    "hessian_max_eig",
)


class TuneTrial(tune.Trainable):  # type: ignore[misc]
    """Trains and measures one TrialConfig, and leaves its record in the results folder.

    The Tune configuration has `trial_id`; `configs` and `source`, object references to the TrialConfigs by their
    key and to the shared Source; `folder`, the results folder; and `placement`, a TrialPlacement. It may have
    `trained`, a reference to the keys of the trials that are trained already and only measured further.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([config["placement"].resources()])

    def setup(self, config: dict[str, Any]) -> None:
        import torch

        import trainables.trial  # noqa: F401
        from trainables.runtime.process import prepare_process
        from trainables.training.recording import recorder_for

        self._placement: TrialPlacement = config["placement"]
        prepare_process(self._placement.cpus_per_trial)
        # On a node whose GPU PyTorch cannot see the CPU does the work; the row's `device` says so.
        self._device = torch.device("cuda" if self._placement.gpus and torch.cuda.is_available() else "cpu")
        self._recorder = recorder_for(self._device) if self._placement.recordings else None
        self._folder = place(config["folder"], has_answered=True)  # to the driver
        every = self._placement.checkpoint_every
        self._checkpoint_every = None if every is None else read_amount("checkpoint_every", every)
        self._configs: dict[str, TrialConfig] = ray.get(config["configs"])
        self._source: Source = ray.get(config["source"])
        self._trained: frozenset[str] = ray.get(config["trained"]) if "trained" in config else frozenset()
        self._tables: Tables | None = None  # of earlier runs, once they are needed
        self._warm_starts: dict[str, set[float]] = {}
        for trial in self._configs.values():
            if trial.is_warm_started and trial.switch_epoch is not None:
                self._warm_starts.setdefault(trial.warm_start_id, set()).add(trial.switch_epoch)
        self._begin(config["trial_id"])
        self._limit_memory()

    def __repr__(self) -> str:
        """The name of the actor in Ray's dashboard."""
        return f"{self._config.label}, then others" if self._placement.reuse_actors else self._config.label

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config["trial_id"])
        return True

    def step(self) -> dict[str, Any]:
        set_process_title(f"ray::{type(self).__name__}({self._config.label})")
        try:
            seconds = self._placement.trial_timeout
            with time_limit(self._seconds_left(), f"took more than the {seconds} s of --trial-timeout"):
                record, failure = self._advance(), None
        except BaseException as error:  # a user's code may raise any, KeyboardInterrupt too
            if hasattr(error, "ray_terminate_msg"):  # Ray ends this worker: no fault of the trial
                raise
            record, failure = None, (traceback_of(error), is_out_of_memory(error))
        if failure is not None:  # and what the error's traceback referred to is free again
            record = self._after(*failure)
        if record is None:
            last = self._trial.training.epochs[-1] if self._trial else {}
            return {**_metrics(last), "done": False}
        record.trial.setdefault("ray_version", ray.__version__)
        write_record(self._folder, record)
        remove_checkpoint(self._checkpoint)
        remove_unmeasured(self._folder, self._config.trial_id)
        remove_running(self._folder, self._config.trial_id)
        give_back()
        last = record.epochs[-1] if record.epochs else {}
        return {**_metrics({**record.trial, **last}), "status": record.trial["status"], "done": True}

    def _begin(self, trial_id: str) -> None:
        self._config = self._configs[trial_id]
        self._checkpoint = self._folder / "checkpoints" / f"{trial_id}.pt"
        self._weights = self._folder / "weights" / f"{trial_id}.pt"
        self._trial: Trial | None = None
        self._known = self._known_record(trial_id)
        self._micro_batch_size = self._placement.micro_batch_size
        self._ran_out_of_memory = False
        self._begun_at = self._saved_at = time.monotonic()
        print(f"trial {trial_id}: {self._config.label}", flush=True)  # the actor's log in Ray's dashboard

    def _advance(self) -> Record | None:
        """One slice of work; the record when the trial has come to its end."""
        from trainables.trial import Trial

        if self._trial is None:
            self._trial = trial = Trial(
                self._config,
                self._source,
                self._device,
                micro_batch_size=self._micro_batch_size,
                record=self._recorder,
                known=self._known,
            )
            trial.after_epoch = leaving_curves(self._folder, trial, self._after_logging)
            reached = trial.load_weights(self._weights) or trial.resume(self._checkpoint)
            if not reached and self._config.is_warm_started:
                trial.resume(self._warm_start(self._config.switch_epoch))
        finished = self._train(self._trial)
        if time.monotonic() - self._saved_at > self._placement.checkpoint_seconds:
            self._save(self._trial)
        if not finished:
            return None
        if self._placement.keep_weights and not self._weights.exists():
            self._trial.save_weights(self._weights)
        self._trial.while_measuring = Unmeasured(self._folder, self._trial.record)
        self._trial.measure()
        record = self._trial.record()
        self._trial = None
        return record

    def _seconds_left(self) -> float | None:
        timeout = self._placement.trial_timeout
        return None if timeout is None else timeout - (time.monotonic() - self._begun_at)

    def _limit_memory(self) -> None:
        limit_memory(self._device, gib=self._placement.memory_per_trial, gpu_share=self._placement.gpus)

    def _after(self, error: str, ran_out_of_memory: bool) -> Record | None:
        """The record of a trial that raised `error`; None where it is tried again, with a smaller micro-batch."""
        trial, self._trial = self._trial, None
        if ran_out_of_memory:
            smaller = trial.smaller_micro_batch() if trial and not self._ran_out_of_memory else None
            del trial
            free_memory()
            if smaller is not None:
                self._micro_batch_size, self._ran_out_of_memory = smaller, True
                print(f"out of memory: again from the last checkpoint with micro_batch_size {smaller}", flush=True)
                return None
            error += out_of_memory(self._micro_batch_size)
        return self._failed(error)

    def _failed(self, error: str) -> Record:
        """The record of a trial that cannot be finished: what it was before its measures, if it came so far."""
        from trainables.measures.extension import Extension
        from trainables.records.provenance import failed_record

        last = error.strip().splitlines()[-1]
        if (trained := take_unmeasured(self._folder, self._config.trial_id, last)) is not None:
            return trained
        if self._known is not None:
            return Extension(self._known, self._config).failed(error)
        return failed_record(self._config, error, self._device)

    def _known_record(self, trial_id: str) -> Record | None:
        """The rows of a trial that an earlier run has trained."""
        if trial_id not in self._trained:
            return None
        self._tables = self._tables or read_tables(self._folder)
        return record_of(self._tables, trial_id)

    def _train(self, trial: Trial) -> bool:
        """Trains for a slice of time; returns whether the training is finished."""
        return trial.train(SLICE_SECONDS)

    def _warm_start(self, epoch: float | None) -> AnyPath:
        return self._folder / "checkpoints" / f"warm-start-{self._config.warm_start_id}-{epoch}.pt"

    def _after_logging(self) -> None:
        self._leave_warm_start()
        assert self._trial is not None
        if self._checkpoint_every is not None and self._trial.has_passed(self._checkpoint_every):
            self._save(self._trial)

    def _save(self, trial: Trial) -> None:
        trial.save(self._checkpoint)
        self._saved_at = time.monotonic()

    def _leave_warm_start(self) -> None:
        """Leaves the state of this epoch for the trials that switch here and are the same run until now.

        They would come to the same numbers without it; so it is only a saving, and a missing file no fault.
        """
        trial = self._trial
        assert trial is not None
        epoch, own_switch = trial.training.epochs_done, self._config.switch_epoch
        if own_switch is not None and epoch > own_switch:
            return
        if epoch in self._warm_starts.get(self._config.warm_start_id, ()) and not self._warm_start(epoch).exists():
            trial.save(self._warm_start(epoch))


def leaving_curves(folder: AnyPath, trial: Trial, then: Callable[[], None]) -> Callable[[], None]:
    """What to do after each logging point of `trial`: leave its curves for the live page, and `then`."""
    from trainables.training.results import task_row

    training = trial.training
    about = {"trial_id": trial.config.trial_id, "label": trial.config.label, **task_row(training.task)}
    leave = RunningCurves(folder, about)

    def after_logging() -> None:
        leave(training.epochs, training.share_done, is_trained=training.finished)
        then()

    return after_logging


def _metrics(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in REPORTED if row.get(name) is not None}


def out_of_memory(micro_batch_size: int | None) -> str:
    """The last line of the reason why a trial failed."""
    tried = f" with micro_batch_size {micro_batch_size}" if micro_batch_size else ""
    return f"\nout of memory{tried}; give --workers-per-trial, --micro-batch-size, ghost_batch_size or more memory"
