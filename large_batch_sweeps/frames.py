"""Statistics as DataFrames: a row for each dataclass, its intervals as columns `NAME_low` and `NAME_high`."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.data.replicates import Estimate
from analysis.stats.means import Interval, Mean
from analysis.stats.rank_correlation import Correlation, GranulatedKendall


def frame_of(rows: Iterable[Any]) -> pd.DataFrame:
    """A row for each of `rows`, instances of one dataclass.

    A mean, fitted number or correlation NAME becomes NAME, NAME_low, NAME_high (its 95 % interval, null where there is
    none) and NAME_replicates, a correlation also NAME_p. Numbers and texts stay, and what has no place in a row goes.
    """
    return pd.DataFrame([row_of(one) for one in rows])


def row_of(one: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    types = {field.name: str(field.type) for field in dataclasses.fields(one)}
    for name, kind in types.items():
        value = getattr(one, name)
        if isinstance(value, Mean | Estimate | Correlation) or (value is None and _is_estimate(kind)):
            row |= with_interval(name, value)
        elif isinstance(value, GranulatedKendall):
            row[name] = value.mean
        elif isinstance(value, Interval):
            row |= {f"{name}_low": value.low, f"{name}_high": value.high}
        elif value is None or isinstance(value, str | int | float | bool | Path):
            row[name] = value
    return row


def _is_estimate(kind: str) -> bool:
    """Whether a field of this type holds an estimate, also where it is None."""
    return any(name in kind for name in ("Mean", "Estimate", "Correlation"))


def with_interval(name: str, value: Mean | Estimate | Correlation | None) -> dict[str, Any]:
    """The columns of an estimate; null where there is none."""
    interval = None if value is None else value.interval
    row = {
        name: None if value is None else value.value,
        f"{name}_low": None if interval is None else interval.low,
        f"{name}_high": None if interval is None else interval.high,
        f"{name}_replicates": 0 if value is None else value.replicates,
    }
    return {**row, f"{name}_p": value.p_value} if isinstance(value, Correlation) else row
