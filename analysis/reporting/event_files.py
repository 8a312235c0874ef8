"""Event files for TensorBoard from a results folder alone, while the sweep runs or after it.

Each trial that ended is a run: its losses, metric, learning rate and batch size by epoch, its sharpness at its last
epoch, and for the HPARAMS page the fields of its configuration that vary in the sweep. All runs are written anew each
time, because a new reference changes the large-batch gaps. The records are written one after another without
TensorBoard's writer threads, which would be one for each of thousands of files.
"""

import dataclasses
import datetime
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from trainables.config import TrialConfig
from trainables.records.tables import Row, of_newest_version, read_tables
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath
from trainables.storage.remote_path import RemotePath

CURVES = ("train_loss", "test_loss", "lr", "batch_size", "distance")
RESULTS = ("generalization_gap", "large_batch_gap", "box_sharpness", "box_sharpness_paper", "hessian_max_eig")


def write_events(folder: AnyPath) -> list[str]:
    """Writes FOLDER/tensorboard; returns the lines that say so. Raises UserError where there is no sweep to read."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard.summary import hparams
    except ImportError as error:
        raise UserError("TensorBoard is not installed; pip install tensorboard") from error

    if isinstance(folder, RemotePath):
        raise UserError(f"`results` must be a folder here, got {folder}; fetch its tables first")
    tables, _ = of_newest_version(read_tables(folder))
    trials = tables.trials.to_pylist()
    epochs: dict[str, list[Row]] = {}
    for row in tables.epochs.to_pylist():
        epochs.setdefault(row["trial_id"], []).append(row)
    varying = varying_fields(trials)
    target = folder / "tensorboard"
    shutil.rmtree(target, ignore_errors=True)
    for trial in trials:
        ended = _time(trial["finished_at"])
        summaries = hparams(
            {name: _hparam(trial[name]) for name in varying} | {"status": trial["status"]},
            {f"result/{name}": 0.0 for name in (_metric(trial, "test")[1], *RESULTS)},
        )
        events = [Event(wall_time=ended, file_version="brain.Event:2")]
        events += [Event(wall_time=ended, summary=summary) for summary in summaries]
        for step, time, values in _steps(trial, epochs.get(trial["trial_id"], []), ended):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
            events.append(Event(wall_time=time, step=step, summary=summary))
        run_folder = target / _run_name(trial)
        run_folder.mkdir(parents=True)
        with (run_folder / "events.out.tfevents.sweep").open("wb") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())
    return [f"{len(trials)} runs; look at them with: tensorboard --logdir {target}"]


def varying_fields(trials: list[Row]) -> list[str]:
    """The fields of the configuration in which the trials differ."""
    names = [field.name for field in dataclasses.fields(TrialConfig)]
    return [name for name in names if len({trial[name] for trial in trials}) > 1]


def _steps(trial: Row, epochs: list[Row], ended: float) -> Iterator[tuple[int, float, dict[str, float]]]:
    """(epoch, time, values by tag) of each row, then of the trial: times go back from its end by the rows' own.

    Where rows are within epochs it is the optimizer's step in place of the epoch: TensorBoard has whole numbers only.
    """
    whole = all(float(row["epoch"]).is_integer() for row in epochs)
    place, end = ("epoch", "epochs_done") if whole else ("step", "steps")
    train, test = _metric(trial, "train"), _metric(trial, "test")
    curves = {name: f"epoch/{name}" for name in CURVES} | {column: f"epoch/{name}" for column, name in (train, test)}
    results = {test[0]: f"result/{test[1]}"} | {name: f"result/{name}" for name in RESULTS}
    left = math.fsum(row["seconds"] or 0.0 for row in epochs)
    for row in sorted(epochs, key=lambda row: row["epoch"]):
        left -= row["seconds"] or 0.0
        yield int(row[place]), ended - left, _present(row, curves)
    yield int(trial[end] or 0), ended, _present(trial, results)


def _metric(trial: Row, of: str) -> tuple[str, str]:
    """The column and the name of the trial's primary metric, such as `test_metric` and `test_nats`."""
    name = trial.get("metric") or "accuracy"
    return f"{of}_accuracy" if name == "accuracy" else f"{of}_metric", f"{of}_{name}"


def _present(row: Mapping[str, Any], tags: Mapping[str, str]) -> dict[str, float]:
    return {tag: float(row[name]) for name, tag in tags.items() if row[name] is not None}


def _hparam(value: Any) -> str | float | bool:
    return "none" if value is None else float(value) if type(value) is int else value


def _run_name(trial: Row) -> str:
    """The label and the key: unique, and a plain folder name whatever stands in the tables."""
    config = TrialConfig(**{field.name: trial[field.name] for field in dataclasses.fields(TrialConfig)})
    return re.sub(r"[^\w .=+-]", "_", f"{config.label} {trial['trial_id'][:6]}")


def _time(text: str | None) -> float:
    return datetime.datetime.fromisoformat(text).timestamp() if text else 0.0
