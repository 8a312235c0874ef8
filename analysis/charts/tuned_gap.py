"""The tuning trials of every batch size, its test metric tuned and untuned, and both gaps."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from analysis.charts.style import (
    GREY,
    LABELS,
    LINE_COLOURS,
    batch_size_colours,
    draw_means,
    footnote,
    legend_key,
    log_axis,
    new_figure,
    two_lines,
)
from analysis.data.metric import Metric
from analysis.questions.tuned_cells import RATE, TunedCell, TunedGap
from trainables.optimizer_settings import MOMENTS
from trainables.runtime.errors import UserError

SHOWN_BELOW_BEST = 0.05  # of a validation metric in [0, 1], in the figure


def basis(found: TunedGap) -> str:
    """What was equal, what was spent, and what the intervals are over."""
    budget, cells = found.about["budget"], found.cells
    equal = f"{budget['trials']} tuning trials each" if budget["trials"] else f"{budget['steps']} optimizer steps each"
    spent = f"{min(cell.steps for cell in cells)} to {max(cell.steps for cell in cells)} steps"
    ended: dict[str, int] = {}
    for cell in cells:
        for status, count in cell.counts.items():
            ended[status] = ended.get(status, 0) + count
    counted = ", ".join(
        f"{count} {'stopped early' if status == 'stopped' else status}" for status, count in ended.items()
    )
    replicates = max((cell.tuned.replicates for cell in cells if cell.tuned is not None), default=0)
    objective = "loss" if found.about["objective"] == "validation_loss" else found.metric.noun
    text = (
        f"Equal: {equal} in the same ranges (they took {spent}; {counted}), chosen by "
        f"validation {objective}. 95 % t-intervals over {replicates} fresh seeds and splits, for "
        "the values chosen; gaps are paired with the smallest batch at its best."
    )
    if any(name in cell.edges for cell in cells for name in (RATE, *MOMENTS)):
        text += " *: at an end of its range."
    unfinished, off_target = sum(cell.unfinished for cell in cells), sum(cell.off_target for cell in cells)
    text += f" {unfinished} retrained trials diverged, failed or are missing." if unfinished else ""
    return text + (f" {off_target} tuned retrained trials are off target." if off_target else "")


def tuned_gap_figure(found: TunedGap) -> Figure:
    """Every tuning trial by learning rate; test metric by batch size, tuned and not; the two gaps.

    Raises UserError where nothing has been retrained.
    """
    cells, metric = [cell for cell in found.cells if cell.tuned is not None], found.metric
    if not cells:
        raise UserError(f"`results` must hold retrained trials that completed, got none in {found.folder}")
    remedies = list(dict.fromkeys(cell.remedy for cell in cells))
    colours = batch_size_colours([cell.batch_size for cell in cells])
    with new_figure(height=3.2) as figure:
        search, level, gap = figure.subplots(1, 3)
        loss = found.about["objective"] == "validation_loss"
        column, factor = ("validation_loss", 1.0) if loss else ("validation_metric", metric.factor)
        for cell in cells:
            rows = found.tuning[
                (found.tuning["batch_size"] == cell.batch_size)
                & (found.tuning["remedy"] == cell.remedy)
                & (found.tuning["status"] == "completed")
            ]
            style: dict[str, Any] = {"linestyle": "none", "color": colours[cell.batch_size], "marker": "o"}
            search.plot(rows["learning_rate"], factor * rows[column], markersize=3, alpha=0.7, **style)
            if cell.best is not None:
                at = rows[rows["learning_rate"] == cell.best[RATE]]
                style |= {"markersize": 8, "markerfacecolor": "none", "markeredgewidth": 1.3}
                search.plot(at["learning_rate"], factor * at[column], **style)
        for end in found.about["space"]["learning_rate"]:
            search.axvline(end, color=GREY, linewidth=0.8, linestyle=":")
        log_axis(search, "x")
        search.set_xlabel(f"{LABELS['learning_rate']}\n(dotted: ends of the range)")
        search.set_ylabel("validation loss" if loss else metric.label("validation"))
        is_cut = not loss and metric.is_share and metric.direction == "higher"
        if is_cut:  # trials that learned nothing would squeeze all others
            best = max(cell.validation_metric or 0.0 for cell in cells)
            search.set_ylim(bottom=max(search.get_ylim()[0], 100 * (best - SHOWN_BELOW_BEST)))
        for rank, remedy in enumerate(remedies):
            mine = [cell for cell in cells if cell.remedy == remedy]
            colour = LINE_COLOURS[rank % len(LINE_COLOURS)]
            named = "" if len(remedies) == 1 else f", {remedy}"
            for name, marker, dashes, shift in (("tuned", "o", "-", 1.03), ("untuned", "s", "--", 0.97)):
                style = {"color": colour, "marker": marker, "linestyle": dashes, "markersize": 4, "label": name + named}
                _draw(level, mine, name, shift, metric, style)
                _draw(gap, mine, f"{name}_gap", shift, metric, style)
        gap.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        for axes, label in (
            (level, metric.label()),
            (gap, "\n[".join(metric.difference_label("gap to the smallest batch").rsplit(" [", 1))),
        ):
            log_axis(axes, "x", at=sorted({cell.batch_size for cell in cells}))
            axes.set_xlabel(two_lines(found.batch_unit.label))
            axes.set_ylabel(label)
        keys = [legend_key(f"batch {size}", marker="o", color=colour) for size, colour in colours.items()]
        keys += level.get_legend_handles_labels()[0]
        figure.legend(handles=keys, loc="outside upper center", ncols=min(6, len(keys)), frameon=False)
        text = basis(found) + (
            f" Left: completed trials, {100 * SHOWN_BELOW_BEST:g} points below the best at most." if is_cut else ""
        )
        footnote(figure, text)
    return figure


def _draw(
    axes: Any, cells: Sequence[TunedCell], name: str, shift: float, metric: Metric, style: dict[str, Any]
) -> None:
    means = [(cell.batch_size * shift, mean) for cell in cells if (mean := getattr(cell, name)) is not None]
    if means:
        draw_means(axes, [x for x, _ in means], [mean for _, mean in means], factor=metric.factor, **style)
