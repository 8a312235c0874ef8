"""The lines of one trial on the page: its epochs, and what was measured at many scales or along a path.

Epochs are thinned evenly, first and last kept, so that report.html stays near a megabyte: MOST_POINTS of all trials
together, MOST_POINTS_OF_A_TRIAL of one. So are, where they are fewer, those at which the test set was evaluated.
"""

import contextlib
import io
import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.load import Sweep
from analysis.data.metric import Metric
from trainables.records.running import thinned
from trainables.storage.folders import read_file

Data = dict[str, Any]

MOST_POINTS = 60_000
MOST_POINTS_OF_A_TRIAL = 100
LEAST_SCALES = 5  # rows of one measure that make a line


def curves(epochs: pd.DataFrame, order: Any, metric: Metric) -> Data:
    """The epochs of each trial of `order`: {names, trials: [{epochs, values: a list per name} or null]}.

    A column that is the same in all epochs shown is that value alone.
    """
    metrics = (metric.train_column, metric.column)
    wanted = ("epoch", "train_loss", "test_loss", *metrics, "lr", "batch_size", "distance")
    names = [name for name in wanted if name in epochs and epochs[name].notna().any()]
    epochs = epochs.sort_values(["trial_id", "epoch"], ignore_index=True)
    sizes = epochs.groupby("trial_id").size()
    most = max(8, min(MOST_POINTS_OF_A_TRIAL, MOST_POINTS // max(1, len(sizes))))
    starts = np.cumsum(sizes) - sizes
    is_tested = epochs[metric.column].notna() if metric.column in epochs else pd.Series(True, index=epochs.index)
    shown_of = [
        thinned(is_tested.iloc[start : start + size].tolist(), most) for start, size in zip(starts, sizes, strict=True)
    ]
    kept = epochs.iloc[[start + place for start, places in zip(starts, shown_of, strict=True) for place in places]]
    columns = [[plain(value, digits=4) for value in kept[name].tolist()] for name in names]
    found, first = {}, 0
    for key, size, places in zip(sizes.index, sizes.tolist(), shown_of, strict=True):
        values = []
        for name, column in zip(names, columns, strict=True):
            shown = column[first : first + len(places)]
            values.append(shown[0] if name != "epoch" and len(set(shown)) == 1 else shown)
        found[key] = {"epochs": size, "values": values}
        first += len(places)
    return {"names": names, "trials": [found.get(key) for key in order]}


def profiles(sweep: Sweep) -> dict[str, list[Data]]:
    """By trial_id, lines through and around its minimum: [{title, x, log, lines: {name: [[x, y], ...]}}]."""
    found: dict[str, list[Data]] = {}
    _spectra(sweep.measures, found)
    with contextlib.suppress(OSError, ValueError, KeyError):  # not there, or being written: the page does without
        _paths(pd.read_parquet(io.BytesIO(read_file(sweep.folder / "profiles.parquet"))), found)
    return found


def _spectra(measures: pd.DataFrame, found: dict[str, list[Data]]) -> None:
    """Each measure that a trial has at LEAST_SCALES scales or more: quantiles of a spectrum, rise against distance."""
    rows = measures[measures["scale"].notna() & measures["value"].notna()]
    for (trial_id, measure, epoch), part in rows.groupby(["trial_id", "measure", "epoch"], dropna=False):
        lines = {method: _line(line, "scale", "value") for method, line in part.groupby("method")}
        lines = {method: line for method, line in lines.items() if len(line) >= LEAST_SCALES}
        if lines:
            at = "" if pd.isna(epoch) else f", epoch {epoch:g}"
            x = "share of the eigenvalues that lie below" if "quantile" in lines else "scale"
            found.setdefault(trial_id, []).append({"title": measure + at, "x": x, "log": False, "lines": lines})


def _paths(rows: pd.DataFrame, found: dict[str, list[Data]]) -> None:
    """Training and test loss on each path of analysis/minima/profiles.py, shown at both of its ends; planes are
    left out.
    """
    rows = rows[rows["beta"].isna() & rows["loss"].notna()]
    for (first, second, kind, seed, mode), part in rows.groupby(
        ["trial_id", "other_trial_id", "kind", "direction_seed", "batch_norm"], dropna=False
    ):
        random = pd.isna(second)
        where = f"direction {seed:g}" if random else f"alpha 0 is {first}, 1 is {second}"
        lines = {split: _line(line, "alpha", "loss") for split, line in part.groupby("split")}
        path = {"title": f"loss [nats], {kind}, {mode}: {where}", "x": "alpha", "log": True, "lines": lines}
        for trial_id in (first,) if random else (first, second):
            found.setdefault(trial_id, []).append(path)


def _line(rows: pd.DataFrame, x: str, y: str) -> list[list[Any]]:
    rows = rows.drop_duplicates(x).sort_values(x)
    return [[plain(a), plain(b)] for a, b in zip(rows[x], rows[y], strict=True)]


def plain(value: Any, digits: int = 6) -> Any:
    """A value that JSON has: null for what is missing or not finite, whole numbers as integers."""
    if value is None or value is pd.NA:
        return None
    if isinstance(value, str):
        return value
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float):
        if not math.isfinite(number):
            return None
        return int(number) if number.is_integer() and abs(number) < 1e15 else float(f"{number:.{digits}g}")
    return number
