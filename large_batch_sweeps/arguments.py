"""The arguments of this package's functions: a wrong one is named in one line before anything is computed."""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import pandas as pd

from trainables.runtime.errors import UserError


def number(name: str, value: Any) -> float | None:
    """`value` as a number, also of NumPy; None stays. Raises UserError for what is no finite number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise UserError(f"`{name}` must be a finite number or None, got {value!r}")
    return float(value)


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raises UserError where `value` is none of the `allowed`."""
    known = list(allowed)
    if value not in known:
        raise UserError(f"`{name}` must be one of {', '.join(map(str, known))}, got {value!r}")


def column_of_numbers(name: str, value: Any, frame: pd.DataFrame) -> None:
    """Raises UserError where `value` is no column of numbers of the trials in `frame`."""
    if not isinstance(value, str) or value not in frame:
        raise UserError(f"`{name}` must be a column of the trials, got {value!r}")
    if not pd.api.types.is_numeric_dtype(frame[value]):
        raise UserError(f"`{name}` must be a column of numbers, got {value!r} of type {frame[value].dtype}")
