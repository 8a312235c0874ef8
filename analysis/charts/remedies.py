"""What each remedy gains, costs and flattens: a row per remedy and large batch."""

import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.charts.style import GREY, batch_size_colours, footnote, legend_key, log_axis, new_figure
from analysis.data.load import Sweep
from analysis.questions.remedies import remedies
from analysis.stats.means import Mean
from trainables.runtime.errors import UserError

LONGEST_NAME = 34  # letters in a line


def remedies_figure(sweep: Sweep) -> Figure:
    """A dot and interval per remedy and large batch: gain, box sharpness ratio, and training time ratio.

    Raises UserError where no remedy can be compared.
    """
    rows = remedies(sweep)[::-1]
    if not rows:
        raise UserError(
            "`results` must hold completed trials with a remedy or a switch, and plain ones at the same batch size, "
            f"got none to compare in {sweep.folder}"
        )
    colours = batch_size_colours([row.batch_size for row in rows])
    marks = [f"{' *' if row.helps else ''}{' †' if row.diverged else ''}" for row in rows]
    names = [textwrap.fill(row.name, LONGEST_NAME) + mark for row, mark in zip(rows, marks, strict=True)]
    lines = 1 + max(name.count("\n") for name in names)
    with new_figure(height=1.3 + (0.14 + 0.1 * lines) * len(rows)) as figure:
        metric = sweep.metric
        gains, flatness, cost = figure.subplots(1, 3, sharey=True, width_ratios=[1.6, 1, 1])
        for place, row in enumerate(rows):
            colour = colours[row.batch_size]
            _dot(gains, place, row.gain, colour, factor=metric.factor, hollow=row.off_target > 0)
            if row.gap is not None:
                gains.plot([metric.factor * row.gap.value], [place], marker="|", color="black", markersize=8)
            _dot(flatness, place, row.box_sharpness_ratio, colour)
            _dot(cost, place, row.seconds_ratio, colour)
            if row.steps_ratio is not None:
                cost.plot([row.steps_ratio.value], [place], marker="x", color=colour, markersize=4, linestyle="none")
        gains.axvline(0, color=GREY, linewidth=0.8, zorder=1)
        for axes in (flatness, cost):
            axes.axvline(1, color=GREY, linewidth=0.8, zorder=1)
            if axes.has_data():
                low, high = axes.get_xlim()
                decades = [10.0**k for k in range(-9, 10) if low <= 10.0**k <= high]
                log_axis(axes, "x", at=decades if len(decades) > 1 else None)
        gains.set_yticks(range(len(rows)), names)
        of = f"test {metric.noun}"
        gained = f"{of} gained" if metric.direction == "higher" else f"reduction of {of}"
        gains.set_xlabel("\n[".join(metric.difference_label(gained).rsplit(" [", 1)))
        flatness.set_xlabel("box sharpness,\nratio to plain")
        cost.set_xlabel("training time\n(×: steps),\nratio to plain")
        keys = [legend_key(f"{size}", marker="o", color=colour) for size, colour in colours.items()]
        keys.append(legend_key("the whole gap", marker="|", color="black"))
        figure.legend(
            handles=keys, loc="outside upper center", ncols=len(keys), frameon=False, title="large batch size"
        )
        replicates = max(row.gain.replicates for row in rows)
        footnote(
            figure,
            f"Against plain training at the same batch size, paired; 95 % t-intervals over {replicates} replicates "
            f"(gains: simultaneous).\n*: a gain that is significant after correction for {len(rows)} comparisons. "
            "Hollow: trials off target. †: trials diverged where plain training did not.",
        )
    return figure


def _dot(
    axes: Axes, place: float, mean: Mean | None, colour: object, *, factor: float = 1.0, hollow: bool = False
) -> None:
    if mean is None:
        return
    style: Any = {"color": colour, "linewidth": 0.9}
    if mean.interval is not None:
        axes.plot([factor * mean.interval.low, factor * mean.interval.high], [place, place], **style)
    face = "white" if hollow else colour
    axes.plot([factor * mean.value], [place], marker="o", markersize=4.5, markerfacecolor=face, **style)
