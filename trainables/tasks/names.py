"""The names of the built-in tasks and the range of a metric, for modules that do not import PyTorch."""

from trainables.runtime.errors import UserError

TASKS = ("classification", "language", "regression", "multilabel", "binary")
DIRECTIONS = ("higher", "lower")
OF_CLASS_NUMBERS = ("classification", "language")  # labels are integers from 0 to the number of classes - 1
PADDED = -100  # the label of a token that has none, for `language`


def require_level(option: str, value: float, *, metric: str, unit: str) -> None:
    """Raises UserError, which names the `option`, for a level that no value of the metric can be.

    Metrics whose unit is "points" are shares in [0, 1]; others have no known range.
    """
    if unit == "points" and not 0 <= value <= 1:
        percent = f"; {value:g} % is {value / 100:g}" if 1 < value <= 100 else ""
        raise UserError(f"`{option}` must be between 0 and 1 for {metric}, got {value:g}{percent}")
