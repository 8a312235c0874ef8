"""The tuning under Ray Tune: our own search algorithm, scheduler and display around a `Campaign`.

Tune's OptunaSearch does not fit: it has one study for a run, asks whenever a worker is free, so that a study depends on
timing, keeps its state in a pickle, and drops a NaN as if the trial had never been. Here Tune is asked for workers, and
the trials of all studies, then of the retraining, are one run, so workers stay warm.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console

from analysis.data.time_left import mean_by_size, work_left
from sweeps.execution.launch import fit, under_ray
from sweeps.execution.scheduler import FirstToWait
from sweeps.monitoring.progress import Progress, key_of
from sweeps.session.placement import Placement
from sweeps.tuning.campaign import Campaign
from sweeps.tuning.optuna_study import Outcome, Point
from trainables.records.tables import Record, Row
from trainables.storage.checkpoint import remove_checkpoint
from trainables.storage.folders import AnyPath
from trainables.tune.tune_trial import SLICE_SECONDS, TuneTrial

if TYPE_CHECKING:
    from trainables.trial import Trial


class TunedTrial(TuneTrial):
    """TuneTrial that reports at the epochs where early stopping decides, with the whole curve up to there."""

    def setup(self, config: dict[str, Any]) -> None:
        self._grace_epochs, self._goals = config["grace_epochs"], config["goals"]
        self._ended: list[Record] = []  # of the present step, one at most
        super().setup(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._configs = ray.get(new_config["configs"])
        return super().reset_config(new_config)

    def step(self) -> dict[str, Any]:
        self._ended.clear()
        result = super().step()
        if self._ended:
            epochs, outcome = self._ended[0].epochs, outcome_of(self._ended[0].trial)
            outcome = outcome if self._goals is None else self._goals.noted(outcome, epochs)
        else:
            epochs = self._trial.training.epochs if self._trial else []
            outcome = outcome_of({"trial_id": self._config.trial_id, "status": result.get("status", "stopped")}, epochs)
        curve = [dataclasses.astuple(point) for point in curve_of(epochs, self._grace_epochs)]
        return {**result, "curve": curve, "outcome": dataclasses.astuple(outcome)}  # Tune would flatten a dict

    def _advance(self) -> Record | None:
        record = super()._advance()
        self._ended += [record] if record is not None else []
        return record

    def _train(self, trial: Trial) -> bool:
        started = time.monotonic()
        while not trial.train(0):  # to the next logging point
            if is_judged(trial.training.epochs, self._grace_epochs) or time.monotonic() - started > SLICE_SECONDS:
                return False
        return True


def judged_epoch(before: float, after: float, grace_epochs: int) -> int | None:
    """The last of the epochs g, 2g, 4g, ..., where early stopping looks at trials, in (before, after]."""
    found, epoch = None, grace_epochs
    while epoch <= after:
        found, epoch = epoch if epoch > before else None, 2 * epoch
    return found


def is_judged(epochs: Sequence[Row], grace_epochs: int) -> bool:
    """Whether the last of the rows is one that early stopping looks at: it adds a point to `curve_of`."""
    return len(curve_of(epochs, grace_epochs)) > len(curve_of(epochs[:-1], grace_epochs))


def curve_of(epochs: Sequence[Row], grace_epochs: int) -> list[Point]:
    """The validation results where early stopping looks, from rows of epochs.parquet of a tuning trial.

    They are those of the first logging point at or after each such epoch that has some.
    """
    epochs = _tested(epochs)
    ends = [0, *(row["epoch"] for row in epochs)]
    judged = [judged_epoch(before, after, grace_epochs) for before, after in itertools.pairwise(ends)]
    return [
        Point(epoch, row["test_loss"], row["test_metric"])
        for epoch, row in zip(judged, epochs, strict=True)
        if epoch is not None
    ]


def outcome_of(row: Row, epochs: Sequence[Row] = ()) -> Outcome:
    """How a trial ended, from its row of trials.parquet; of one that was stopped, from its last epoch."""
    last = {**row, "epochs_done": epochs[-1]["epoch"], "steps": epochs[-1]["step"]} if epochs else row
    if tested := _tested(epochs):
        last |= {name: tested[-1][name] for name in ("test_loss", "test_metric")}
    seconds = math.fsum(epoch["seconds"] for epoch in epochs) if epochs else last.get("train_seconds")
    loss = last.get("test_loss")
    return Outcome(
        trial_id=row["trial_id"],
        status=row["status"],
        epochs_done=last.get("epochs_done") or 0,
        steps=last.get("steps") or 0,
        validation_loss=loss if loss is None or math.isfinite(loss) else None,
        validation_metric=last.get("test_metric"),
        train_seconds=seconds or 0.0,
    )


def _tested(epochs: Sequence[Row]) -> list[Row]:
    """The rows of the logging points at which the validation examples were evaluated."""
    return [row for row in epochs if row["test_loss"] is not None]


class CampaignSearch(Searcher):  # type: ignore[misc]
    """Tune's search algorithm: hands on what the campaign wants to run, and what came of it."""

    def __init__(self, campaign: Campaign) -> None:
        # Tune requires a metric that every result contains; the campaign uses its own objective.
        super().__init__(metric="training_iteration", mode="max")
        self._campaign = campaign
        self._keys: dict[str, str] = {}  # our key of Tune's trials

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        config = self._campaign.next()
        if config is None:
            return None if self._campaign.open else Searcher.FINISHED
        self._keys[trial_id] = config.trial_id
        return {"trial_id": config.trial_id, "configs": ray.put({config.trial_id: config})}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        key = self._keys.pop(trial_id)
        if error or result is None or "outcome" not in result:
            self._campaign.end(Outcome(key, "failed"))
            return
        self._campaign.report(key, [Point(*point) for point in result["curve"]])
        self._campaign.end(Outcome(*result["outcome"]))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Optuna's storage and the results folder have it all."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a campaign goes on from Optuna's storage and the results folder")

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing, as `save`."""


class EarlyStopping(FirstToWait):
    """The scheduler: first come, first served, and the median rule of sweeps.tuning.optuna_study."""

    def __init__(self, campaign: Campaign, folder: AnyPath) -> None:
        super().__init__()
        self._campaign, self._folder = campaign, folder

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        key = key_of(trial)
        if not self._campaign.report(key, [Point(*point) for point in result["curve"]]):
            return str(TrialScheduler.CONTINUE)
        remove_checkpoint(self._folder / "checkpoints" / f"{key}.pt")
        return str(TrialScheduler.STOP)


class TuningProgress(Progress):
    """The display, for trials that are not known beforehand; it shows no result on the test set before the end."""

    def __init__(self, campaign: Campaign, already_done: int, console: Console) -> None:
        super().__init__([], already_done, console)
        self._campaign = campaign
        self._configs = campaign.begun
        self._refresh()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._refresh()
        super().on_trial_start(iteration, trials, trial, **info)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._refresh()
        trial.last_result.setdefault("status", "stopped")
        super().on_trial_complete(iteration, trials, trial, **info)

    def _refresh(self) -> None:
        """Asks the campaign, in the driver's own thread: the display runs in another."""
        self._missing, self._planned = self._campaign.missing(), self._campaign.planned()

    def _remember(self, key: str, result: dict[str, Any]) -> None:
        if self._configs[key].validation_size is not None:
            self._remember_best(self._configs[key].label, result, "validation")

    def _counts(self) -> dict[str, int]:
        return {**super()._counts(), "total": self._planned, "done": self._planned - sum(self._missing.values())}

    def _seconds_left(self) -> float | None:
        means = mean_by_size((self._configs[key].batch_size, seconds) for key, (_, seconds) in self._ended.items())
        if not means:
            return None
        missing = ((cell.batch_size, number) for cell, number in self._missing.items())
        return work_left(missing, means) / max(1, len(self._started_at))


def run_campaign(campaign: Campaign, folder: AnyPath, placement: Placement, progress: Progress) -> bool:
    """Runs what is missing under Ray Tune; returns whether it was interrupted."""
    if not sum(campaign.missing().values()):
        return False

    def fit_campaign(placed: Placement) -> None:
        fit(
            TunedTrial,
            {"grace_epochs": campaign.plan.rules.grace_epochs, "goals": campaign.plan.goals},
            campaign.begun,
            campaign.plan.source,
            folder,
            placed,
            progress,
            search_alg=CampaignSearch(campaign),
            scheduler=EarlyStopping(campaign, folder),
            num_samples=-1,
            max_concurrent_trials=len(campaign.studies) * campaign.plan.rules.round_size,
        )

    return under_ray(placement, folder, progress, fit_campaign)
