"""Arrays of a user's own as plain NumPy arrays of real numbers, or refused: nothing of them is lost on the way."""

import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.rows import chunks
from trainables.runtime.errors import UserError

LOST_SHARE = 0.1  # of a standard deviation: rounding errors of this size are a loss
FLOAT32_DIGITS, FLOAT64_NOISE = 2.0**-24, 2.0**-40  # relative sizes of a rounding, and of what many roundings leave
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


def require_variation(name: str, what: str, array: NDArray[Any]) -> None:
    """Raises UserError, naming the dataset `name`, for float64 numbers whose variation is lost in float32.

    At each position of an example, the root mean square of the rounding errors is compared with the standard deviation
    over the examples. A position counts as constant where it varies as little as a rounding error of the float32 at
    the position that varies most, or as the rounding errors of its own computation in float64.
    """
    if array.dtype.kind != "f" or array.dtype.itemsize <= 4 or not array.size:
        return
    first = np.asarray(array[0])
    sums, squares, errors = (np.zeros(array.shape[1:]) for _ in range(3))
    with np.errstate(all="ignore"):  # a Source refuses NaN and infinity
        for chunk in chunks(array):
            moved = chunk - first
            sums += moved.sum(0)
            squares += np.square(moved).sum(0)
            errors += np.square(chunk - chunk.astype(np.float32)).sum(0)
        deviation = np.sqrt(np.maximum(0.0, squares / len(array) - np.square(sums / len(array))))
        error = np.sqrt(errors / len(array))
        constant = np.maximum(FLOAT32_DIGITS * deviation.max(), FLOAT64_NOISE * np.abs(first))
        lost = np.isfinite(error) & (deviation > constant) & (error > LOST_SHARE * deviation)
    if lost.any():
        place = np.unravel_index(lost.argmax(), lost.shape)
        found = array.reshape(len(array), -1)[:, lost.argmax()]
        where = f"{what}[{', '.join([':', *map(str, place)])}]" if place else what
        steps = np.spacing(np.float32(np.abs(found).max()))
        raise UserError(
            f"`dataset` {name} must have {what} whose variation float32 holds, got {found.min()!s} to {found.max()!s} "
            f"in {where}, which float32 rounds to steps of {steps:g}; subtract a constant from it first"
        )
