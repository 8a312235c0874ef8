"""Arrays of a user's own as plain NumPy arrays of real numbers, or refused: nothing of them is lost on the way."""

import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.runtime.errors import UserError

KINDS = {
    "c": "complex numbers; take np.abs, or stack the real and imaginary parts as channels",
    "M": "dates; make them numbers",
    "m": "durations; make them numbers",
    "U": "text; make it numbers",
    "S": "bytes; make them numbers",
}


def real_numbers(name: str, what: str, part: Any) -> NDArray[Any]:
    """`part`, an array, a tensor or nested lists, as an array; a mapped one as it is.

    Raises UserError, naming the dataset `name`, for what are not real numbers and for masked values.
    """
    if isinstance(part, np.memmap):
        array: NDArray[Any] = part
    elif np.ma.is_masked(part):
        raise UserError(f"`dataset` {name} must return {what} without masked values; fill them or leave them out")
    else:
        array = np.asarray(part)
    if array.dtype.kind == "O":
        for numeric, dtype in ((numbers.Integral, np.int64), (numbers.Real, np.float64)):
            if all(isinstance(value, numeric) for value in array.flat):
                return array.astype(dtype)
    if array.dtype.kind not in "biuf":
        kind = KINDS.get(array.dtype.kind, f"of shape {array.shape}")
        raise UserError(f"`dataset` {name} must return {what} that are numbers, got {array.dtype}, {kind}")
    return array


def as_type(dtype: Any, array: NDArray[Any]) -> NDArray[Any]:
    """`array` in `dtype`, itself where it is; what float32 does not hold becomes infinity, which a Source refuses."""
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)
