"""What is left of the large-batch gap when every batch size is tuned by itself: the answer, a table and a figure.

    python analysis/tuned_gap.py results/tuned_gap

Reads what sweeps/tuned_gap.py has left. Two comparisons of each batch size with the smallest, inside replicates (seed
and draw of the training examples), of trials that have tested once:

    tuned gap    accuracy(smallest at its best) - accuracy(this batch at its own best)
    untuned gap  accuracy(smallest at its best) - accuracy(this batch at the smallest's best)
    gained       untuned gap - tuned gap: what tuning this batch by itself is worth

with 95 % t-intervals over the replicates: for new random seeds and draws of the training examples. They hold for the
values that were chosen and for this test set: another search could choose others. Validation results are of the tuning
trials, one seed, the best of many, so too good; test results are of fresh ones. If a chosen learning rate is at an end
of its range, a better one may lie beyond, and the comparison is not fair to that batch size; the answer says so. It
also says in how many replicates a batch size completed, and that one that diverged where the smallest did not is not
free.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # else analysis/statistics.py shadows the standard library's

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from analysis.command import run
from analysis.figures import (
    GREY,
    LABELS,
    LINE_COLOURS,
    batch_size_colours,
    draw_means,
    footnote,
    legend_key,
    log_axis,
    new_figure,
    save,
)
from analysis.load import NO_REMEDY
from analysis.means import Mean
from analysis.summary import plus_minus
from analysis.tuned_cells import RATE, TunedCell, TunedGap, load_tuned_gap
from trainables.runtime.errors import UserError

COLUMNS = 80
SHOWN_BELOW_BEST = 0.05  # of validation accuracy, in the figure


def answer(found: TunedGap) -> list[str]:
    """The sentences, worded by the evidence: the largest batch, what tuning does to it, remedies, what is unfair."""
    plain = [cell for cell in found.cells if cell.remedy == NO_REMEDY]
    reference, largest = plain[0], plain[-1]
    if reference.best is None:
        return [f"No tuning trial of {reference.name} has come to a result yet, so there is nothing to compare with."]
    sentences = []
    if largest is not reference:
        sentences.append(_verdict(reference, largest))
    for cell in found.cells:
        if cell.remedy != NO_REMEDY and cell.batch_size == largest.batch_size and cell.tuned_gap is not None:
            sentences.append(f"Tuned with {cell.remedy}, batch {cell.batch_size} {_loses(cell.tuned_gap, reference)}.")
    unfair = [cell.name for cell in found.cells if RATE in cell.edges]
    if unfair:
        sentences.append(
            f"Not settled: the learning rate chosen for {', '.join(unfair)} lies at an end of the range searched, and "
            "a better one may lie beyond; widen the range for all."
        )
    others = [f"{name} of {cell.name}" for cell in found.cells for name in cell.edges if name != RATE]
    if others:
        sentences.append(f"At an end of its range too: {', '.join(others)}.")
    without = [cell.name for cell in found.cells if cell.best is None]
    if without:
        sentences.append(f"No tuning trial came to a finite result for {', '.join(without)}.")
    return sentences


def _verdict(reference: TunedCell, largest: TunedCell) -> str:
    tuned, untuned, gained = largest.tuned_gap, largest.untuned_gap, largest.gained
    if tuned is None or untuned is None:
        return f"{largest.name.capitalize()} has not been retrained, so nothing can be said of its gap."
    partial = tuned.replicates < largest.retrained
    some = f" in {tuned.replicates} of {largest.retrained} replicates" if partial else ""
    text = f"Tuned by itself{some}, batch {largest.batch_size} {_loses(tuned, reference)}; "
    text += f"at the setting that is best for {reference.name}, it {_loses(untuned, None)}."
    if largest.diverged and _sign(tuned) <= 0:
        lost = f"{largest.diverged} of {largest.retrained} retrained trials"
        text += f" It diverged in {lost} where {reference.name} completed, so it is not free"
    elif _sign(untuned) > 0 and _sign(tuned) == 0 and tuned.interval is not None:
        text += " Tuned fairly, no clear gap is left"
    elif _sign(untuned) > 0 and _sign(tuned) > 0:
        text += " Tuning does not remove the gap"
    elif _sign(untuned) > 0 and _sign(tuned) < 0:
        text += " Tuned fairly, the gap is reversed"
    elif _sign(tuned) > 0:
        text += " The gap is clear only when both are tuned"
    else:
        text += " There is no clear gap to remove"
    if gained is not None and gained.interval is not None:
        clear = "" if _sign(gained) else ", which is not clear"
        text += f"; tuning changes this batch's accuracy by {_points(gained)}{clear}"
    return text + "."


def _sign(mean: Mean) -> int:
    """Which side of 0 the interval lies on; 0 where it holds it or there is none."""
    if mean.interval is None:
        return 0
    return (mean.interval.low > 0) - (mean.interval.high < 0)


def _loses(gap: Mean, reference: TunedCell | None) -> str:
    against = "" if reference is None else f" against {reference.name} tuned by itself"
    if gap.interval is None:
        return f"is {_signed(-gap.value)} percentage points apart{against} (too few replicates for an interval)"
    if _sign(gap) == 0:
        return f"shows no clear difference in test accuracy{against}: a gap of {_points(gap)}"
    verb = "loses test accuracy" if gap.value > 0 else "gains test accuracy"
    return f"{verb}{against}: a gap of {_points(gap)}"


def _points(mean: Mean) -> str:
    interval = mean.interval
    inside = "" if interval is None else f" [{_signed(interval.low)}, {_signed(interval.high)}]"
    return f"{_signed(mean.value)}{inside} percentage points"


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def tuned_gap_lines(folder: Path) -> list[str]:
    """Answer, table and files on 80 columns; writes the figure."""
    found = load_tuned_gap(folder)
    lines = [line for sentence in answer(found) for line in _wrap(sentence)]
    lines += ["", *_table(found), *_wrap(basis(found))]
    files = ("optuna.db", "tuning.parquet", "tuning.json", "trials.parquet")
    kept = [name for name in files if (folder / name).exists()]
    if any(cell.tuned is not None for cell in found.cells):
        kept += [path.relative_to(folder).as_posix() for path in save(tuned_gap_figure(found), folder, "tuned_gap")]
    return [*lines, f"In {folder}:", *(f"  {line}" for line in _wrap(", ".join(kept)))]


def _table(found: TunedGap) -> list[str]:
    lines = [
        " batch  learning     validation  test accuracy [%]           gap [% points]",
        "  size      rate   accuracy [%]  tuned        untuned        tuned        untuned",
    ]
    remedy = NO_REMEDY
    for cell in sorted(found.cells, key=lambda cell: cell.remedy != NO_REMEDY):
        if cell.remedy != remedy:
            remedy = cell.remedy
            lines.append(f"with {remedy}:")
        rate = "none" if cell.best is None else f"{cell.best[RATE]:.2g}" + ("*" if RATE in cell.edges else "")
        validation = "" if cell.validation_accuracy is None else f"{100 * cell.validation_accuracy:.2f}"
        shown = [plus_minus(mean) for mean in (cell.tuned, cell.untuned)]
        gaps = [plus_minus(mean) for mean in (cell.tuned_gap, cell.untuned_gap)]
        if cell is found.reference:
            shown[1], gaps = "the same", ["reference", "reference"]
        lines.append(
            f"{cell.batch_size:>6}  {rate:>8}  {validation:>13}  {shown[0]:<12} {shown[1]:<13}  {gaps[0]:<12} {gaps[1]}"
        )
    return lines


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
    text = (
        f"Equal: {equal} in the same ranges (they took {spent}; {counted}), chosen by "
        f"{found.about['objective'].replace('_', ' ')}. 95 % t-intervals over {replicates} fresh seeds and splits, for "
        "the values chosen; gaps are paired with the smallest batch at its best."
    )
    if any(RATE in cell.edges for cell in cells):
        text += " *: at an end of its range."
    unfinished, off_target = sum(cell.unfinished for cell in cells), sum(cell.off_target for cell in cells)
    text += f" {unfinished} retrained trials diverged, failed or are missing." if unfinished else ""
    return text + (f" {off_target} tuned retrained trials are off target." if off_target else "")


def tuned_gap_figure(found: TunedGap) -> Figure:
    """Every tuning trial by learning rate; test accuracy by batch size, tuned and not; the two gaps.

    Raises UserError where nothing has been retrained.
    """
    cells = [cell for cell in found.cells if cell.tuned is not None]
    if not cells:
        raise UserError(f"`results` must hold retrained trials that completed, got none in {found.folder}")
    remedies = list(dict.fromkeys(cell.remedy for cell in cells))
    colours = batch_size_colours([cell.batch_size for cell in cells])
    with new_figure(height=3.2) as figure:
        search, accuracy, gap = figure.subplots(1, 3)
        loss = found.about["objective"] == "validation_loss"
        column, factor = ("validation_loss", 1.0) if loss else ("validation_accuracy", 100.0)
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
        search.set_ylabel("validation loss" if loss else "validation accuracy [%]")
        if not loss:  # trials that learned nothing would squeeze all others
            best = max(cell.validation_accuracy or 0.0 for cell in cells)
            search.set_ylim(bottom=max(search.get_ylim()[0], 100 * (best - SHOWN_BELOW_BEST)))
        for rank, remedy in enumerate(remedies):
            mine = [cell for cell in cells if cell.remedy == remedy]
            colour = LINE_COLOURS[rank % len(LINE_COLOURS)]
            named = "" if len(remedies) == 1 else f", {remedy}"
            for name, marker, dashes, shift in (("tuned", "o", "-", 1.03), ("untuned", "s", "--", 0.97)):
                style = {"color": colour, "marker": marker, "linestyle": dashes, "markersize": 4, "label": name + named}
                _draw(accuracy, mine, name, shift, style)
                _draw(gap, mine, f"{name}_gap", shift, style)
        gap.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        for axes, label in (
            (accuracy, LABELS["test_accuracy"]),
            (gap, "gap to the smallest batch\n[percentage points]"),
        ):
            log_axis(axes, "x", at=sorted({cell.batch_size for cell in cells}))
            axes.set_xlabel(LABELS["batch_size"])
            axes.set_ylabel(label)
        keys = [legend_key(f"batch {size}", marker="o", color=colour) for size, colour in colours.items()]
        keys += accuracy.get_legend_handles_labels()[0]
        figure.legend(handles=keys, loc="outside upper center", ncols=min(6, len(keys)), frameon=False)
        text = basis(found) + (
            "" if loss else f" Left: completed trials, {100 * SHOWN_BELOW_BEST:g} points below the best at most."
        )
        footnote(figure, text)
    return figure


def _draw(axes: Any, cells: Sequence[TunedCell], name: str, shift: float, style: dict[str, Any]) -> None:
    means = [(cell.batch_size * shift, mean) for cell in cells if (mean := getattr(cell, name)) is not None]
    if means:
        draw_means(axes, [x for x, _ in means], [mean for _, mean in means], factor=100.0, **style)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, break_long_words=False)


def main(arguments: list[str]) -> int:
    return run(tuned_gap_lines, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
