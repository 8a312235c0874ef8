"""Where the rows of a sweep come from, before anything is computed: which are left out, and what else to know.

- Trials of an older NUMBERS_VERSION than the newest in the folder are left out (`trainables.records.tables`): the code
  has
  changed since, and their results are not those of the same configuration today.
- A measure may have been taken of one trial under several settings (examples, data type, batch norm): one is kept, the
  one that most trials have, so that trials are compared under the same setting wherever they can be. A setting without
  a value (the measure failed) comes last.
- Trials that differ only in their seed and have the same initial weights are no replicates: the code that builds their
  network seeds itself. One of them is kept (`repeats_weights`).
- Trials that ran with different library versions or on different devices agree to rounding only.
"""

import dataclasses
from typing import Any

import pandas as pd

from trainables.config import MEASURING, TrialConfig

SETTING = ("examples", "dtype", "batch_norm", "batch_norm_batch_size", "split", "seed")
WHERE = {"device": "device", "python_version": "Python", "torch_version": "PyTorch", "numpy_version": "NumPy"}
_MOMENT = ["trial_id", "epoch", "measure"]


def one_setting(measures: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """`measures` with one setting per trial, moment and measure, and the names of the measures that had several."""
    setting = measures.groupby(list(SETTING), dropna=False).ngroup()
    rows = measures.assign(setting=setting, has_value=measures["value"].notna())
    groups = rows.groupby(_MOMENT, dropna=False)
    several = groups["setting"].transform("nunique") > 1
    if not several.any():
        return measures, ()
    trials = rows[rows["has_value"]].groupby(["measure", "setting"])["trial_id"].nunique().rename("trials")
    rows = rows.join(trials, on=["measure", "setting"]).fillna({"trials": 0})
    order = ["has_value", "trials", "examples", "dtype", "setting"]  # float64 is after float32
    best = rows.sort_values(order, kind="stable").groupby(_MOMENT, dropna=False)["setting"].transform("last")
    return measures[setting == best.reindex(measures.index)], tuple(sorted(rows.loc[several, "measure"].unique()))


def repeats_weights(trials: pd.DataFrame) -> pd.Series:
    """Return, by trial, whether another one has its configuration and initial weights, and a smaller seed."""
    same = [field.name for field in dataclasses.fields(TrialConfig) if field.name not in {"seed", *MEASURING}]
    known = trials[trials["initial_weights"].notna()].sort_values("seed", kind="stable")
    repeated = known.duplicated([*same, "numbers_version", "initial_weights"])
    return repeated.reindex(trials.index, fill_value=False)


def notes(trials: pd.DataFrame, left_out: int, several: tuple[str, ...]) -> tuple[str, ...]:
    """A line for each thing that a reader has to know; none for a folder of one version, setting and machine.

    Args:
        trials: those that are kept, rows of trials.parquet.
        left_out: how many older ones are not.
        several: the measures that were taken under several settings.
    """
    lines = []
    if left_out:
        newest = int(trials["numbers_version"].max())
        lines.append(
            f"{_count(left_out, 'trial')} of an older version of this code (numbers_version below {newest}) "
            f"{'is' if left_out == 1 else 'are'} left out of every result."
        )
    mixed = [f"{name} {_shares(trials[column])}" for column, name in WHERE.items() if trials[column].nunique() > 1]
    if mixed:
        lines.append(f"Trials ran with different versions or devices and agree to rounding only: {'; '.join(mixed)}.")
    if repeated := int(repeats_weights(trials).sum()):
        lines.append(
            f"{_count(repeated, 'trial')} with the initial weights of another seed {'is' if repeated == 1 else 'are'} "
            "left out of every result: the code of the network seeds itself, so they are not replicates."
        )
    if several:
        lines.append(
            f"Measured under several settings, of which the most frequent is used: {', '.join(several)} "
            "(measures.parquet has all)."
        )
    return tuple(lines)


def _shares(column: Any) -> str:
    return ", ".join(f"{value} ({count})" for value, count in column.value_counts().sort_index().items())


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
