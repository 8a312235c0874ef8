"""Loss and metric on the way from a small-batch minimum to a large-batch one (Keskar et al. 2017, figures 3 and 10).

For any sweep that ran with --keep-weights: the line, alpha in [-1, 2], and the arc, alpha in [0, 1], from SB (alpha
0) to LB (alpha 1), training and test set; one pair of minima for each seed and split, drawn thin, and their mean (of
the loss geometric). The points are kept in profiles.parquet; how they are made, and what batch norm does there, is in
analysis/minima/profiles.py. The arc beyond its ends runs towards -x, so it is drawn between them alone.

Which of the two is sharper is read off the line: the training loss's rise at 0.25 on either side of each end, in units
of the distance between the two, so both ends are seen along one direction at one distance.

Trap: one direction says little of all the others, and rescaling layers changes it at will (Dinh et al. 2017); see
analysis/landscape.py for filter-normalized directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.load import Sweep, comparable
from analysis.data.metric import ACCURACY, Metric
from analysis.minima.pairs import MinimumPair, minimum_pairs
from analysis.minima.profiles import Point, profiles
from analysis.stats.means import Mean, mean_over_replicates
from analysis.stats.wording import three_digits
from trainables.runtime.errors import UserError
from trainables.sharpness.model_loss import BatchNorm

RANGE = (-1.0, 2.0)
POINTS = 25  # as in the authors' code
SIDE = 0.25  # how far from an end its sharpness along the line is read off
KINDS = ("linear", "curvilinear")


@dataclass(frozen=True)
class ParametricPlot:
    """The pairs, and the rows of profiles.parquet on their paths, with `replicate` of the pair."""

    pairs: tuple[MinimumPair, ...]
    rows: pd.DataFrame
    sizes: tuple[int, int]  # the batch sizes of SB and LB, of the first pair
    off_target: int  # of the minima
    metric: Metric = ACCURACY


def alphas(low: float = RANGE[0], high: float = RANGE[1], points: int = POINTS) -> list[float]:
    """`points` even steps from `low` to `high`, and 0 and 1 where they lie between: there the stored losses are met.

    Raises UserError for a range of one point.
    """
    if not (np.isfinite([low, high]).all() and low < high):
        raise UserError(f"`alpha-range` must go from a number to a larger one, got {low:g} to {high:g}")
    if points < 2:
        raise UserError(f"`points` must be at least 2, got {points}")
    ends = [end for end in (0.0, 1.0) if low <= end <= high]
    return sorted({round(float(alpha), 9) for alpha in np.linspace(low, high, points)} | set(ends))


def parametric_plot(
    sweep: Sweep,
    *,
    pair: Sequence[str] | None = None,
    alpha_range: Sequence[float] = RANGE,
    points: int = POINTS,
    batch_norm: BatchNorm = "recalibrated",
    **place: Any,
) -> ParametricPlot:
    """Evaluates what is missing; `place` as in `profiles`. Raises UserError as that, `minimum_pairs` and `alphas`."""
    steps = {"linear": alphas(alpha_range[0], alpha_range[1], points), "curvilinear": alphas(0.0, 1.0, points)}
    pairs = minimum_pairs(sweep, pair)
    wanted = [
        Point(trial_id=one.small, other_trial_id=one.large, kind=kind, alpha=alpha, batch_norm=batch_norm)
        for one in pairs
        for kind in KINDS
        for alpha in steps[kind]
    ]
    rows = profiles(sweep.folder, wanted, **place)
    replicates = {(one.small, one.large): one.replicate for one in pairs}
    keys = zip(rows["trial_id"], rows["other_trial_id"], strict=True)
    rows = rows.assign(replicate=[replicates[key] for key in keys])
    ends = comparable(sweep).set_index("trial_id").loc[[end for one in pairs for end in (one.small, one.large)]]
    sizes = ends["batch_size"].iloc[:2].tolist()
    off_target = int(ends["off_target"].sum())
    return ParametricPlot(tuple(pairs), rows, (int(sizes[0]), int(sizes[1])), off_target, sweep.metric)


def rises(plot: ParametricPlot) -> pd.DataFrame:
    """For each pair the training loss at both ends of the line, and its mean rise at SIDE around them, in nats.

        rise(e) = (L(e - SIDE) + L(e + SIDE)) / 2 - L(e),   log L linear between the points

    `log_ratio`: log(rise(LB) / rise(SB)), NaN where one is not above 0 or the range of alpha does not reach so far.
    """
    table = []
    line = plot.rows[(plot.rows["kind"] == "linear") & (plot.rows["split"] == "train")]
    for (small, large, replicate), rows in line.groupby(["trial_id", "other_trial_id", "replicate"], sort=False):
        alpha, log_loss = rows["alpha"].to_numpy(), np.log(rows["loss"].to_numpy(np.float64))
        at = np.array([[-SIDE, 0.0, SIDE], [1 - SIDE, 1.0, 1 + SIDE]])
        losses = np.exp(np.interp(at, alpha, log_loss, left=np.nan, right=np.nan))
        around = losses[:, [0, 2]].mean(axis=1) - losses[:, 1]
        table.append(
            {
                "trial_id": small,
                "other_trial_id": large,
                "replicate": replicate,
                "loss_sb": losses[0, 1],
                "loss_lb": losses[1, 1],
                "rise_sb": around[0],
                "rise_lb": around[1],
                "log_ratio": np.log(around[1] / around[0]) if (around > 0).all() else np.nan,
            }
        )
    return pd.DataFrame(table)


def parametric_sentence(plot: ParametricPlot) -> str:
    """Whether the training loss rises faster around LB, with an interval over replicates."""
    mean = mean_over_replicates(rises(plot), "log_ratio")
    return ratio_sentence(
        mean,
        f"Along the line between the minima, at {SIDE:g} of their distance, the training loss rises",
        plot.sizes,
    )


def ratio_sentence(log_ratio: Mean | None, start: str, sizes: tuple[int, int]) -> str:
    """`start` ... times as much around batch LB as around batch SB, with what the interval allows to be said."""
    small, large = sizes
    if log_ratio is None:
        return f"{start} by an amount that is not known around both ends: no comparison of batch {large} and {small}."
    text = (
        f"{start} {three_digits(float(np.exp(log_ratio.value)))} times as much around batch {large} as around {small}"
    )
    if log_ratio.interval is None:
        return f"{text} (one pair: no interval)."
    low, high = np.exp([log_ratio.interval.low, log_ratio.interval.high])
    interval = f"95 % interval [{three_digits(low)}, {three_digits(high)}] over {log_ratio.replicates} replicates"
    end = ": LB is sharper" if low > 1 else ": LB is flatter" if high < 1 else ", which contains 1: not significant"
    return f"{text} ({interval}){end}."
