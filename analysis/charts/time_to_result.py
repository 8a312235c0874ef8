"""Time to a goal against batch size, and the Pareto curve of time against examples."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.charts.style import LINE_COLOURS, draw_means, footnote, legend_above, log_axis, new_figure
from analysis.data.batch_unit import EXAMPLES, BatchUnit
from analysis.questions.time_to_result import TimeToResult
from analysis.stats.wording import exact_number, in_words


def time_to_result_figure(
    goals: Sequence[TimeToResult], metric: str, price_per_hour: float | None = None, *, unit: BatchUnit = EXAMPLES
) -> Figure:
    """A line for each goal and part of the sweep. Left: seconds to it; right: seconds against examples or tokens,
    hollow where not on the front. Triangles: upper bounds."""
    sizes = sorted({row.batch_size for found in goals for row in found.rows})
    curves = [(found.goal, part) for found in goals for part in dict.fromkeys(row.part for row in found.rows)]
    several = len(goals) > 1
    with new_figure(height=3.2 + 0.2 * (max(len(curves) - 3, 0) // 3)) as figure:
        time, front = figure.subplots(1, 2)
        for (goal, part), colour in zip(curves, LINE_COLOURS * len(curves), strict=False):
            rows = next(found for found in goals if found.goal == goal).rows_of(part)
            label = exact_number(goal) if not part else f"{part} to {exact_number(goal)}" if several else part
            x, means = [row.batch_size for row in rows], [row.seconds for row in rows]
            exact = [place for place, row in enumerate(rows) if not row.is_bound]
            draw_means(time, x, means, color=colour, marker="o", markersize=4, markevery=exact, label=label)
            data = [row.examples.value * unit.per_example for row in rows]
            front.plot(data, [row.seconds.value for row in rows], color=colour, linewidth=0.8, alpha=0.5)
            for row, needed in zip(rows, data, strict=True):
                fill, place = colour if row.on_front else "white", (needed, row.seconds.value)
                front.plot(*place, "v" if row.is_bound else "o", color=colour, markerfacecolor=fill, markersize=5)
                if row.is_bound:
                    time.plot(row.batch_size, row.seconds.value, "v", color=colour, markersize=5)
                front.annotate(f" {row.batch_size}", place, textcoords="offset points", xytext=(3, 3), fontsize=7)
        log_axis(time, "x", at=sizes)
        log_axis(time, "y")
        log_axis(front, "x")
        log_axis(front, "y")
        time.set_xlabel(unit.label)
        time.set_ylabel("time to the goal [s]")
        front.set_xlabel(f"{unit.of_data} to the goal")
        front.set_ylabel("time to the goal [s]")
        of_one = f"{in_words(metric)} {exact_number(goals[0].goal)}"
        title = f"goal: {in_words(metric) if several or not curves[0][1] else of_one}"
        legend_above(figure, most_columns=min(len(curves), 3), title=title)
        price = "" if price_per_hour is None else f" One hour costs {price_per_hour:g}."
        has_bounds = any(row.is_bound for found in goals for row in found.rows)
        bounds = " Triangles: upper bounds, as a run was at the goal when first evaluated." if has_bounds else ""
        footnote(
            figure,
            "Geometric means and 95 % intervals. Right: labels are batch sizes; hollow: another batch size needs both "
            f"less time and fewer {unit.of_data}.{bounds}{price}",
        )
    return figure
