"""Steps, loss after equal examples, and seconds against batch size: a line for each optimizer, a row for each goal."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.charts.style import (
    LINE_COLOURS,
    bounds_note,
    draw_with_bounds,
    footnote,
    legend_above,
    log_axis,
    new_figure,
    two_lines,
)
from analysis.questions.optimizer_ladder import LadderAtGoal, RungAtGoal
from analysis.questions.steps_to_result import StepsAtBatch
from analysis.stats.wording import exact_number, in_words, plain_number


def optimizer_ladder_figure(goals: Sequence[LadderAtGoal]) -> Figure:
    """`goals` are those that an optimizer has reached."""
    sizes = sorted({size for one in goals for rung in one.rungs for size in (*rung.settings, *rung.losses)})
    unit = goals[0].rungs[0].tuned.runs.batch_unit
    reaching = {rung.name for one in goals for rung in one.rungs if rung.tuned.found is not None}
    with new_figure(height=0.7 + 2.3 * len(goals)) as figure:
        for one, panels in zip(goals, figure.subplots(len(goals), 3, squeeze=False), strict=True):
            for rung, colour in zip(one.rungs, LINE_COLOURS * len(one.rungs), strict=False):
                rows = _rows(rung)
                name = rung.name if rung.name in reaching else f"{rung.name} (does not reach it)"
                steps = {row.batch_size: row.steps for row in rows if row.steps is not None}
                bounds = [row.batch_size for row in rows if row.is_bound]
                for axes, values, hollow in zip(
                    panels, (steps, rung.losses, rung.seconds), (bounds, (), bounds), strict=True
                ):
                    draw_with_bounds(axes, values, hollow, colour, name)
            metric = in_words(one.rungs[0].tuned.runs.metric)
            labels = (
                f"steps to a {metric} of {exact_number(one.goal)}",
                f"{metric} after\n{plain_number((one.examples or 0) * unit.per_example)} {unit.of_data}",
                f"seconds to a {metric} of {exact_number(one.goal)}",
            )
            for axes, label in zip(panels, labels, strict=True):
                log_axis(axes, "x", at=sizes)
                axes.set_ylabel(label)
                axes.set_xlabel(two_lines(unit.label))
            for axes in (panels[0], panels[2]):
                log_axis(axes, "y")
        legend_above(figure, most_columns=3)
        replicates = max(rung.tuned.runs.about["replicate"].nunique() for one in goals for rung in one.rungs)
        bars = f"Means and 95 % intervals over {replicates} replicates" if replicates > 1 else "One replicate"
        footnote(
            figure,
            f"{bars}, each optimizer at the fastest setting of each batch size. Seconds include evaluations."
            f"{bounds_note(any(row.is_bound for one in goals for rung in one.rungs for row in _rows(rung)))}",
        )
    return figure


def _rows(rung: RungAtGoal) -> tuple[StepsAtBatch, ...]:
    return () if rung.tuned.found is None else rung.tuned.found.rows
