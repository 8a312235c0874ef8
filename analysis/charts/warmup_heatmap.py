"""Test metric over learning rate and warmup, beside the sharpness over time of the same cells; a row per batch size.

Warmup lets a training pass through its sharpest moments at a small learning rate, so that a larger peak rate survives
(Gilmer et al. 2022, arXiv 2110.04369). On the left each cell is the mean over replicates of its completed trials
without a switch or a remedy. A dagger marks a cell of which trials diverged; alone: none completed. On the right is a
line per cell: the geometric mean over replicates of the measure along the run (--measure-every). It ends where the
first replicate ends, so that all of it is over the same trials. The colour is the learning rate, the marker is the
warmup.

The measure is the largest Hessian eigenvalue where it was measured along the run, else the box sharpness.
"""

import itertools
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.charts.batch_size_curves import metric_panel
from analysis.charts.learning_rate_heatmap import cells_note, heat_map, mark
from analysis.charts.style import (
    LABELS,
    MARKERS,
    footnote,
    heading,
    legend_key,
    log_axis,
    new_figure,
    rank_colours,
    two_lines,
)
from analysis.data.load import BOX_STRONG, LARGEST, MAX_EIG, Measure, Sweep, attempted, comparable
from analysis.stats.means import Mean
from trainables.runtime.errors import UserError

CELL = ["learning_rate", "warmup_steps", "warmup_epochs"]
LEAST = 2  # learning rates, warmups and moments of a run
MOST_BATCH_SIZES = 6
KEYS_IN_ROW = 7  # of the legend
LINE = 22  # characters beside a panel
ALONG = (MAX_EIG, BOX_STRONG)


def warmup_heatmap(sweep: Sweep) -> Figure:
    """The figure.

    Raises UserError below two learning rates or two warmups, above MOST_BATCH_SIZES or as many warmups as there are
    markers, and where nothing was measured along the runs.
    """
    frame, tried = (_with_warmup(part) for part in (comparable(sweep), attempted(sweep)))
    rates = sorted(tried["learning_rate"].unique().tolist(), reverse=True)
    warmups = sorted({(steps, epochs) for steps, epochs in tried[CELL[1:]].itertuples(index=False)})
    sizes = sorted(tried["batch_size"].unique().tolist())
    for name, found in (("learning rates", rates), ("warmups", warmups)):
        if len(found) < LEAST:
            raise UserError(
                f"`results` must hold plain trials at {LEAST} or more {name}, got {len(found)} in {sweep.folder}"
            )
    for name, count, most in (
        ("batch sizes", len(sizes), MOST_BATCH_SIZES),
        ("warmups", len(warmups), len(MARKERS)),
    ):
        if count > most:
            raise UserError(f"`results` must hold at most {most} {name} for this figure, got {count} in {sweep.folder}")
    measure, moments = along(sweep, frame)
    colours = rank_colours(rates)
    markers = dict(zip(warmups, MARKERS, strict=False))
    shown: list[Mean] = []
    with new_figure(len(sizes) * max(1.7, 0.5 + 0.25 * len(rates)) + 0.9) as figure:
        grid = figure.subplots(len(sizes), 2, squeeze=False, width_ratios=(1, 1.5))
        for (left, right), size in zip(grid, sizes, strict=True):
            of_size = frame[frame["batch_size"] == size]
            shown += _cells(left, of_size, tried[tried["batch_size"] == size], rates, warmups, sweep)
            for rate, warmup in itertools.product(rates, warmups):
                curve = curve_of(moments, _of_cell(of_size, rate, warmup)["trial_id"].tolist())
                style: Any = {"color": colours[rate], "marker": markers[warmup], "markersize": 2.5, "linewidth": 0.9}
                right.plot(curve.index.to_numpy(), curve.to_numpy(), **style)
            log_axis(right, "y")
            right.set_ylabel(textwrap.fill(measure.label, LINE))
            right.set_title(f"batch size {size}: sharpness over time")
        grid[-1, 0].set_xlabel("warmup [epochs]" if not any(steps for steps, _ in warmups) else "warmup")
        grid[-1, 1].set_xlabel("epoch")
        rate_keys = [legend_key(f"{rate:g}", color=colours[rate], linestyle="-") for rate in reversed(rates)]
        warmup_keys = [legend_key(_name(warmup), color="0.3", marker=markers[warmup]) for warmup in warmups]
        _legend(figure, {LABELS["learning_rate"]: rate_keys, "warmup": warmup_keys})
        cells = cells_note(shown, frame, tried, sweep, by=("batch_size", *CELL))
        footnote(figure, f"{cells} Lines: geometric means, up to the end of the first replicate.")
    return figure


def _with_warmup(trials: pd.DataFrame) -> pd.DataFrame:
    """The plain ones of `trials`, with 0 warmup steps where the warmup is in epochs."""
    plain = trials[trials["is_plain"]]
    return plain.assign(warmup_steps=plain["warmup_steps"].fillna(0))


def _legend(figure: Figure, keys: dict[str, list[Line2D]]) -> None:
    """A row of keys with its heading for each kind, and further rows for more than KEYS_IN_ROW."""
    rows = []
    for name, of_kind in keys.items():
        for place in range(0, len(of_kind), KEYS_IN_ROW):
            rows.append([heading("" if place else name), *of_kind[place : place + KEYS_IN_ROW]])
    columns = itertools.zip_longest(*rows, fillvalue=heading(""))  # a legend is filled by columns
    handles = [key for column in columns for key in column]
    figure.legend(handles=handles, loc="outside upper center", ncols=max(map(len, rows)), frameon=False)


def along(sweep: Sweep, frame: pd.DataFrame) -> tuple[Measure, pd.DataFrame]:
    """The measure that the trials of `frame` have along their runs: `trial_id`, `epoch` and `value`, above 0 and up to
    LARGEST.

    Raises UserError where there is none.
    """
    rows = sweep.measures[sweep.measures["trial_id"].isin(frame["trial_id"])]
    rows = rows[(rows["value"] > 0) & (rows["value"] <= LARGEST)]
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


def _cells(
    axes: Axes, frame: pd.DataFrame, tried: pd.DataFrame, rates: list[float], warmups: list[Any], sweep: Sweep
) -> list[Mean]:
    """Draws the heat map of one batch size, of which `tried` are all trials; returns the means in it."""
    panel = metric_panel(sweep.metric)
    values, marks = np.full((len(rates), len(warmups)), np.nan), np.full((len(rates), len(warmups)), "", dtype="<U2")
    shown = []
    for (row, rate), (column, warmup) in itertools.product(enumerate(rates), enumerate(warmups)):
        rows = _of_cell(frame, rate, warmup)
        if (mean := panel.mean(rows, rows)) is not None:
            shown.append(mean)
            values[row, column] = panel.factor * mean.value
        marks[row, column] = mark(_of_cell(tried, rate, warmup))
    heat_map(axes, values, marks, panel)
    axes.set_xticks(range(len(warmups)), [_name(warmup).replace(" ", "\n") for warmup in warmups])
    axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axes.set_ylabel(LABELS["learning_rate"])
    axes.set_title(two_lines(panel.label))
    return shown


def _of_cell(frame: pd.DataFrame, rate: float, warmup: tuple[float, float]) -> pd.DataFrame:
    return frame[(frame[CELL] == [rate, *warmup]).all(axis=1)]


def _name(warmup: tuple[float, float]) -> str:
    steps, epochs = warmup
    return f"{steps:g} steps" if steps else f"{epochs:g}"
