"""The simple gradient noise scale tr(Sigma) / |G|^2 of a sweep, over the moments at which it was measured.

A trial has rows by two methods, each with a row for tr(Sigma) alone, which is no scale: one method is taken, the one
example by example where it was measured. A scale counts where |G|^2 is resolved from 0 (`converged`). Elsewhere it is
larger than a row can say, so a mean over the moments that are left is too small: how many those are goes with it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.data.load import Sweep

NOISE_SCALE = "gradient_noise_scale"
METHODS = ("per example", "two batch sizes")  # the first that was measured is taken


@dataclass(frozen=True, eq=False)
class NoiseScales:
    """`scales`: the geometric mean of each trial over its resolved moments, by trial_id; in examples.

    `resolved` of `measured` moments of all trials count; `epochs`: the most of one trial. `at_end`: all of them are the
    ends of their trials.
    """

    scales: pd.Series
    epochs: int
    measured: int
    resolved: int
    at_end: bool


def noise_scales(sweep: Sweep, reached: pd.DataFrame) -> NoiseScales | None:
    """The noise scales of the trials of `reached` (by `steps_to_loss`) until then; None where none was measured."""
    rows = sweep.measures[(sweep.measures["measure"] == NOISE_SCALE) & sweep.measures["method"].isin(METHODS)]
    rows = rows[rows["trial_id"].isin(reached.index)]
    rows = rows[~(rows["epoch"] > np.ceil(rows["trial_id"].map(reached["epoch"])))]
    for method in METHODS:
        if (rows["method"] == method).any():
            rows = rows[rows["method"] == method].drop_duplicates(["trial_id", "epoch"])
            break
    else:
        return None
    known = rows[(rows["value"] > 0) & rows["converged"].ne(False)]
    logs = np.log(known["value"].astype("float64")).groupby(known["trial_id"])
    done = known["trial_id"].map(sweep.trials.set_index("trial_id")["epochs_done"])
    return NoiseScales(
        scales=np.exp(logs.mean()),
        epochs=int(logs.size().max()) if len(known) else 0,
        measured=len(rows),
        resolved=len(known),
        at_end=bool((known["epoch"] == done).all()),
    )


def noise_sentence(found: NoiseScales | None, low: str, high: str) -> str:
    """What was found, between `low` and `high`, the batch sizes' own means; or why there is nothing."""
    if found is None:
        return "The gradient noise scale was not measured (`--measures gradient_noise_scale`)."
    if found.resolved == 0:
        return (
            f"The gradient noise scale is not known: |G|^2 is not resolved from 0 at any of the {found.measured} "
            "moments measured. Measure earlier in training (`--measure-every 1`) or on more examples."
        )
    end = ", measured at the end of training alone, where it overstates" if found.at_end else ""
    text = f"The simple gradient noise scale is {low} to {high}{end}."
    if found.resolved < found.measured:
        text += (
            f" |G|^2 is not resolved from 0 at {found.measured - found.resolved} of the {found.measured} moments "
            "measured; these are left out, so the scale is larger than stated."
        )
    return text
