"""Numbers from the command line. Python's own `float` takes nan and infinity, which every comparison lets through."""

import argparse
import math
from collections.abc import Callable


def number(
    *, above: float | None = None, least: float | None = None, below: float = math.inf
) -> Callable[[str], float]:
    """A reader of finite numbers, for `type` of argparse, where given above, below, or of at least a bound."""
    rule = "finite number"
    if above is not None:
        rule = f"number above {above:g}"
    elif least is not None:
        rule = f"number of {least:g} or more"
    if below < math.inf:
        rule += f" and below {below:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        too_low = (above is not None and value <= above) or (least is not None and value < least)
        if not math.isfinite(value) or too_low or value >= below:
            raise argparse.ArgumentTypeError(f"must be a {rule}, got {text}")
        return value

    return read
