"""Steps to a training loss, and the law that they follow against batch size (McCandlish et al. 2018, arXiv 1812.06162).

Between the moments where the loss was seen, its logarithm is taken as linear in steps. These moments are the ends of
epochs, and those within the first epochs (column `within` of epochs.parquet): otherwise a loss that is reached during
the first epoch would count as a whole one.
"""

from collections.abc import Sequence
from decimal import ROUND_CEILING, Context, Decimal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import brentq, minimize_scalar

from analysis.stats.means import CONFIDENCE, student_t
from analysis.stats.pairs import Floats

SEARCHED = 1e4  # B_crit is looked for up to so many times beyond the batch sizes of the sweep


def default_loss(frame: pd.DataFrame, epochs: pd.DataFrame) -> float:
    """The target loss of the sweep, or the smallest that each batch size reaches by a setting in every replicate.

    The second is rounded up to the digits that are shown. Batch sizes that diverged at every setting are left out.
    `epochs`: those of the trials that completed.
    """
    targets = frame["target_loss"].dropna()
    if len(targets):
        return float(targets.max())
    lowest = frame["trial_id"].map(epochs.groupby("trial_id")["train_loss"].min()).fillna(np.inf)
    worst = lowest.groupby([frame["batch_size"], frame["setting"]]).max()
    best = worst.groupby("batch_size").min()
    return rounded_up(float(best[np.isfinite(best)].max()))


def rounded_up(value: float) -> float:
    """The smallest number of six significant digits that is not below `value`."""
    return float(Context(prec=6, rounding=ROUND_CEILING).plus(Decimal(repr(value))))


def moments(epochs: pd.DataFrame) -> pd.DataFrame:
    """`trial_id`, `step`, `epoch` (fractional) and `train_loss` wherever it was seen, in order of time."""
    names = ["trial_id", "step", "epoch", "train_loss"]
    rows = [epochs[names]]
    if "within" in epochs:
        looks = epochs.loc[epochs["within"].notna(), ["trial_id", "within"]].explode("within").dropna()
        rows.append(pd.DataFrame(looks["within"].tolist(), columns=names[1:]).assign(trial_id=looks["trial_id"].array))
    return pd.concat([part for part in rows if len(part)] or rows[:1]).sort_values(names[:2], ignore_index=True)


def steps_to_loss(epochs: pd.DataFrame, loss: float) -> pd.DataFrame:
    """The `step` and `epoch` (both fractional) at which each trial first has a training loss of at most `loss`.

    Indexed by trial_id; trials that never reach it are not in it. `is_bound`: the loss was there at the first look, so
    these are upper bounds. `epochs`: rows of epochs.parquet.
    """
    rows = moments(epochs)
    logs = np.log(rows["train_loss"].clip(lower=np.finfo(float).tiny))
    at_goal = rows["train_loss"] <= loss
    return first_at_goal(rows.assign(value=logs), at_goal, float(np.log(loss)), "trial_id", ("step", "epoch"))


def first_at_goal(
    rows: pd.DataFrame, at_goal: pd.Series, goal: float, run: str, positions: Sequence[str] = ("step",)
) -> pd.DataFrame:
    """The `positions` of each run where its column `value` first is `goal`, on a line from the row before.

    `rows` are in order of time in each run (a column of this name), `at_goal` those whose value is at the goal or below
    it. Indexed by run; runs that never are there are not in it. `is_bound`: the first row of the run was there already,
    so its positions are upper bounds.
    """
    before = rows.groupby(run)[[*positions, "value"]].shift()
    reached = rows[at_goal].drop_duplicates(run)
    start = before.loc[reached.index]
    share = ((start["value"] - goal) / (start["value"] - reached["value"])).fillna(1.0)
    found = {name: start[name].fillna(reached[name]) * (1 - share) + reached[name] * share for name in positions}
    found["is_bound"] = start["step"].isna() & (reached["step"] > 1)
    return pd.DataFrame(found).set_index(reached[run])


def fit_steps(sizes: Floats, steps: Floats) -> tuple[float, float, float]:
    """(B_crit, S_min, misfit) of S = S_min (1 + B_crit / B), by least squares of log S.

    For a given B_crit the best log S_min is a mean, so B_crit alone is searched for. sizes, steps: (k,), above 0.
    """
    low, high = _searched(sizes)
    starts = np.linspace(low, high, 60)
    best = starts[np.argmin(_residuals(starts, sizes, steps).var(axis=-1))]
    step = starts[1] - starts[0]
    found = minimize_scalar(
        lambda value: _residuals(value, sizes, steps).var(),
        bounds=(best - step, best + step),
        method="bounded",
        options={"xatol": 1e-9},
    )
    left = _residuals(found.x, sizes, steps)
    return float(np.exp(found.x)), float(np.exp(left.mean())), float(left.std())


def misfit_intervals(sizes: Floats, steps: Floats, critical: float) -> Floats:
    """How far the misfit of the law leaves log B_crit, log S_min and log E_min open, in 95 %: (3, 2), ends may be inf.

        all (b, a) with  sum_k (log S_k - a - log(1 + e^b / B_k))^2 <= SSR (1 + t(0.975, k - 2)^2 / (k - 2))

    with SSR at the best fit, B_crit = `critical`: each batch size misses the law by an error of its own, whatever its
    source (Bates and Watts 1988, Nonlinear Regression Analysis, section 6.1). Profiles, not a linearization: where the
    sizes see one arm of the law alone, the other end is open. sizes, steps: (k,), k >= 3.
    """
    best, spare = float(np.log(critical)), len(sizes) - 2
    most = _residuals(best, sizes, steps).var() * (1 + student_t((1 + CONFIDENCE) / 2, spare + 1) ** 2 / spare)

    def excess(log_critical: float) -> float:
        return float(_residuals(log_critical, sizes, steps).var() - most)

    low, high = (end(limit, best) for end, limit in zip((min, max), _searched(sizes), strict=True))
    opens = [excess(low) <= 0, excess(high) <= 0]
    ends = [end if is_open else brentq(excess, best, end) for end, is_open in zip((low, high), opens, strict=True)]
    b = np.linspace(ends[0], ends[1], 200)
    left = _residuals(b, sizes, steps)
    a, reach = left.mean(axis=1), np.sqrt(np.maximum(0.0, most - left.var(axis=1)))
    found = np.array([ends, *([(c - reach).min(), (c + reach).max()] for c in (a, a + b))])
    if opens[0]:
        found[[0, 2], 0] = -np.inf
    if opens[1]:
        found[0, 1], found[1, 0] = np.inf, -np.inf
    return found


def _residuals(log_critical: npt.ArrayLike, sizes: Floats, steps: Floats) -> Floats:
    """log S - log(1 + B_crit / B), (..., k): where the law is exact, log S_min at every batch size."""
    found: Floats = np.log(steps) - np.logaddexp(0.0, np.asarray(log_critical)[..., None] - np.log(sizes))
    return found


def _searched(sizes: Floats) -> tuple[float, float]:
    return float(np.log(sizes.min() / SEARCHED)), float(np.log(sizes.max() * SEARCHED))
