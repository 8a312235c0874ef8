"""The local critical batch along the training, what each branch loses, and what the schedule costs."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

from analysis.charts.style import (
    GREY,
    LINE_COLOURS,
    MARKERS,
    draw_means,
    footnote,
    log_axis,
    new_figure,
    set_aside,
    two_lines,
)
from analysis.questions.batch_schedule import ARMS, Arm
from analysis.questions.branched_batch import BranchedBatch
from analysis.stats.wording import plain_number


def branched_batch_figure(found: BranchedBatch, arms: Sequence[Arm] = ()) -> Figure:
    """B*(t) against t; excess loss against batch size, a line for each t; loss against steps of each `arms`."""
    with new_figure(height=3.2) as figure:
        panels = figure.subplots(1, 3 if arms else 2)
        _critical(panels[0], found)
        _excess(panels[1], found)
        if arms:
            _arms(panels[2], found, arms)
        fresh = " The third panel is of fresh replicates." if arms else ""
        footnote(
            figure,
            f"Filled: shown within the margin. Hollow: by the means. Cross: shown beyond. Dashed: margin. 95 % "
            f"t-intervals over {found.replicates} paired replicates; at batch {found.batch_size}: k = 1 in another "
            f"order.{fresh}",
        )
    return figure


def _critical(axes: Axes, found: BranchedBatch) -> None:
    at = [point.at for point in found.points]
    within = [point.boundary.within or found.batch_size for point in found.points]
    guess = [point.boundary.best_guess or found.batch_size for point in found.points]
    axes.plot(at, guess, linestyle="none", marker="o", markersize=6.5, markerfacecolor="white", color=LINE_COLOURS[0])
    axes.plot(at, within, marker="o", markersize=4.5, color=LINE_COLOURS[0])
    known = [(point.at, point.boundary.beyond) for point in found.points if point.boundary.beyond is not None]
    axes.plot(*zip(*known, strict=True), linestyle="none", marker="x", color=LINE_COLOURS[1]) if known else None
    sizes = _sizes(found)
    axes.set_ylim(sizes[0] / 1.3, 1.3 * sizes[-1])
    log_axis(axes, "y", at=sizes)
    if len(at) > 1 and at[-1] / at[0] > 3:
        log_axis(axes, "x", at=at)
    axes.set_xlabel("branched off after [epochs]")
    axes.set_ylabel(two_lines(f"local critical batch [{found.batch_unit.examples}]"))


def _excess(axes: Axes, found: BranchedBatch) -> None:
    for rank, point in enumerate(found.points):
        shift = 1 + set_aside(rank, len(found.points), 0.06)
        known = [(branch.batch_size, branch.excess) for branch in point.branches if branch.excess is not None]
        known = [(found.batch_size, point.noise), *known] if point.noise is not None else known
        x, means = [shift * size for size, _ in known], [mean for _, mean in known if mean is not None]
        colour, marker = LINE_COLOURS[rank % len(LINE_COLOURS)], MARKERS[rank % len(MARKERS)]
        draw_means(axes, x, means, color=colour, marker=marker, markersize=3.5, label=plain_number(point.at))
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.axhline(found.margin, color="black", linewidth=0.9, linestyle="--")
    log_axis(axes, "x", at=_sizes(found))
    axes.set_yscale("symlog", linthresh=2 * found.margin)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=2 * found.margin, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(two_lines(found.batch_unit.label))
    axes.set_ylabel("excess held-out loss" + _bracketed(found))
    axes.set_ylim(top=10 * axes.get_ylim()[1])  # for the legend
    axes.legend(title="after [epochs]", frameon=False, loc="upper left", ncols=2)


def _arms(axes: Axes, found: BranchedBatch, arms: Sequence[Arm]) -> None:
    for rank, arm in enumerate(arms):
        colour, marker = LINE_COLOURS[rank], MARKERS[rank]
        if arm.steps is not None and arm.name == ARMS[0]:
            axes.plot([arm.steps], [0], color=colour, marker=marker, linestyle="none", label=arm.name)
        elif arm.steps is not None and arm.excess is not None:
            draw_means(axes, [arm.steps], [arm.excess], color=colour, marker=marker, linestyle="none", label=arm.name)
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.axhline(found.margin, color="black", linewidth=0.9, linestyle="--")
    axes.set_ylim(top=axes.get_ylim()[1] + 0.45 * (axes.get_ylim()[1] - axes.get_ylim()[0]))  # for the legend
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("final loss above\nconstant small" + _bracketed(found))
    axes.legend(frameon=False, loc="upper left")


def _sizes(found: BranchedBatch) -> list[int]:
    return sorted({found.batch_size, *(branch.batch_size for point in found.points for branch in point.branches)})


def _bracketed(found: BranchedBatch) -> str:
    return f" [{found.unit}]" if found.unit else ""
