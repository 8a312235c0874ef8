"""Loss and primary metric along the line and the arc between a small-batch and a large-batch minimum."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.charts.style import GREY, LINE_COLOURS, footnote, log_axis, new_figure, save
from analysis.data.load import Sweep
from analysis.data.metric import Metric
from analysis.minima.parametric_plot import KINDS, ParametricPlot, parametric_plot, parametric_sentence, rises
from trainables.storage.folders import write_atomically

COLOURS = {"train": LINE_COLOURS[0], "test": LINE_COLOURS[1]}
NAME = "parametric_plot"


def parametric_figure(plot: ParametricPlot) -> Figure:
    """Loss and primary metric along the line and the arc; the loss alone where `shown_metric` has no other values."""
    small, large = plot.sizes
    shown, missing = shown_metric(plot.rows, plot.metric)
    with new_figure(height=2.8 if shown is None else 4.8) as figure:
        panels = 1 if shown is None else 2
        axes = figure.subplots(panels, 2, sharey="row", width_ratios=(3, 2), squeeze=False)
        for column, kind in enumerate(KINDS):
            rows = plot.rows[plot.rows["kind"] == kind]
            for split, colour in COLOURS.items():
                one = rows[rows["split"] == split]
                _lines(axes[0, column], one.assign(value=one["loss"]), colour, log=True)
                if shown is not None:
                    _lines(axes[1, column], one.assign(value=shown[one.index]), colour, log=False)
            axes[0, column].set_title(f"{kind} path")
            axes[-1, column].set_xlabel(f"alpha (0: batch {small}, 1: batch {large})")
            for panel in axes[:, column]:
                for end in (0, 1):
                    panel.axvline(end, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
        log_axis(axes[0, 0], "y")
        axes[0, 0].set_ylabel(f"loss{plot.metric.loss_unit}")
        if shown is not None:
            axes[1, 0].set_ylabel(plot.metric.label(""))
        keys = [Line2D([], [], color=colour, label=f"{split} set") for split, colour in COLOURS.items()]
        figure.legend(handles=keys, loc="outside upper center", ncols=2, frameon=False)
        count = len(plot.pairs)
        what = "One pair of minima." if count == 1 else f"{count} pairs of minima (thin) and their mean."
        missed = f" {plot.off_target} of the {2 * count} minima are off target." if plot.off_target else ""
        footnote(figure, what + missed + missing)
    return figure


def shown_metric(rows: pd.DataFrame, metric: Metric) -> tuple[pd.Series | None, str]:
    """The primary metric at `rows` of profiles.parquet, as it is shown; or None, and a sentence that says why."""
    if metric.name in ("nats", "loss"):
        return None, " The primary metric is the loss."
    values = rows["accuracy" if metric.name == "accuracy" else "metric"].astype("float64")
    if values.isna().all():
        return None, f" profiles.parquet has no values of {metric.noun}; remove it to evaluate the points again."
    return metric.factor * values, ""


def _lines(axes: Axes, rows: pd.DataFrame, colour: str, *, log: bool) -> None:
    """A thin line for each pair, and their mean; of logarithms where `log`."""
    pairs = rows.groupby(["trial_id", "other_trial_id"], sort=False)
    for _, pair in pairs:
        axes.plot(pair["alpha"], pair["value"], color=colour, linewidth=0.6, alpha=0.45 if len(pairs) > 1 else 1.0)
    if len(pairs) > 1:
        values = np.log(rows["value"].astype("float64")) if log else rows["value"]
        mean = values.groupby(rows["alpha"]).mean()
        axes.plot(mean.index, np.exp(mean) if log else mean, color=colour, linewidth=1.8)


def write_parametric_plot(sweep: Sweep, **options: Any) -> list[object]:
    """Writes figures/parametric_plot.png, .svg and .csv; returns their paths and the sentence."""
    plot = parametric_plot(sweep, **options)
    paths = save(parametric_figure(plot), sweep.folder, NAME)
    table = paths[0].with_suffix(".csv")
    write_atomically(table, rises(plot).to_csv(index=False).encode())
    return [*paths, table, parametric_sentence(plot)]
