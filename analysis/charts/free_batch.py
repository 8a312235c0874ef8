"""What each batch size loses against the smallest one, with the margin of non-inferiority."""

from typing import Any

from matplotlib.figure import Figure

from analysis.charts.style import (
    GREY,
    LINE_COLOURS,
    draw_means,
    footnote,
    legend_above,
    log_axis,
    new_figure,
    set_aside,
)
from analysis.data.load import Sweep
from analysis.questions.free_batch import free_batch
from trainables.runtime.errors import UserError


def free_batch_figure(sweep: Sweep) -> Figure:
    """What each batch size loses, matched and tuned, with the one-sided 95 % interval and the margin.

    Raises UserError where there are no two batch sizes to compare.
    """
    found = [result for result in (free_batch(sweep, "matched"), free_batch(sweep, "tuned")) if result is not None]
    if not found:
        raise UserError(
            "`results` must hold completed trials without a switch or a remedy at two batch sizes or more, "
            f"got none to compare in {sweep.folder}"
        )
    metric, shown = sweep.metric, [[row for row in result.rows if row.lost is not None] for result in found]
    sizes = [found[0].reference, *sorted({row.batch_size for rows in shown for row in rows})]
    with new_figure(height=2.9) as figure:
        axes = figure.subplots()
        for rank, result in enumerate(found):
            shift, colour = 1 + set_aside(rank, len(found), 0.05), LINE_COLOURS[rank]
            label = "same settings" if result.comparison == "matched" else f"its own setting, by {result.chosen_by}"
            x = [row.batch_size * shift for row in shown[rank]]
            means = [row.lost for row in shown[rank] if row.lost is not None]
            style: dict[str, Any] = {"color": colour, "marker": "o", "linestyle": "none", "markersize": 4.5}
            draw_means(axes, x, means, factor=metric.factor, label=label, **style)
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        if found[0].margin is not None:
            at = metric.factor * found[0].margin
            axes.axhline(at, color="black", linewidth=0.9, linestyle="--", label="margin")
        log_axis(axes, "x", at=sizes)
        axes.set_xlabel(sweep.batch_unit.label)
        against = metric.difference_label(f"batch {found[0].reference}")
        if metric.direction == "higher":
            axes.set_ylabel(f"test {metric.noun} lost against\n{against}")
        else:
            axes.set_ylabel(f"test {metric.noun} above that of\n{against}")
        legend_above(figure, most_columns=4)
        replicates = max(row.lost.replicates for rows in shown for row in rows if row.lost is not None)
        free = " Below the margin as a whole: free." if found[0].margin is not None else ""
        kind = "t-intervals over" if sweep.sequential is None else "intervals that hold over all looks, with up to"
        footnote(figure, f"95 % {kind} {replicates} replicates.{free}")
    return figure
