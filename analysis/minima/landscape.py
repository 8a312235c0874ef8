"""The loss around small-batch and large-batch minima along filter-normalized random directions (Li et al. 2018).

For any sweep that ran with --keep-weights. Lines: alpha in [-1, 1] along 5 random directions around every minimum,
training and test set; thin a minimum (the mean over its directions), thick their mean (of the loss geometric). Planes:
two directions around the two minima of the first pair, the training loss as contours and as a surface. At alpha 1
every filter has moved by its own norm. The Gaussian numbers behind the directions are the same around every minimum.
The points are kept in profiles.parquet; how they are made, and what batch norm does there, stands in
analysis/minima/profiles.py.

Trap: random directions in many dimensions miss nearly all of the sharpest ones (Li et al. show the same pictures for
networks whose largest eigenvalues differ).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.load import Sweep, comparable
from analysis.data.metric import Metric
from analysis.minima.pairs import MinimumPair, minimum_pairs
from analysis.minima.parametric_plot import alphas, ratio_sentence
from analysis.minima.profiles import Point, profiles
from analysis.stats.means import mean_over_replicates
from trainables.runtime.errors import UserError
from trainables.sharpness.model_loss import BatchNorm

POINTS = 25
DIRECTIONS = 5
DISTANCE = 0.5  # at which the two are compared in words, and how far the planes reach


@dataclass(frozen=True)
class Landscape:
    """The minima, and the rows of profiles.parquet around them, each with its `end` of a pair and `replicate`."""

    pairs: tuple[MinimumPair, ...]
    lines: pd.DataFrame
    planes: pd.DataFrame
    sizes: tuple[int, int]
    directions: int
    metric: Metric


def landscape(
    sweep: Sweep,
    *,
    pair: Sequence[str] | None = None,
    points: int = POINTS,
    directions: int = DIRECTIONS,
    batch_norm: BatchNorm = "recalibrated",
    **place: Any,
) -> Landscape:
    """Evaluates what is missing (`place`: see `profiles`). Raises UserError as `minimum_pairs` and `profiles`."""
    if directions < 1:
        raise UserError(f"`directions` must be 1 or more, got {directions}")
    line, side = _around(1.0, points), _around(DISTANCE, points)
    pairs = minimum_pairs(sweep, pair)
    ends = {trial: (end, one.replicate) for one in pairs for end, trial in (("small", one.small), ("large", one.large))}
    first = (pairs[0].small, pairs[0].large)
    on_lines = [
        Point(trial_id=trial, kind="random_line", direction_seed=seed, alpha=alpha, batch_norm=batch_norm)
        for trial in ends
        for seed in range(directions)
        for alpha in line
    ]
    in_planes = [
        Point(trial_id=trial, kind="random_plane", direction_seed=0, alpha=alpha, beta=beta, batch_norm=batch_norm)
        for trial in first
        for alpha in side
        for beta in side
    ]
    lines = profiles(sweep.folder, on_lines, **place)
    lines = lines.assign(
        end=[ends[trial][0] for trial in lines["trial_id"]],
        replicate=[ends[trial][1] for trial in lines["trial_id"]],
    )
    planes = profiles(sweep.folder, in_planes, splits=("train",), **place)
    sizes = comparable(sweep).set_index("trial_id").loc[list(first), "batch_size"].tolist()
    return Landscape(tuple(pairs), lines, planes, (int(sizes[0]), int(sizes[1])), directions, sweep.metric)


def _around(distance: float, points: int) -> list[float]:
    """Steps from -distance to distance, with 0 and the places where the two minima are compared."""
    return sorted({*alphas(-distance, distance, points), 0.0, -DISTANCE, DISTANCE})


def random_rises(found: Landscape) -> pd.DataFrame:
    """For each minimum the training loss at its centre and its mean rise at DISTANCE, over directions and both ways."""
    train = found.lines[found.lines["split"] == "train"]
    centre = train[train["alpha"] == 0].groupby("trial_id", sort=False)["loss"].first()
    there = train[train["alpha"].abs() == DISTANCE].groupby(["trial_id", "end", "replicate"], sort=False)["loss"].mean()
    table: pd.DataFrame = there.rename("loss_there").reset_index()
    table["loss_centre"] = table["trial_id"].map(centre)
    table["rise"] = table["loss_there"] - table["loss_centre"]
    return table


def landscape_sentence(found: Landscape) -> str:
    """Whether the training loss rises faster around LB along random directions, with an interval over replicates."""
    rise = random_rises(found).set_index("trial_id")["rise"]
    ratios = [
        {"replicate": one.replicate, "log_ratio": np.log(rise[one.large] / rise[one.small])}
        for one in found.pairs
        if rise[one.small] > 0 and rise[one.large] > 0
    ]
    mean = mean_over_replicates(pd.DataFrame(ratios, columns=["replicate", "log_ratio"]), "log_ratio")
    start = (
        f"Along {found.directions} random directions, at {DISTANCE:g} of every filter's norm, the training loss rises"
    )
    return ratio_sentence(mean, start, found.sizes)
