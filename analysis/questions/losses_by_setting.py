"""What a large batch loses at each learning rate or with each optimizer, and whether that differs from one to another.

Where it does, the mean over them describes none of them, so the answer names the loss at each.
"""

import itertools
from collections.abc import Iterator
from typing import Any, Literal

import pandas as pd

from analysis.data.load import Sweep, comparable
from analysis.stats.means import Mean, differences_by_replicate, mean_over_replicates, paired_difference, resolution
from trainables.optimizer_settings import options_label

By = Literal["learning_rate", "optimizer"]


def losses_by(sweep: Sweep, batch_size: int, by: By = "learning_rate") -> dict[Any, Mean]:
    """What `batch_size` loses to the smallest at each value of `by`, where it was compared; of the plain trials."""
    found = {
        value: paired_difference(references, rows, sweep.metric.score)
        for value, references, rows in _parts(sweep, batch_size, by)
    }
    return {value: mean for value, mean in found.items() if mean is not None}


def losses_depend(sweep: Sweep, batch_size: int, by: By = "learning_rate") -> bool:
    """Whether the losses at any two values of `by` differ, at 5 % over all pairs of them (Bonferroni).

    Of each replicate the difference between its losses at the two, as a mean over replicates with a t-interval.
    """
    parts = list(_parts(sweep, batch_size, by))
    losses = [differences_by_replicate(references, rows, sweep.metric.score)["mean"] for _, references, rows in parts]
    pairs = list(itertools.combinations(losses, 2))
    step = resolution(comparable(sweep), sweep.metric.score)
    for first, second in pairs:
        both = (first - second).dropna()
        table = pd.DataFrame({"replicate": both.index, "difference": both.to_numpy()})
        mean = mean_over_replicates(table, "difference", step=step)
        if mean is not None and mean.interval is not None:
            interval = mean.simultaneous(len(pairs)).interval
            if interval is not None and not interval.holds(0):
                return True
    return False


def differing_losses(sweep: Sweep, batch_size: int, by: By = "learning_rate") -> dict[Any, Mean]:
    """`losses_by` where they differ significantly; else, and in a sequential sweep, empty.

    A sequential sweep has no test beside the planned one.
    """
    found = losses_by(sweep, batch_size, by) if sweep.sequential is None else {}
    return found if len(found) > 1 and losses_depend(sweep, batch_size, by) else {}


def values_of(frame: pd.DataFrame, by: By) -> pd.Series:
    """The learning rate of each trial, or its optimizer with the options: `sgd nesterov=true`."""
    if by == "learning_rate":
        return frame["learning_rate"]
    pairs = zip(frame["optimizer"], frame["optimizer_options"], strict=True)
    return pd.Series([f"{name} {options_label(options)}".strip() for name, options in pairs], frame.index, dtype=object)


def _parts(sweep: Sweep, batch_size: int, by: By) -> Iterator[tuple[Any, pd.DataFrame, pd.DataFrame]]:
    """The value of `by`, the plain trials of the smallest batch, and those of `batch_size` at that value."""
    frame = comparable(sweep)
    plain = frame[frame["is_plain"]]
    references, rows = plain[plain["is_reference"]], plain[plain["batch_size"] == batch_size]
    for value, part in rows.groupby(values_of(rows, by)):
        yield value, references, part
