"""Sweeps made up for the tests, as records: the numbers are chosen, so the answers are known."""

import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.data.runs import Runs, read_frame
from trainables.config import TrialConfig
from trainables.records.record_files import cleaned, rows_as_tables
from trainables.records.tables import Record, compact, write_record
from trainables.storage.folders import AnyPath, write_atomically

BASE: dict[str, Any] = {
    "dataset": "digits",
    "data_fingerprint": "abc",
    "train_size": 512,
    "test_size": 1000,
    "learning_rate": 0.01,
    "batch_size": 16,
    "epochs": 40,
    "target_loss": 1e-3,
    "measure_examples": 512,
}


def record(
    accuracy: float = 0.9,
    sharpness: float | None = 1.0,
    row: dict[str, Any] | None = None,
    history: Iterable[dict[str, Any]] = (),
    found: Iterable[dict[str, Any]] = (),
    **config: Any,
) -> Record:
    """The record of a completed trial, all of its measures from `sharpness`; `row` changes columns, `history` are its
    epochs, `found` further rows of measures."""
    trial = TrialConfig(**(BASE | config)).canonical()
    fields = {
        "status": "completed",
        "trial_id": trial.trial_id,
        **vars(trial),
        "epochs_done": 20,
        "train_accuracy": 1.0,
        "test_accuracy": accuracy,
        "generalization_gap": 1.0 - accuracy,
        "box_sharpness": sharpness,
        "box_sharpness_paper": sharpness and sharpness / 3,
        "hessian_max_eig": sharpness and 2 * sharpness,
        "flags": [],
        "train_seconds": 1.0,
        "sharpness_seconds": 2.0,
        "finished_at": "2026-01-01T00:00:00+00:00",
        "device": "cpu",
        "host": "here",
        "torch_version": "2",
    }
    common = {"space": "full", "converged": True, "measure": "box_sharpness", "epsilon": 5e-4}
    measures = [
        {**common, "method": method, "value": sharpness and factor * sharpness}
        for method, factor in (("paper", 0.1), ("strong", 0.5))
    ]
    return Record(fields | (row or {}), list(history), [*measures, *found])


def failed(error: str, **config: Any) -> Record:
    """The record of a failed trial, as trainables.trial leaves it."""
    trial = TrialConfig(**(BASE | config)).canonical()
    row = {"status": "failed", "trial_id": trial.trial_id, **vars(trial), "flags": ["failed"], "error": error}
    return Record(row, [], [])


def grid(
    batch_sizes: Iterable[int] = (16, 64, 512),
    learning_rates: Iterable[float] = (0.003, 0.01),
    seeds: Iterable[int] = (0, 1, 2),
    switch_epochs: Iterable[int | None] = (None, 5),
    warmups: Iterable[float] = (0.0,),
) -> list[Record]:
    """A sweep in which sharpness and gap grow with the batch, splits differ, and a switch helps."""
    random = np.random.default_rng(0)
    records: dict[str, Record] = {}
    axes = itertools.product(batch_sizes, learning_rates, seeds, switch_epochs, warmups)
    for size, rate, seed, switch, warmup in axes:
        at_end = 512 if switch is not None else size
        doublings = np.log2(at_end / 16) - (1.5 if switch is not None else 0)
        found = record(
            accuracy=0.95 - 0.01 * seed - 0.002 * doublings - rate / 10 + random.normal(0, 5e-4),
            sharpness=float(np.exp(doublings - 100 * rate + random.normal(0, 0.05))),
            batch_size=size,
            learning_rate=rate,
            seed=seed,
            split_seed=seed,
            switch_epoch=switch,
            switch_batch_size=None if switch is None else 512,
            warmup_epochs=warmup,
        )
        records.setdefault(found.trial["trial_id"], found)
    return list(records.values())


