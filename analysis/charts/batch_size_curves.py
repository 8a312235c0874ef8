"""Test metric, gap and sharpness against batch size, a line per learning rate (Keskar et al. 2017, figure 4).

Completed trials without a switch or a remedy only. A point averages over whatever else varies (warmup) inside a
replicate, then over replicates; its bar is the 95 % t-interval over replicates. The metric is averaged plainly,
sharpness by its logarithm (geometric mean). The bars of the metric hold the difficulty of the split, which all
batch sizes share, so bars that overlap do not speak against a gap; the gap's own bars do not hold it, as each
trial is paired with the reference of the same replicate, learning rate and warmup. A point that holds trials
off target is hollow. Points are set apart sideways by a few percent so that bars do not hide each other. A measure that
no trial has gets no panel.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis.charts.style import (
    GREY,
    draw_means,
    footnote,
    learning_rate_markers,
    legend_above,
    log_axis,
    new_figure,
    note,
    off_target_points,
    rank_colours,
    rows_of,
    set_aside,
    two_columns,
    two_lines,
)
from analysis.data.load import BOX_STRONG, MAX_EIG, Sweep, comparable
from analysis.data.metric import Metric
from analysis.data.sequential_design import SequentialDesign
from analysis.questions.free_batch import repeated
from analysis.stats.means import Mean, mean_over_replicates, paired_difference
from trainables.runtime.errors import UserError


@dataclass(frozen=True)
class Panel:
    """What a panel shows: a column or the gap of it, its label, the factor of its unit, its decimals as text, and
    whether its logarithm is averaged.
    """

    column: str
    label: str
    factor: float = 1.0
    decimals: int = 0
    log: bool = False
    is_gap: bool = False

    def mean(self, rows: pd.DataFrame, references: pd.DataFrame, design: SequentialDesign | None = None) -> Mean | None:
        """The mean of `rows` over replicates; of the large-batch gap, paired with `references`, as the sweep's `design`
        has looked at it."""
        if self.is_gap:
            return repeated(paired_difference(references, rows, self.column), design, rows, references)
        return mean_over_replicates(rows, self.column, scale="log" if self.log else "linear")


def metric_panel(metric: Metric) -> Panel:
    """The primary metric on the test set."""
    return Panel(metric.column, metric.label(), factor=metric.factor, decimals=metric.decimals - 1)


def gap_panel(metric: Metric) -> Panel:
    """The large-batch gap of the metric."""
    return Panel(metric.score, metric.gap_label, factor=metric.factor, decimals=metric.decimals, is_gap=True)


SHARPNESS = Panel(BOX_STRONG.column, BOX_STRONG.label, log=True)
EIGENVALUE = Panel(MAX_EIG.column, MAX_EIG.label, log=True)


def panels_of(metric: Metric) -> tuple[Panel, ...]:
    """The panels of a figure of means."""
    return metric_panel(metric), gap_panel(metric), SHARPNESS, EIGENVALUE


def measured(panels: Iterable[Panel], frame: pd.DataFrame) -> list[Panel]:
    """The panels that `frame` has values for: a measure that no trial has gets none."""
    return [panel for panel in panels if not panel.log or frame[panel.column].notna().any()]


def batch_size_curves(sweep: Sweep) -> Figure:
    """The figure. Raises UserError for fewer than two batch sizes among completed trials without switch or remedy."""
    frame = comparable(sweep)
    frame = frame[frame["is_plain"]]
    sizes = sorted(frame["batch_size"].unique().tolist())
    if len(sizes) < 2:
        raise UserError(
            "`results` must hold completed trials without a switch or a remedy at two batch sizes or more, "
            f"got {len(sizes)} batch sizes in {sweep.folder}"
        )
    references = frame[frame["is_reference"]]
    markers, colours = learning_rate_markers(frame["learning_rate"]), rank_colours(frame["learning_rate"])
    shown: list[Mean] = []
    panels = measured(panels_of(sweep.metric), frame)
    with new_figure(height=0.4 + 2.3 * rows_of(len(panels))) as figure:
        for axes, panel in zip(two_columns(figure, len(panels)), panels, strict=True):
            for rank, (rate, marker) in enumerate(markers.items()):
                rows = frame[frame["learning_rate"] == rate]
                by_size = {size: rows[rows["batch_size"] == size] for size in sizes}
                means = {size: panel.mean(part, references, sweep.sequential) for size, part in by_size.items()}
                known = {size: mean for size, mean in means.items() if mean is not None}
                shown += known.values()
                shift = 1 + set_aside(rank, len(markers), 0.05)
                colour = colours[rate]
                style = {
                    "color": colour,
                    "marker": marker,
                    "markersize": 4.5,
                    "label": f"learning rate {rate:g}",
                }
                draw_means(axes, [size * shift for size in known], list(known.values()), panel.factor, **style)
                hollow = [size for size in known if by_size[size]["off_target"].any()]
                values = [panel.factor * known[size].value for size in hollow]
                off_target_points(axes, [size * shift for size in hollow], values, colour, marker)
            if panel.is_gap:
                axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
            if panel.log and axes.has_data():
                log_axis(axes, "y")
            log_axis(axes, "x", at=sizes)
            axes.tick_params(axis="x", labelrotation=45 if len(sizes) > 8 else 0)
            axes.set_xlabel(sweep.batch_unit.label)
            axes.set_ylabel(two_lines(panel.label))
        legend_above(figure, most_columns=4)
        looks = " Intervals of the gap hold over all looks." if sweep.sequential else ""
        footnote(figure, note(shown, frame, sweep.trials, by=("batch_size", "learning_rate")) + looks)
    return figure
