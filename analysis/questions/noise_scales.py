"""The simple gradient noise scale tr(Sigma) / |G|^2 of a sweep, over the moments at which it was measured.

It is taken from the training steps (`--noise-scale`, columns of epochs.parquet) where these resolve it, else from the
measure of that name (measures.parquet), at the end of training or along it. An interval of the steps that is open above
says that |G|^2 is not resolved.

The measure has rows by two methods, each with a row for tr(Sigma) alone, which is no scale: one method is taken, the
one example by example where it was measured. A scale counts where |G|^2 is resolved from 0 (`converged`). Elsewhere it
is larger than a row can say, so a mean over the moments that are left is too small: how many those are goes with it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.data.batch_unit import BatchUnit
from analysis.data.load import Sweep
from analysis.data.replicates import Estimate
from analysis.stats.means import Mean
from analysis.stats.wording import plain_number

NOISE_SCALE = "gradient_noise_scale"
METHODS = ("per example", "two batch sizes")  # the first that was measured is taken


@dataclass(frozen=True, eq=False)
class NoiseScales:
    """`scales`: the geometric mean of each trial over its resolved moments, by trial_id; in examples. `layers`: those
    that the steps' noise scale covers, all or normalization; None where it was measured otherwise.

    `resolved` of `measured` moments of all trials count; `epochs`: the most of one trial. `at_end`: all of them are the
    ends of their trials.
    """

    scales: pd.Series
    epochs: int
    measured: int
    resolved: int
    at_end: bool
    layers: str | None = None


def noise_scales(sweep: Sweep, reached: pd.DataFrame) -> NoiseScales | None:
    """Those of the trials of `reached` (by `steps_to_loss`) until then; None where none was measured."""
    in_steps = _in_steps(sweep, reached)
    measured = _measured(sweep, reached) if in_steps is None or in_steps.resolved == 0 else None
    return measured or in_steps


def _in_steps(sweep: Sweep, reached: pd.DataFrame) -> NoiseScales | None:
    """Those of the training steps, of the layers that most trials have."""
    layers = sweep.trials.set_index("trial_id")["noise_scale"].dropna()
    if layers.empty:
        return None
    which = str(layers.mode().iloc[0])
    rows = _until(sweep.epochs[sweep.epochs["trial_id"].isin(layers.index[layers == which])], reached)
    rows = rows[rows["gradient_noise_trace"].notna()]
    return _summary(sweep, rows, "gradient_noise_scale", rows["gradient_noise_scale_high"].notna(), which)


def _until(rows: pd.DataFrame, reached: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows["trial_id"].isin(reached.index)]
    return rows[~(rows["epoch"] > np.ceil(rows["trial_id"].map(reached["epoch"])))]


def _summary(
    sweep: Sweep, rows: pd.DataFrame, column: str, is_resolved: pd.Series, layers: str | None
) -> NoiseScales | None:
    known = rows[(rows[column] > 0) & is_resolved]
    logs = np.log(known[column].astype("float64")).groupby(known["trial_id"])
    done = known["trial_id"].map(sweep.trials.set_index("trial_id")["epochs_done"])
    return NoiseScales(
        scales=np.exp(logs.mean()),
        epochs=int(logs.size().max()) if len(known) else 0,
        measured=len(rows),
        resolved=len(known),
        at_end=layers is None and bool((known["epoch"] == done).all()),
        layers=layers,
    )


def _measured(sweep: Sweep, reached: pd.DataFrame) -> NoiseScales | None:
    rows = sweep.measures[(sweep.measures["measure"] == NOISE_SCALE) & sweep.measures["method"].isin(METHODS)]
    rows = _until(rows, reached)
    for method in METHODS:
        if (rows["method"] == method).any():
            rows = rows[rows["method"] == method].drop_duplicates(["trial_id", "epoch"])
            break
    else:
        return None
    return _summary(sweep, rows, "value", rows["converged"].ne(False), None)


def noise_words(
    found: NoiseScales | None, factor: Estimate | None, means: Iterable[Mean | None], unit: BatchUnit
) -> str:
    """The noise scale, between the smallest and the largest of the batch sizes' own `means`, and the `factor` by which
    the measured critical batch size is off it; or why there is nothing.
    """
    values = [mean.value for mean in means if mean is not None]
    low, high = (plain_number(end(values)) if values else "" for end in (min, max))
    high += "" if unit.tokens is None else f" {unit.examples}"
    return _scale_sentence(found, low, high) + _factor_sentence(factor, found)


def _scale_sentence(found: NoiseScales | None, low: str, high: str) -> str:
    if found is None:
        return "The gradient noise scale was not measured (`--noise-scale` or `--measures gradient_noise_scale`)."
    if found.resolved == 0:
        return (
            f"The gradient noise scale is not known: |G|^2 is not resolved from 0 at any of the {found.measured} "
            "moments measured. Measure earlier in training (`--measure-every 1`) or on more examples."
        )
    end = ", measured at the end of training alone, where it overstates" if found.at_end else ""
    of_steps = {None: "", "all": " of the training steps"}.get(
        found.layers, " of the normalization layers in the training steps"
    )
    text = f"The simple gradient noise scale{of_steps} is {low} to {high}{end}."
    if found.resolved < found.measured:
        text += (
            f" |G|^2 is not resolved from 0 at {found.measured - found.resolved} of the {found.measured} moments "
            "measured; these are left out, so the scale is larger than stated."
        )
    return text


def _factor_sentence(factor: Estimate | None, noise: NoiseScales | None) -> str:
    """Only an upper bound where moments are left out of the `noise` scale, which is too small then."""
    if factor is None or noise is None:
        return ""
    if noise.resolved < noise.measured:
        return f" The measured critical batch size is at most about {plain_number(factor.value)} times the noise scale."
    ends, interval = factor.interval, ""
    if ends is not None and ends.low > 0 and np.isfinite(ends.high):
        interval = f" (95 % CI {plain_number(ends.low)} to {plain_number(ends.high)})"
    return f" The measured critical batch size is {plain_number(factor.value)} times the noise scale{interval}."
