"""Steps to a goal against batch size on logarithmic axes, the perfect-scaling line, and the share that reaches it."""

import numpy as np
from matplotlib.figure import Figure

from analysis.charts.style import (
    GREY,
    LINE_COLOURS,
    bounds_note,
    draw_with_bounds,
    footnote,
    legend_above,
    log_axis,
    new_figure,
    two_lines,
)
from analysis.data.runs import Runs
from analysis.questions.steps_to_result import OVERHEAD, StepsToResult
from analysis.stats.wording import exact_number, in_words


def steps_to_result_figure(runs: Runs, goals: list[StepsToResult]) -> Figure:
    """A line for each goal: steps, examples relative to the smallest batch, and the share that reaches the goal."""
    sizes = sorted({row.batch_size for found in goals for row in found.rows})
    with new_figure(height=3.0) as figure:
        steps, overhead, share = figure.subplots(1, 3)
        for found, colour in zip(goals, LINE_COLOURS * len(goals), strict=False):
            rows = [row for row in found.rows if row.steps is not None]
            x, means = [row.batch_size for row in rows], [row.steps for row in rows if row.steps is not None]
            label = exact_number(found.goal)
            bounds = [row.batch_size for row in rows if row.is_bound]
            draw_with_bounds(steps, dict(zip(x, means, strict=True)), bounds, colour, label)
            span = np.array([x[0], x[-1]], dtype=float)
            span[1] = min(span[1], x[0] * means[0].value / min(mean.value for mean in means) * 1.5)
            steps.plot(span, means[0].value * x[0] / span, color=colour, linewidth=0.8, linestyle=":")
            known = {row.batch_size: row.overhead for row in rows if row.overhead is not None}
            draw_with_bounds(overhead, known, x if rows[0].is_bound else bounds, colour, label)
            reached = [100 * row.reached / row.tried for row in found.rows]
            share.plot([row.batch_size for row in found.rows], reached, color=colour, marker="o", markersize=4)
        overhead.axhline(OVERHEAD, color=GREY, linewidth=0.9, linestyle="--")
        for axes in (steps, overhead, share):
            log_axis(axes, "x", at=sizes)
            axes.set_xlabel(two_lines(runs.batch_unit.label))
        log_axis(steps, "y")
        log_axis(overhead, "y")
        steps.set_ylabel("steps to the goal")
        overhead.set_ylabel(f"{runs.batch_unit.of_data}, relative to\nthe smallest batch")
        share.set_ylabel(f"{goals[0].rows[0].counted} that\nreach the goal [%]")
        share.set_ylim(-3, 103)
        legend_above(figure, most_columns=len(goals), title=f"goal: {in_words(runs.metric)}")
        counts = sorted({row.steps.replicates for found in goals for row in found.rows if row.steps is not None})
        over = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        bars = f"Geometric means and 95 % intervals over {over} replicates" if counts[-1] > 1 else "One replicate"
        lines = f"Dotted: perfect scaling. Dashed: {100 * (OVERHEAD - 1):.0f} % more {runs.batch_unit.of_data}."
        note = bounds_note(any(row.is_bound for found in goals for row in found.rows))
        note += " Hollow ratios are of such bounds." if note else ""
        footnote(figure, f"{lines} {bars}, at each batch size's fastest setting.{note}")
    return figure
