"""Test metric over learning rate and warmup, beside the sharpness over time of the same cells; a row per batch size.

Warmup lets a training pass through its sharpest moments at a small learning rate, so that a larger peak rate survives
(Gilmer et al. 2022, arXiv 2110.04369). On the left each cell is the mean over replicates of its completed trials
without a switch or a remedy; a cell without one, such as where all diverged, stays blank. On the right is a line per
cell: the geometric mean over replicates of the measure along the run (--measure-every). It ends where the first
replicate ends, so that all of it is over the same trials. The colour is the learning rate, the marker is the warmup.

The measure is the largest Hessian eigenvalue where it was measured along the run, else the box sharpness.
"""

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.charts.batch_size_curves import metric_panel
from analysis.charts.learning_rate_heatmap import heat_map
from analysis.charts.style import (
    LABELS,
    LINE_COLOURS,
    MARKERS,
    footnote,
    heading,
    legend_key,
    log_axis,
    new_figure,
    note,
    two_lines,
)
from analysis.data.load import BOX_STRONG, MAX_EIG, Measure, Sweep, comparable
from analysis.stats.means import Mean
from trainables.runtime.errors import UserError

CELL = ["learning_rate", "warmup_steps", "warmup_epochs"]
LEAST = 2  # learning rates, warmups and moments of a run
MOST_BATCH_SIZES = 6
ALONG = (MAX_EIG, BOX_STRONG)


def warmup_heatmap(sweep: Sweep) -> Figure:
    """The figure.

    Raises UserError below two learning rates or two warmups, above MOST_BATCH_SIZES, and where nothing was measured
    along the runs.
    """
    frame = comparable(sweep)
    frame = frame[frame["is_plain"]].copy()
    frame["warmup_steps"] = frame["warmup_steps"].fillna(0)
    rates = sorted(frame["learning_rate"].unique().tolist(), reverse=True)
    warmups = sorted({(steps, epochs) for steps, epochs in frame[CELL[1:]].itertuples(index=False)})
    sizes = sorted(frame["batch_size"].unique().tolist())
    for name, found in (("learning rates", rates), ("warmups", warmups)):
        if len(found) < LEAST:
            raise UserError(
                f"`results` must hold completed plain trials at {LEAST} or more {name}, got {len(found)} in "
                f"{sweep.folder}"
            )
    if len(sizes) > MOST_BATCH_SIZES:
        raise UserError(
            f"`results` must hold at most {MOST_BATCH_SIZES} batch sizes for this figure, got {len(sizes)} in "
            f"{sweep.folder}"
        )
    measure, moments = along(sweep, frame)
    colours = {rate: LINE_COLOURS[place % len(LINE_COLOURS)] for place, rate in enumerate(reversed(rates))}
    markers = {warmup: MARKERS[place % len(MARKERS)] for place, warmup in enumerate(warmups)}
    shown: list[Mean] = []
    with new_figure(len(sizes) * max(1.7, 0.5 + 0.25 * len(rates)) + 0.9) as figure:
        grid = figure.subplots(len(sizes), 2, squeeze=False, width_ratios=(1, 1.5))
        for (left, right), size in zip(grid, sizes, strict=True):
            of_size = frame[frame["batch_size"] == size]
            shown += _cells(left, of_size, rates, warmups, sweep)
            for rate, warmup in itertools.product(rates, warmups):
                curve = curve_of(moments, _of_cell(of_size, rate, warmup)["trial_id"].tolist())
                style: Any = {"color": colours[rate], "marker": markers[warmup], "markersize": 2.5, "linewidth": 0.9}
                right.plot(curve.index.to_numpy(), curve.to_numpy(), **style)
            log_axis(right, "y")
            right.set_ylabel(two_lines(measure.label))
            right.set_title(f"batch size {size}: sharpness over time")
        grid[-1, 0].set_xlabel("warmup [epochs]" if not any(steps for steps, _ in warmups) else "warmup")
        grid[-1, 1].set_xlabel("epoch")
        keys = [heading(LABELS["learning_rate"])]
        keys += [legend_key(f"{rate:g}", color=colours[rate], linestyle="-") for rate in reversed(rates)]
        keys += [heading("warmup")]
        keys += [legend_key(_name(warmup), color="0.3", marker=markers[warmup]) for warmup in warmups]
        figure.legend(handles=keys, loc="outside upper center", ncols=min(len(keys), 9), frameon=False)
        means_only = note(shown, frame, sweep.trials, by=("batch_size", *CELL)).replace(" and 95 % t-intervals", "")
        footnote(figure, f"{means_only} Lines: geometric means, up to the end of the first replicate.")
    return figure


def along(sweep: Sweep, frame: pd.DataFrame) -> tuple[Measure, pd.DataFrame]:
    """The measure that the trials of `frame` have along their runs: `trial_id`, `epoch` and `value`, above 0.

    Raises UserError where there is none.
    """
    rows = sweep.measures[sweep.measures["trial_id"].isin(frame["trial_id"]) & (sweep.measures["value"] > 0)]
    for measure in ALONG:
        same = (
            (rows["measure"] == measure.measure) & (rows["method"] == measure.method) & (rows["space"] == measure.space)
        )
        if measure.epsilon is not None:
            same &= rows["epsilon"] == measure.epsilon
        found = rows[same].dropna(subset=["epoch"]).drop_duplicates(["trial_id", "epoch"])
        if not found.empty and found.groupby("trial_id").size().max() >= LEAST:
            return measure, found[["trial_id", "epoch", "value"]]
    names = " or ".join(measure.measure for measure in ALONG)
    raise UserError(
        f"`results` must hold trials with {names} measured along the run (--measure-every 1), got none in "
        f"{sweep.folder}"
    )


def curve_of(moments: pd.DataFrame, trials: list[str]) -> "pd.Series[float]":
    """By epoch, the geometric mean of the values of `trials` at moments that all of them have; those without any moment
    do not count.
    """
    rows = moments[moments["trial_id"].isin(trials)]
    by_epoch = np.log(rows.set_index(["epoch", "trial_id"])["value"]).unstack("trial_id").sort_index()
    return np.exp(by_epoch.dropna().mean(axis=1))


def _cells(axes: Axes, frame: pd.DataFrame, rates: list[float], warmups: list[Any], sweep: Sweep) -> list[Mean]:
    """Draws the heat map of one batch size; returns the means in it."""
    panel = metric_panel(sweep.metric)
    values, marks = np.full((len(rates), len(warmups)), np.nan), np.full((len(rates), len(warmups)), "")
    shown = []
    for (row, rate), (column, warmup) in itertools.product(enumerate(rates), enumerate(warmups)):
        rows = _of_cell(frame, rate, warmup)
        if (mean := panel.mean(rows, rows)) is not None:
            shown.append(mean)
            values[row, column] = panel.factor * mean.value
            marks[row, column] = "*" if rows["off_target"].any() else ""
    heat_map(axes, values, marks, panel)
    axes.set_xticks(range(len(warmups)), [_name(warmup) for warmup in warmups])
    axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axes.set_ylabel(LABELS["learning_rate"])
    axes.set_title(two_lines(panel.label))
    return shown


def _of_cell(frame: pd.DataFrame, rate: float, warmup: tuple[float, float]) -> pd.DataFrame:
    return frame[(frame[CELL] == [rate, *warmup]).all(axis=1)]


def _name(warmup: tuple[float, float]) -> str:
    steps, epochs = warmup
    return f"{steps:g} steps" if steps else f"{epochs:g}"