def law(
    b_crit: float = 100.0,
    s_min: float = 50.0,
    batch_sizes: Iterable[int] = (8, 32, 128, 512),
    factors: Iterable[float] = (1.0,),
    noise: float = 0.0,
    learning_rates: Iterable[float] = (0.01,),
) -> list[Record]:
    """A sweep whose steps to a loss of 0.001 follow S = s_min (1 + b_crit / B), times the factor of each seed and
    e^(noise N(0, 1)); three times as many at every learning rate but the first."""
    random = np.random.default_rng(0)
    records = []
    for size, (seed, factor), (place, rate) in itertools.product(
        batch_sizes, enumerate(factors), enumerate(learning_rates)
    ):
        steps = s_min * (1 + b_crit / size) * factor * np.exp(noise * random.normal()) * (3 if place else 1)
        epochs = steps * size / BASE["train_size"]
        # The loss falls from 1 to 1e-3 over these epochs, linear in its logarithm, so that interpolation is exact.
        ends = [*range(1, int(np.ceil(epochs)) + 1)]
        history = [
            {"epoch": epoch, "step": epoch * BASE["train_size"] / size, "train_loss": float(1e-3 ** (epoch / epochs))}
            for epoch in ends
        ]
        config: dict[str, Any] = {"batch_size": size, "learning_rate": rate, "seed": seed, "split_seed": seed}
        records.append(record(history=history, row={"epochs_done": len(ends)}, **config))
    return records


def with_epochs(found: Record, number: int = 30) -> Record:
    """The record with curves: the loss halves each epoch."""
    for epoch in range(1, number + 1):
        row = {"epoch": epoch, "step": epoch, "train_loss": 0.5**epoch, "test_loss": 0.1 + 0.5**epoch}
        found.epochs.append(
            {**row, "train_accuracy": 1 - 0.5**epoch, "test_accuracy": 0.9, "lr": 0.01, "batch_size": 16}
        )
    return found


def write(folder: Path, records: Iterable[Record]) -> Path:
    """Writes the records as a results folder with real Parquet files; returns its path.

    As if their record files had been merged, without a file for each: in the order of the names, the last of a name.
    """
    (folder / "trials").mkdir(parents=True)
    *others, last = [entry for _, entry in sorted({entry.trial["trial_id"]: entry for entry in records}.items())]
    cleaned_ones = [Record(**cleaned(dataclasses.asdict(entry))) for entry in others]
    for name, table in rows_as_tables(cleaned_ones).items():
        pq.write_table(table, folder / f"{name}.parquet")
    write_record(folder, last)
    compact(folder)  # which compares all trials
    return folder


def copied(folder: Path, target: AnyPath) -> AnyPath:
    """A copy of a results folder at `target`, which may be remote."""
    for file in (found for found in folder.rglob("*") if found.is_file()):
        copy = target
        for part in file.relative_to(folder).parts:
            copy = copy / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, file.read_bytes())
    return target


def judged_by(folder: Path, metric: str, unit: str, offset: float, slope: float, share: slice = slice(None)) -> Path:
    """`folder` with the trials of `share` judged by another metric than accuracy, offset + slope accuracy.

    Lower is better for a slope below 0. Returns `folder`.
    """
    trials = pq.read_table(folder / "trials.parquet").to_pandas()
    about = {"metric": metric, "metric_unit": unit, "metric_direction": "higher" if slope > 0 else "lower"}
    known = {"metric": "accuracy", "metric_unit": "points", "metric_direction": "higher"}
    rows = trials.index[share]
    for name, value in about.items():
        trials[name] = known[name]
        trials.loc[rows, name] = value
    for of in ("train", "test"):
        trials[f"{of}_metric"] = trials[f"{of}_accuracy"]
        trials.loc[rows, f"{of}_metric"] = offset + slope * trials.loc[rows, f"{of}_accuracy"]
        trials.loc[rows, f"{of}_accuracy"] = np.nan
    for name in ("generalization_gap", "large_batch_gap"):
        trials.loc[rows, name] = abs(slope) * trials.loc[rows, name]
    pq.write_table(pa.Table.from_pandas(trials, preserve_index=False), folder / "trials.parquet")
    return folder


def made_of(tmp_path: Path, rows: list[tuple[Any, ...]], metric: str = "loss", **about: Any) -> Runs:
    """Runs from elsewhere, of rows (run, batch size, step, value, settings)."""
    frame = pd.DataFrame(rows, columns=["run", "batch_size", "step", metric, *about.get("settings", ())])
    return read_frame(tmp_path / "runs.csv", frame, metric, about.get("direction"))
