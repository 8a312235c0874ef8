"""Test accuracy and box sharpness against batch size, with the threshold batch size (Keskar et al. 2017, figure 4).

The paper's figure, with what it leaves to the eye: left the accuracy, with the broken line and the threshold of
analysis.questions.threshold_batch where there is one; right the box sharpness by both methods. Plain completed trials;
means over replicates with 95 % t-intervals, of sharpness by its logarithm. The intervals of accuracy hold the luck of
each split, which all batch sizes share; the gap in the table is paired and does not. Hollow points hold trials off
target.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.charts.batch_size_curves import SHARPNESS, Panel, gap_panel, metric_panel
from analysis.charts.style import (
    GREY,
    LINE_COLOURS,
    draw_means,
    footnote,
    log_axis,
    new_figure,
    note,
    off_target_points,
    save,
)
from analysis.data.load import BOX_PAPER, Sweep, comparable
from analysis.data.metric import Metric
from analysis.questions.threshold_batch import threshold_batch, threshold_sentence
from analysis.reporting.summary import plus_minus
from analysis.stats.means import Mean
from trainables.runtime.errors import UserError
from trainables.storage.folders import write_atomically

PAPER = Panel(BOX_PAPER.column, BOX_PAPER.label, log=True)
NAME = "keskar_figure4"


def panels(metric: Metric) -> dict[str, Panel]:
    """What is shown, by the name of its quantity in the table."""
    return {
        metric.column: metric_panel(metric),
        "large_batch_gap": gap_panel(metric),
        "box_sharpness": SHARPNESS,
        "box_sharpness_paper": PAPER,
    }


def by_batch_size(sweep: Sweep) -> dict[str, dict[int, Mean]]:
    """The means of `panels` by batch size. Raises UserError for fewer than two batch sizes among plain trials."""
    frame = comparable(sweep)
    frame = frame[frame["is_plain"]]
    sizes = sorted(frame["batch_size"].unique().tolist())
    if len(sizes) < 2:
        raise UserError(
            "`results` must hold completed trials without a switch or a remedy at two batch sizes or more, "
            f"got {len(sizes)} batch sizes in {sweep.folder}"
        )
    references = frame[frame["is_reference"]]
    rows = {size: frame[frame["batch_size"] == size] for size in sizes}
    found = {
        name: {size: panel.mean(rows[size], references) for size in sizes}
        for name, panel in panels(sweep.metric).items()
    }
    return {name: {size: mean for size, mean in of.items() if mean is not None} for name, of in found.items()}


def keskar_figure4(sweep: Sweep) -> Figure:
    """The figure. Raises UserError as `by_batch_size`."""
    means, shown, metric = by_batch_size(sweep), panels(sweep.metric), sweep.metric
    frame = comparable(sweep)
    frame = frame[frame["is_plain"]]
    off = set(frame.loc[frame["off_target"], "batch_size"])
    sizes = list(means[metric.column])
    with new_figure(height=3.4) as figure:
        left, right = figure.subplots(1, 2)
        drawn_threshold = _threshold(left, sweep, sizes)
        drawn = (
            (left, metric.column, ""),
            (right, "box_sharpness", "strong"),
            (right, "box_sharpness_paper", "paper"),
        )
        for rank, (axes, name, label) in enumerate(drawn):
            of, panel, colour = means[name], shown[name], LINE_COLOURS[rank]
            style = {"color": colour, "marker": "o", "markersize": 4.5, "label": label}
            draw_means(axes, list(of), list(of.values()), panel.factor, **style)
            hollow = [size for size in of if size in off]
            off_target_points(axes, hollow, [panel.factor * of[size].value for size in hollow], colour, "o")
        for axes in (left, right):
            log_axis(axes, "x", at=sizes)
            axes.tick_params(axis="x", labelrotation=45 if len(sizes) > 8 else 0)
            axes.set_xlabel(sweep.batch_unit.label)
        left.set_ylabel(metric.label())
        right.set_ylabel("box sharpness, epsilon 1e-3 [%]")
        if means["box_sharpness"] or means["box_sharpness_paper"]:
            log_axis(right, "y")
            right.legend(frameon=False, title="method", loc="best")  # the default, which warns on a busy machine
        text = note(list(means[metric.column].values()), frame, sweep.trials, by=("batch_size",))
        footnote(figure, text + drawn_threshold)
    return figure


def _threshold(axes: Axes, sweep: Sweep, sizes: list[int]) -> str:
    """Draws the broken line, the threshold and its interval where there is one; returns what they are, or why not."""
    try:
        found = threshold_batch(sweep)
    except UserError:
        return ""
    if found.threshold is None or not found.is_located:
        return f" {threshold_sentence(sweep)}"
    curve = np.geomspace(sizes[0], sizes[-1], 300)
    beyond = np.maximum(0.0, np.log2(curve / found.threshold.value))
    unit = sweep.metric.sign * sweep.metric.factor
    axes.plot(curve, unit * (found.level - found.slope.value * beyond), color=GREY, zorder=1)
    axes.axvline(found.threshold.value, color="black", linewidth=0.9, linestyle="--")
    if found.threshold.interval is not None:
        axes.axvspan(found.threshold.interval.low, found.threshold.interval.high, color="0.9", zorder=0)
    return " Grey: broken line; dashed: threshold, with its interval."


def write_figure4(sweep: Sweep) -> list[object]:
    """Writes figures/keskar_figure4.png, .svg and .csv; returns their paths, a table and the threshold in words."""
    paths = save(keskar_figure4(sweep), sweep.folder, NAME)
    means, shown, metric = by_batch_size(sweep), panels(sweep.metric), sweep.metric
    rows = [
        {"batch_size": size, "quantity": name, **_numbers(mean, shown[name].factor)}
        for name, of in means.items()
        for size, mean in of.items()
    ]
    table = paths[0].with_suffix(".csv")
    write_atomically(table, pd.DataFrame(rows).to_csv(index=False).encode())
    heads = metric.label(), f"gap [{metric.unit}]" if metric.unit else "gap"
    wide = max(17, len(heads[0])), max(16, len(heads[1]))
    lines = [f"batch size  {heads[0]:<{wide[0]}}  {heads[1]:<{wide[1]}}  box sharpness strong / paper [%]"]
    for size, level in means[metric.column].items():
        gap, strong, paper = (means[name].get(size) for name in list(shown)[1:])
        cells = plus_minus(metric, level), plus_minus(metric, gap) if size != min(means[metric.column]) else "reference"
        lines.append(f"{size:>10}  {cells[0]:<{wide[0]}}  {cells[1]:<{wide[1]}}  {_value(strong)} / {_value(paper)}")
    return [*lines, threshold_sentence(sweep), *paths, table]


def _numbers(mean: Mean, factor: float) -> dict[str, float | int | None]:
    ends = [factor * end for end in (mean.interval.low, mean.interval.high)] if mean.interval else [None, None]
    return {"mean": factor * mean.value, "low": ends[0], "high": ends[1], "replicates": mean.replicates}


def _value(mean: Mean | None) -> str:
    return "–" if mean is None else f"{mean.value:.3g}"
