"""Experiment trackers by Ray's own callbacks: MLflow and Weights & Biases, off unless asked for with --track.

Ray's callbacks log what Tune knows of a trial, which here is a key and some object references. So they are shown a
stand-in instead: the label as its name, the configuration in the words of trainables.config as parameters, and
the numbers alone as metrics, with the epoch as their step. Tune hears of a trial every two seconds; the curves by
epoch are in the tables and in TensorBoard (analysis/tensorboard.py).

A tracker never stops a sweep: at its first error it says so, once, and is left out from then on.
"""

import dataclasses
import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune

from sweeps.cli.arguments import TRACKERS
from sweeps.monitoring.progress import key_of
from trainables.config import TrialConfig
from trainables.runtime.errors import LONGEST_REASON, UserError, one_line
from trainables.storage.folders import AnyPath
from trainables.storage.remote_path import RemotePath

LOGGED = (
    "train_loss", "train_accuracy", "test_accuracy", "train_metric", "test_metric", "generalization_gap",
    "box_sharpness", "hessian_max_eig", "lr", "batch_size", "epochs_done",
)  # fmt: skip


@dataclasses.dataclass(eq=False)
class ShownTrial:
    """What a tracker sees of a trial, by the names that Ray's callbacks read."""

    trial_id: str
    label: str
    config: dict[str, Any]
    experiment_dir_name: str
    local_path: str

    def __str__(self) -> str:
        return self.label


class Tracked(tune.Callback):  # type: ignore[misc]
    """Passes the trials of `configs` on to `logger`, one of Ray's logger callbacks."""

    def __init__(self, name: str, logger: Any, sweep: str, configs: Mapping[str, TrialConfig]) -> None:
        self._name = name
        self._logger = logger
        self._sweep = sweep
        self._configs = configs
        self._shown: dict[str, ShownTrial] = {}

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune pickles its callbacks into its snapshots, which are never restored."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = key_of(trial)
        if key not in self._shown:
            config = self._configs[key]
            shown = ShownTrial(trial.trial_id, config.label, _parameters(config), self._sweep, trial.local_path)
            self._shown[key] = shown
            self._tell("log_trial_start", shown)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        epoch = result.get("epochs_done", result.get("epoch"))
        if epoch is not None:
            numbers = {name: result[name] for name in LOGGED if name in result}
            self._tell("log_trial_result", iteration, self._of(trial), {**numbers, "training_iteration": int(epoch)})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("log_trial_end", self._of(trial), failed=trial.last_result.get("status") == "failed")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("log_trial_end", self._of(trial), failed=True)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._tell("on_experiment_end", list(self._shown.values()))

    def _of(self, trial: Any) -> ShownTrial:
        return self._shown[key_of(trial)]

    def _tell(self, method: str, *arguments: Any, **options: Any) -> None:
        if self._logger is None:
            return
        try:
            getattr(self._logger, method)(*arguments, **options)
        except Exception as error:
            self._logger = None
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            print(f"{self._name} stopped logging, and the sweep continues: {reason}", file=sys.stderr)


def trackers(
    tracked: Sequence[tuple[str, str | None]], folder: AnyPath, configs: Mapping[str, TrialConfig]
) -> list[Tracked]:
    """A callback for each (kind, target) of --track; raises UserError where one cannot be had, before any trial."""
    return [Tracked(kind, _logger(kind, target, folder), folder.name, configs) for kind, target in tracked]


def _logger(kind: str, target: str | None, folder: AnyPath) -> Any:
    given = f"{kind}:{target}" if target else kind
    if kind == "mlflow" and target is None and isinstance(folder, RemotePath):
        raise UserError(f"`--track mlflow` needs a URI because the results are remote ({folder}): use mlflow:URI")
    try:
        importlib.import_module(kind)
    except Exception as error:  # whatever an installation that is not whole, or of other versions, may raise
        raise _broken(given, kind, error) from error
    try:
        logger = _mlflow(target, folder) if kind == "mlflow" else _wandb(target, folder)
        logger.setup()
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"`--track {given}`: this tracker cannot be reached ({reason})") from error
    return logger


def _broken(given: str, kind: str, error: Exception) -> UserError:
    if isinstance(error, ModuleNotFoundError) and error.name == kind:
        return UserError(f"`--track {given}`: this tracker is not installed; pip install {TRACKERS[kind]}")
    reason = one_line(f"{type(error).__name__}: {error}")[:LONGEST_REASON]
    return UserError(
        f"`--track {given}`: this tracker cannot be imported ({reason}); pip install --force-reinstall {TRACKERS[kind]}"
    )


def _mlflow(target: str | None, folder: AnyPath) -> Any:
    """Without a URI the sweep's own SQLite file, made with the schema of the MLflow that is installed."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    uri = target or f"sqlite:///{folder / 'mlflow.db'}"
    return MLflowLoggerCallback(tracking_uri=uri, experiment_name=folder.name)


def _wandb(target: str | None, folder: AnyPath) -> Any:
    from ray.air.integrations.wandb import WandbLoggerCallback

    local = None if isinstance(folder, RemotePath) else str(folder)
    return WandbLoggerCallback(project=target or folder.name, group=folder.name, dir=local)


def _parameters(config: TrialConfig) -> dict[str, Any]:
    """The key, and every field that is not at its default: a tracker takes milliseconds for each."""
    fields = {field.name: (getattr(config, field.name), field.default) for field in dataclasses.fields(config)}
    return {"trial_key": config.trial_id} | {
        name: value for name, (value, default) in fields.items() if value != default or name == "seed"
    }
