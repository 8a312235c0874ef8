"""Sharpness along the run: box sharpness against the training loss of the same moment, and the way from the start.

Epochs of small and large batches are not alike, so runs are compared at equal training loss. Between two measurements
log sharpness is interpolated linearly in log loss; a run is at a loss when it first falls through it. Ratios are paired
inside replicates, with 95 % t-intervals. In the paper (Keskar et al. 2017, section 4) sharpness grows along large-batch
runs once the loss is small and falls along small-batch runs, and the small batch ends 3 to 10 times as far from the
start as the large one.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.charts.style import (
    batch_size_colours,
    footnote,
    legend_key,
    log_axis,
    new_figure,
    save,
    two_lines,
)
from analysis.cli.text_table import text_table
from analysis.data.load import BOX_STRONG, Sweep, comparable, load_sweep
from analysis.paper.comparison import answered, small_and_large, wrapped, write_table
from analysis.reporting.summary import with_interval
from analysis.stats.means import Mean, mean_over_replicates, paired_difference
from analysis.stats.wording import plain_number
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath

LOSSES = tuple(round(digit * 10.0**power, 5) for power in range(0, -6, -1) for digit in (3, 1))
COLUMN = BOX_STRONG.column
LEAST_MOMENTS = 2


def along(sweep: Sweep) -> pd.DataFrame:
    """A row per measured moment of a plain trial: its `epoch`, `train_loss` and `box_sharpness` then, and its trial's
    `batch_size`, `replicate` and `matched_set`; in order of time.

    Raises UserError where no trial was measured along its run, or one of the two batches is missing.
    """
    small, large = small_and_large(comparable(sweep), sweep)
    rows = sweep.measures
    same = (rows["measure"] == "box_sharpness") & (rows["method"] == "strong") & (rows["space"] == "full")
    rows = rows[same & (rows["epsilon"] == BOX_STRONG.epsilon)].rename(columns={"value": COLUMN})
    rows = rows[["trial_id", "epoch", COLUMN]].drop_duplicates(["trial_id", "epoch"])
    rows = rows.merge(sweep.epochs[["trial_id", "epoch", "train_loss"]], on=["trial_id", "epoch"])
    both = pd.concat([small, large])[["trial_id", "batch_size", "replicate", "matched_set"]]
    rows = rows[(rows[COLUMN] > 0) & (rows["train_loss"] > 0)].merge(both, on="trial_id")
    if rows.empty or rows.groupby("trial_id").size().max() < LEAST_MOMENTS:
        raise UserError(
            f"`results` must hold trials measured along the run (--measure-every), got none in {sweep.folder}"
        )
    return rows.sort_values(["batch_size", "replicate", "epoch"])


def at_losses(moments: pd.DataFrame) -> pd.DataFrame:
    """Box sharpness of each run where it first falls through each of LOSSES: column `level`, a row where it does."""
    found = []
    for trial, run_of in moments.groupby("trial_id", sort=False):
        log_loss, log_sharpness = np.log(run_of["train_loss"].to_numpy()), np.log(run_of[COLUMN].to_numpy())
        for level in LOSSES:
            below = np.flatnonzero(log_loss <= np.log(level))
            if below.size == 0 or below[0] == 0:
                continue
            after, before = below[0], below[0] - 1
            part = (log_loss[before] - np.log(level)) / (log_loss[before] - log_loss[after])
            value = np.exp(log_sharpness[before] + part * (log_sharpness[after] - log_sharpness[before]))
            about = run_of.iloc[0][["batch_size", "replicate", "matched_set"]].to_dict()
            found.append({"trial_id": trial, **about, "level": level, COLUMN: value})
    return pd.DataFrame(found, columns=["trial_id", "batch_size", "replicate", "matched_set", "level", COLUMN])


@dataclass(frozen=True)
class SharedLosses:
    """Box sharpness [%] of the small and the large of two batch `sizes` where both are at the same training loss.

    `rows`: the loss, both means, and the ratio of the large batch's to the small one's, paired. `moments`: `at_losses`.
    """

    sizes: tuple[int, int]
    rows: list[tuple[float, Mean | None, Mean | None, Mean]]
    moments: pd.DataFrame

    def of(self, size: int) -> pd.DataFrame:
        return self.moments[self.moments["batch_size"] == size]


def at_shared_losses(sweep: Sweep) -> SharedLosses:
    """Both batches at those of LOSSES that some replicate shares. Raises UserError as `along`."""
    moments = along(sweep)
    sizes = int(moments["batch_size"].min()), int(moments["batch_size"].max())
    found = SharedLosses(sizes, [], at_losses(moments))
    for level in LOSSES:
        small, large = (found.of(size)[found.of(size)["level"] == level] for size in sizes)
        ratio = paired_difference(large, small, COLUMN, scale="log")
        if ratio is not None:
            first, last = (mean_over_replicates(part, COLUMN, scale="log") for part in (small, large))
            found.rows.append((level, first, last, ratio))
    return found


def evolution(sweep: Sweep) -> Figure:
    """Sharpness against training loss, and distance from the start against it; a line per trial."""
    moments = along(sweep)
    epochs = sweep.epochs[sweep.epochs["trial_id"].isin(moments["trial_id"])]
    sizes = moments.drop_duplicates("trial_id").set_index("trial_id")["batch_size"]
    colours = batch_size_colours(sizes.tolist())
    with new_figure(height=3.2) as figure:
        sharpness, distance = figure.subplots(1, 2)
        for trial, size in sizes.items():
            rows = moments[moments["trial_id"] == trial]
            style = {"color": colours[size], "linewidth": 0.8, "alpha": 0.8}
            sharpness.plot(rows["train_loss"], rows[COLUMN], marker="o", markersize=2, **style)
            run_of = epochs[epochs["trial_id"] == trial].sort_values("epoch")
            distance.plot(run_of["train_loss"], run_of["distance"], **style)
        for axes, label in ((sharpness, BOX_STRONG.label), (distance, "l2 distance of the weights, from the start")):
            log_axis(axes, "y")
            log_axis(axes, "x")
            axes.invert_xaxis()
            axes.set_xlabel("training loss [nats] (training goes to the right)")
            axes.set_ylabel(two_lines(label))
        keys = [legend_key(f"{size}", color=colour, linestyle="-") for size, colour in colours.items()]
        figure.legend(
            handles=keys, loc="outside upper center", ncols=len(keys), frameon=False, title=sweep.batch_unit.label
        )
        footnote(figure, "A line for each trial.")
    return figure


def distance_ratio(sweep: Sweep) -> Mean | None:
    """Distance from the start of the small batch's final weights over the large batch's, geometric."""
    small, large = small_and_large(comparable(sweep), sweep)
    return paired_difference(small, large, "distance", scale="log")


def report(folder: AnyPath) -> list[str]:
    """Writes figure and table; returns the lines of the answer."""
    sweep = load_sweep(folder)
    found = at_shared_losses(sweep)
    first, last = found.sizes
    save(evolution(sweep), folder, "evolution")
    write_table(folder, "evolution", ["train_loss", f"batch_{first}", f"batch_{last}", "ratio"], found.rows)
    table = [["training loss", f"batch {first} [%]", f"batch {last} [%]", "ratio", "runs"]]
    for level, *means, ratio in found.rows:
        table.append(
            [f"{level:g}", *(with_interval(mean) for mean in means), with_interval(ratio), str(ratio.replicates)]
        )
    lines = [
        *text_table(table),
        f"Box sharpness, epsilon 1e-3, strong; ratio: batch {last} over {first}, paired, 95 % t-intervals.",
        "",
    ]
    levels = [row[0] for row in found.rows]
    sentences = [*_course(first, found.of(first), levels), *_course(last, found.of(last), levels)]
    if not levels:
        sentences = ["The two batches share no training loss, so their sharpness cannot be compared."]
    return [*lines, *wrapped(*sentences, *_distance(distance_ratio(sweep), first, last))]


def _course(size: int, part: pd.DataFrame, levels: list[float]) -> list[str]:
    """How sharpness has changed from the first shared loss to the last."""
    if len(levels) < LEAST_MOMENTS:
        return []
    change = paired_difference(part[part["level"] == levels[-1]], part[part["level"] == levels[0]], COLUMN, scale="log")
    return [
        f"Batch {size}: from loss {plain_number(levels[0])} to {plain_number(levels[-1])} box sharpness changes by the "
        f"factor {with_interval(change)}."
    ]


def _distance(ratio: Mean | None, small: int, large: int) -> list[str]:
    if ratio is None:
        return []
    farther = None if ratio.interval is None or ratio.interval.holds(1) else ratio.interval.low > 1
    return [
        f"Distance from the start, batch {small} over batch {large}: {with_interval(ratio)} (farther: "
        f"{answered(farther)}; in the paper 3 to 10)."
    ]
