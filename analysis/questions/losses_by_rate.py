"""What a large batch loses at each learning rate, and whether that differs from rate to rate.

Where it does, the mean over learning rates describes none of them, so the answer names the loss at each.
"""

import itertools

import pandas as pd

from analysis.data.load import Sweep, comparable
from analysis.stats.means import Mean, differences_by_replicate, mean_over_replicates, paired_difference, resolution


def losses_by_rate(sweep: Sweep, batch_size: int) -> dict[float, Mean]:
    """What `batch_size` loses to the smallest at each learning rate, where it was compared; of the plain trials."""
    frame = comparable(sweep)
    plain = frame[frame["is_plain"]]
    references, rows = plain[plain["is_reference"]], plain[plain["batch_size"] == batch_size]
    found = {
        float(rate): paired_difference(references, part, sweep.metric.score)
        for rate, part in rows.groupby("learning_rate")
    }
    return {rate: mean for rate, mean in found.items() if mean is not None}


def depends_on_rate(sweep: Sweep, batch_size: int) -> bool:
    """Whether the losses at any two learning rates differ, at 5 % over all pairs of rates (Bonferroni).

    Of each replicate the difference between its losses at two rates, as a mean over replicates with a t-interval.
    """
    frame = comparable(sweep)
    plain = frame[frame["is_plain"]]
    references, rows = plain[plain["is_reference"]], plain[plain["batch_size"] == batch_size]
    losses = {
        rate: differences_by_replicate(references, part, sweep.metric.score)["mean"]
        for rate, part in rows.groupby("learning_rate")
    }
    pairs = list(itertools.combinations(losses.values(), 2))
    step = resolution(plain, sweep.metric.score)
    for first, second in pairs:
        both = (first - second).dropna()
        table = pd.DataFrame({"replicate": both.index, "difference": both.to_numpy()})
        mean = mean_over_replicates(table, "difference", step=step)
        if mean is not None and mean.interval is not None:
            interval = mean.simultaneous(len(pairs)).interval
            if interval is not None and not interval.holds(0):
                return True
    return False


def differing_losses(sweep: Sweep, batch_size: int) -> dict[float, Mean]:
    """`losses_by_rate` where they differ significantly; else, and in a sequential sweep, empty.

    A sequential sweep has no test beside the planned one.
    """
    found = losses_by_rate(sweep, batch_size) if sweep.sequential is None else {}
    return found if len(found) > 1 and depends_on_rate(sweep, batch_size) else {}
