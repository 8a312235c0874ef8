"""What sweeps/tuned_gap.py has left, as one `TunedCell` for each batch size and remedy: chosen, retrained, compared."""

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.data.batch_unit import BatchUnit
from analysis.data.load import (
    BOX_STRONG,
    NO_REMEDY,
    REPLICATE,
    Sweep,
    has_flag,
    load_sweep,
    number_of,
)
from analysis.data.metric import Metric
from analysis.data.provenance import repeats_weights
from analysis.stats.means import Mean, mean_over_replicates, resolution
from trainables.records.flag_names import OFF_TARGET
from trainables.runtime.errors import UserError, quoted
from trainables.storage.folders import AnyPath, read_file

RATE = "learning_rate"


@dataclass(frozen=True)
class TunedCell:
    """One batch size and remedy. `tuned` and `untuned` are of the primary metric on the test set (fractions of
    accuracy); gaps are paired with the smallest plain batch, above 0 where it is better. They are None where nothing
    has been retrained, as `untuned` is for the reference, whose tuned trials are the same.

    `best`: the chosen values, None where no tuning trial came to a result. `edges`: those at an end of their range.
    `counts`: tuning trials by how they ended; `steps`: what they took; `unfinished`, `off_target`: trials.
    `diverged` of `retrained` tuned trials diverged in a replicate that the reference completed.
    """

    batch_size: int
    remedy: str
    best: dict[str, float] | None
    edges: tuple[str, ...]
    validation_metric: float | None
    validation_loss: float | None
    counts: dict[str, int]
    steps: int
    tuned: Mean | None
    untuned: Mean | None
    tuned_gap: Mean | None
    untuned_gap: Mean | None
    gained: Mean | None
    box_sharpness: Mean | None
    unfinished: int
    off_target: int
    retrained: int
    diverged: int

    @property
    def name(self) -> str:
        return f"batch {self.batch_size}" + ("" if self.remedy == NO_REMEDY else f" with {self.remedy}")


@dataclass(frozen=True, eq=False)
class TunedGap:
    """What sweeps/tuned_gap.py has left: the cells, smallest plain batch first, and the tuning trials as a frame, whose
    `validation_metric` is the primary metric on the validation examples.
    """

    folder: AnyPath
    cells: tuple[TunedCell, ...]
    tuning: pd.DataFrame
    about: dict[str, Any]
    metric: Metric
    batch_unit: BatchUnit

    @property
    def reference(self) -> TunedCell:
        return self.cells[0]


def load_tuned_gap(folder: AnyPath) -> TunedGap:
    """Raises UserError where `folder` was not written by sweeps/tuned_gap.py."""
    try:
        about = json.loads(read_file(folder / "tuning.json"))
        tuning = pq.read_table(pa.BufferReader(read_file(folder / "tuning.parquet"))).to_pandas()
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"`results` must be a folder that sweeps/tuned_gap.py has written, got {folder} without a whole "
            "tuning.json and tuning.parquet"
        ) from error
    sweep = load_sweep(folder)
    try:
        return _tuned_gap(sweep, about, tuning)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:  # somebody else may have written it
        raise UserError(
            f"`results` must hold the tuning.json and tuning.parquet of sweeps/tuned_gap.py, got {folder}, where they "
            f"do not fit together ({type(error).__name__}: {quoted(error)})"
        ) from error


def _tuned_gap(sweep: Sweep, about: dict[str, Any], tuning: pd.DataFrame) -> TunedGap:
    if "validation_metric" not in tuning:  # of an earlier version
        tuning["validation_metric"] = tuning["validation_accuracy"]
    trials, metric = sweep.trials, sweep.metric
    trials = trials[~repeats_weights(trials)]
    trials = trials.assign(replicate=number_of(trials, REPLICATE), off_target=has_flag(trials, OFF_TARGET))
    trials[metric.score] = metric.sign * trials[metric.column]
    trials = trials.set_index("trial_id")
    reference = _completed(trials, about["cells"][0], "tuned")
    cells = tuple(_cell(entry, trials, tuning, reference, metric) for entry in about["cells"])
    return TunedGap(sweep.folder, cells, tuning, about, metric, sweep.batch_unit)


def _completed(trials: pd.DataFrame, cell: dict[str, Any], setting: str) -> pd.DataFrame:
    rows = trials.loc[trials.index.intersection(cell["trials"].get(setting, []))]
    return rows[rows["status"] == "completed"]


def _cell(
    cell: dict[str, Any], trials: pd.DataFrame, tuning: pd.DataFrame, reference: pd.DataFrame, metric: Metric
) -> TunedCell:
    tuned, untuned = _completed(trials, cell, "tuned"), _completed(trials, cell, "untuned")
    mine = tuning[(tuning["batch_size"] == cell["batch_size"]) & (tuning["remedy"] == cell["remedy"])]
    best = cell["best"]
    chosen = mine[mine["number"] == best["number"]].iloc[0] if best is not None else None
    is_reference = reference.index.equals(tuned.index)
    ended = trials.loc[trials.index.intersection(cell["trials"].get("tuned", []))]
    return TunedCell(
        batch_size=cell["batch_size"],
        remedy=cell["remedy"],
        best=None if best is None else {name: value for name, value in best.items() if name != "number"},
        edges=tuple(cell["edges"]),
        validation_metric=None if chosen is None else float(chosen["validation_metric"]),
        validation_loss=None if chosen is None else float(chosen["validation_loss"]),
        counts={str(status): int(count) for status, count in mine["status"].value_counts().items()},
        steps=int(mine["steps"].sum()),
        tuned=mean_over_replicates(tuned, metric.column),
        untuned=None if is_reference else mean_over_replicates(untuned, metric.column),
        tuned_gap=None if is_reference else _difference(metric.score, reference, tuned),
        untuned_gap=None if is_reference else _difference(metric.score, reference, untuned),
        gained=None if is_reference else _difference(metric.score, tuned, untuned),
        box_sharpness=mean_over_replicates(tuned, BOX_STRONG.column, scale="log"),
        unfinished=len({*cell["trials"].get("tuned", []), *cell["trials"].get("untuned", [])})
        - len(tuned.index.union(untuned.index)),
        off_target=int(tuned["off_target"].sum()),
        retrained=len(cell["trials"].get("tuned", [])),
        diverged=int((ended["status"].eq("diverged") & ended["replicate"].isin(reference["replicate"])).sum()),
    )


def _difference(score: str, first: pd.DataFrame, second: pd.DataFrame) -> Mean | None:
    """The mean of first minus second in `score` over the replicates that both have."""
    sides = [rows.groupby("replicate")[score].mean() for rows in (first, second)]
    differences = (sides[0] - sides[1]).dropna().rename("difference").reset_index()
    return mean_over_replicates(differences, "difference", step=resolution(first, score))
