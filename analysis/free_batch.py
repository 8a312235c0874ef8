"""The largest batch that costs nothing: whose test accuracy is statistically no worse than the smallest batch's.

    python analysis/free_batch.py results/NAME

"No significant gap" proves nothing: with few seeds nothing is significant. Non-inferiority turns the burden round: a
batch size passes when the upper end of the one-sided 95 % interval of what it loses, over replicates, is below a margin
(0.5 percentage points). Batch sizes are tested upwards and the first that does not pass ends it, so that testing many
needs no correction (fixed sequence). What is lost is paired inside replicates, in two ways:

- matched: at the same settings (learning rate, warmup, ...), averaged over them: the paper's comparison;
- tuned: each batch size at a setting of its own. Where the sweep has trials that hold out a validation set, the one
  best on it (mean over replicates). Where it has not, for each replicate the one that is best in test accuracy over the
  other replicates, and its accuracy is read in the one left out: the choice never sees the seed and split that it is
  judged on. With one test set for all replicates it has seen those test images, which a validation set avoids.

Sources: Piaggio et al. 2012, JAMA 308:2594 (non-inferiority); Maurer, Hothorn and Lehmacher 1995 (fixed sequence);
Shallue et al. 2019, arXiv 1811.03600 (a batch size must be tuned by itself before it is judged).
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # else analysis/statistics.py shadows the standard library's

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.command import run
from analysis.figures import GREY, LABELS, LINE_COLOURS, footnote, legend_above, log_axis, new_figure, save
from analysis.load import Sweep, chosen_on_validation, comparable, load_sweep
from analysis.means import Mean, mean_over_replicates, paired_difference
from analysis.replicates import cells
from trainables.errors import UserError

MARGIN = 0.005  # of test accuracy: 0.5 percentage points
Comparison = Literal["matched", "tuned"]
Chooser = Literal["validation", "other replicates"]


@dataclass(frozen=True)
class Loss:
    """What one batch size loses in test accuracy (a fraction) to the smallest; `upper`: of the one-sided 95 % interval.

    `free`: whether `upper` is below the margin; None where one replicate gives no interval.
    """

    batch_size: int
    lost: Mean
    upper: float | None
    free: bool | None


@dataclass(frozen=True)
class FreeBatch:
    """The losses in rising order, and the largest batch size up to which all are free: `reference` where none is.

    `chosen_by`: how the settings of a tuned comparison were chosen, None for a matched one.
    """

    comparison: Comparison
    margin: float
    reference: int
    rows: tuple[Loss, ...]
    largest: int
    chosen_by: Chooser | None


@lru_cache(maxsize=16)
def free_batch(sweep: Sweep, comparison: Comparison = "matched", margin: float = MARGIN) -> FreeBatch | None:
    """The largest batch that costs at most `margin` (a fraction), of the plain trials; see the top of the file.

    None where there is nothing to compare: one batch size alone; for `tuned`, one setting alone, or neither a
    validation set nor a second replicate to choose by. Raises UserError for a margin that is not above 0.
    """
    if not margin > 0:
        raise UserError(f"`margin` must be a fraction of test accuracy above 0, got {margin}")
    frame = comparable(sweep)
    frame = frame[frame["is_plain"]]
    if frame["batch_size"].nunique() < 2:
        return None
    smallest, *others = sorted(int(size) for size in frame["batch_size"].unique())
    chosen_by: Chooser | None = None
    if comparison == "matched":
        references = frame[frame["is_reference"]]
        found = {
            size: paired_difference(references, frame[frame["batch_size"] == size], "test_accuracy") for size in others
        }
    else:
        validation = chosen_on_validation(sweep)
        chosen_by = "other replicates" if validation.empty else "validation"
        if frame["setting"].nunique() < 2 or (validation.empty and frame["replicate"].nunique() < 2):
            return None
        tuned = _at_chosen(frame, validation)
        reference = tuned.loc[tuned["batch_size"] == smallest].set_index("replicate")["accuracy"]
        found = {}
        for size in others:
            rows = tuned[tuned["batch_size"] == size]
            lost = rows["replicate"].map(reference) - rows["accuracy"]
            found[size] = mean_over_replicates(rows.assign(lost=lost), "lost")
    rows_ = []
    for size, mean in found.items():
        if mean is not None:
            upper = mean.upper_bound()
            rows_.append(Loss(size, mean, upper, None if upper is None else upper < margin))
    largest = smallest
    for row in rows_:
        if not row.free:
            break
        largest = row.batch_size
    return FreeBatch(comparison, margin, smallest, tuple(rows_), largest, chosen_by) if rows_ else None


def _at_chosen(frame: pd.DataFrame, validation: pd.DataFrame) -> pd.DataFrame:
    """The accuracy of each batch size and replicate at the setting chosen for it, where there is such a trial."""
    found, rows = cells(frame, "test_accuracy"), []
    judged = None if validation.empty else validation.groupby(["batch_size", "setting"])["test_accuracy"].mean()
    for i, size in enumerate(found.sizes):
        for k, replicate in enumerate(found.replicates):
            others = np.delete(found.values[i], k, axis=1)
            others = others[:, ~np.isnan(others).all(axis=0)]  # replicates with a trial of this batch size
            if judged is None:
                scores = others.mean(axis=1) if others.size else np.full(len(found.settings), np.nan)
            else:
                scores = np.array([judged.get((size, setting), np.nan) for setting in found.settings])
            if np.isnan(scores).all():  # a setting that diverged in one of them is not chosen
                continue
            accuracy = found.values[i, int(np.nanargmax(scores)), k]
            rows.append({"batch_size": size, "replicate": replicate, "accuracy": accuracy})
    return pd.DataFrame(rows, columns=["batch_size", "replicate", "accuracy"]).dropna()


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
    sizes = [found[0].reference, *sorted({row.batch_size for result in found for row in result.rows})]
    with new_figure(height=2.9) as figure:
        axes = figure.subplots()
        for rank, result in enumerate(found):
            shift, colour = 1 + 0.05 * (rank - (len(found) - 1) / 2), LINE_COLOURS[rank]
            label = "same settings" if result.comparison == "matched" else f"its own setting, by {result.chosen_by}"
            x = [row.batch_size * shift for row in result.rows]
            axes.plot(x, [100 * row.lost.value for row in result.rows], "o", color=colour, markersize=4.5, label=label)
            for position, row in zip(x, result.rows, strict=True):
                if row.upper is not None:
                    ends = [100 * row.lost.value, 100 * row.upper]
                    axes.plot([position, position], ends, color=colour, linewidth=0.9, marker="_", markevery=[1])
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        axes.axhline(100 * found[0].margin, color="black", linewidth=0.9, linestyle="--", label="margin")
        log_axis(axes, "x", at=sizes)
        axes.set_xlabel(LABELS["batch_size"])
        axes.set_ylabel(f"test accuracy lost against\nbatch {found[0].reference} [percentage points]")
        legend_above(figure, most_columns=4)
        replicates = max(row.lost.replicates for result in found for row in result.rows)
        footnote(figure, f"Bars: up to the one-sided 95 % bound over {replicates} replicates. Below the margin: free.")
    return figure


def main(arguments: list[str]) -> int:
    return run(
        lambda folder: save(free_batch_figure(load_sweep(folder)), folder, "free_batch"),
        arguments,
        __doc__,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
