"""Numbers from the command line. Python's own `float` takes nan and infinity, which every comparison lets through."""

import argparse
import math
from collections.abc import Callable


def number(*, above: float | None = None, least: float | None = None) -> Callable[[str], float]:
    """A reader of finite numbers, for `type` of argparse, where given `above` a bound or of `least` a value."""
    rule = "finite number"
    if above is not None:
        rule = f"number above {above:g}"
    elif least is not None:
        rule = f"number of {least:g} or more"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (above is not None and value <= above) or (least is not None and value < least):
            raise argparse.ArgumentTypeError(f"must be a {rule}, got {text}")
        return value

    return read
