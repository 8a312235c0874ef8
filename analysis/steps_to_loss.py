"""Steps to a training loss, and the law that they follow against batch size (McCandlish et al. 2018, arXiv 1812.06162).

Between the epochs where the loss was seen, its logarithm is taken as linear in steps.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from analysis.pairs import Floats

SEARCHED = 1e4  # B_crit is looked for up to so many times beyond the batch sizes of the sweep


def default_loss(frame: pd.DataFrame, epochs: pd.DataFrame) -> float:
    """The target loss of the sweep, or the smallest that each batch size reaches by a setting in every replicate."""
    targets = frame["target_loss"].dropna()
    if len(targets):
        return float(targets.max())
    lowest = frame["trial_id"].map(epochs.groupby("trial_id")["train_loss"].min())
    worst = lowest.groupby([frame["batch_size"], frame["setting"]]).max()
    return float(worst.groupby("batch_size").min().max())


def steps_to_loss(epochs: pd.DataFrame, loss: float) -> pd.DataFrame:
    """The `step` and `epoch` (both fractional) at which each trial first has a training loss of at most `loss`.

    Indexed by trial_id; trials that never reach it are not in it. `epochs`: rows of epochs.parquet.
    """
    rows = epochs.sort_values(["trial_id", "epoch"])
    logs = np.log(rows["train_loss"].clip(lower=np.finfo(float).tiny))
    before = rows.assign(log_loss=logs).groupby("trial_id")[["step", "epoch", "log_loss"]].shift()
    reached = rows[rows["train_loss"] <= loss].drop_duplicates("trial_id")
    start, end = before.loc[reached.index], logs.loc[reached.index]
    share = ((start["log_loss"] - np.log(loss)) / (start["log_loss"] - end)).fillna(1.0)
    found = {
        name: start[name].fillna(reached[name]) * (1 - share) + reached[name] * share for name in ("step", "epoch")
    }
    return pd.DataFrame(found).set_index(reached["trial_id"])


def fit_steps(sizes: Floats, steps: Floats) -> tuple[float, float, float]:
    """(B_crit, S_min, misfit) of S = S_min (1 + B_crit / B), by least squares of log S.

    For a given B_crit the best log S_min is a mean, so B_crit alone is searched for. sizes, steps: (k,), above 0.
    """

    def residuals(log_critical: float) -> Floats:
        found: Floats = np.log(steps) - np.logaddexp(0.0, log_critical - np.log(sizes))
        return found

    low, high = np.log(sizes.min() / SEARCHED), np.log(sizes.max() * SEARCHED)
    starts = np.linspace(low, high, 60)
    best = starts[np.argmin([residuals(start).var() for start in starts])]
    step = starts[1] - starts[0]
    found = minimize_scalar(
        lambda value: residuals(value).var(),
        bounds=(best - step, best + step),
        method="bounded",
        options={"xatol": 1e-9},
    )
    left = residuals(found.x)
    return float(np.exp(found.x)), float(np.exp(left.mean())), float(left.std())
