"""The largest free batch: the largest batch size with a test metric non-inferior to that of the smallest batch.

"No significant gap" proves nothing: with few seeds nothing is significant. A non-inferiority test asks for more: a
batch size passes when the upper end of the 95 % interval of what it loses, over replicates, is below a margin
(0.5 percentage points of accuracy; analysis.data.metric has those of other metrics), so the risk that a batch size
which loses the margin passes is 2.5 %, as is usual for non-inferiority. Batch sizes are tested upwards and the first
that does not pass ends it, so that testing many needs no correction (fixed sequence). The loss is paired inside
replicates, in two ways:

- matched: at the same settings (learning rate, warmup, ...), averaged over them: the paper's comparison;
- tuned: each batch size at a setting of its own. If the sweep has trials that hold out a validation set, the one
  best on it (mean over replicates). If not, for each replicate the one that is best on the test set over the other
  replicates, and its result is read in the one left out: the choice never sees the seed and split that it is judged
  on, but replicates share their choices, which the variance s^2 (1 / n + 1 / (n - 1)) allows for. With one test set for
  all replicates it has seen those test images, which a validation set avoids.

In a sequential sweep (analysis/data/sequential_design.py) the interval is a repeated confidence interval: at the level
that the look has, so that the intervals of all looks hold together with 95 %.

A batch size that diverged where the smallest did not does not pass, whatever its other trials say: matched, at one of
the same settings; tuned, at the setting chosen for it.

Sources: Piaggio et al. 2012, JAMA 308:2594 (non-inferiority); Maurer, Hothorn and Lehmacher 1995 (fixed sequence);
Shallue et al. 2019, arXiv 1811.03600 (a batch size must be tuned separately before it is judged); Nadeau and Bengio
2003, Machine Learning 52:239 (the variance).
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.data.load import Sweep, attempted, chosen_on_validation, comparable
from analysis.data.replicates import cells
from analysis.data.sequential_design import SequentialDesign
from analysis.stats.group_sequential import ALPHA
from analysis.stats.means import Mean, mean_over_replicates, paired_difference, resolution
from trainables.runtime.errors import UserError

TRIED = ["batch_size", "seed", "setting", "replicate", "matched_set", "learning_rate", "test_size", "status"]
NEEDED = [*TRIED, "is_reference"]
Comparison = Literal["matched", "tuned"]
Chooser = Literal["validation", "other replicates"]


@dataclass(frozen=True)
class Loss:
    """What one batch size loses on the test set to the smallest, as a difference of scores (analysis.data.metric: of
    accuracy a fraction); None where no trial can be compared.

    `upper`: the upper end of the 95 % interval. `free`: whether it is below the margin and nothing diverged; None where
    one replicate gives no interval, or there is no margin. `compared` of `attempted` were compared, and `diverged` of
    them diverged where the smallest batch completed: trials (matched) or replicates (tuned).
    """

    batch_size: int
    lost: Mean | None
    upper: float | None
    free: bool | None
    compared: int
    attempted: int
    diverged: int


@dataclass(frozen=True)
class FreeBatch:
    """The losses in rising order, and the largest batch size up to which all are free: `reference` where none is.

    Of a tuned comparison, `chosen_by` says how the settings were chosen. `edges`: each batch size for which a
    learning rate at an end of the `rates` learning rates tried was chosen, with the number of replicates where it was,
    and of all.
    """

    comparison: Comparison
    margin: float | None
    reference: int
    rows: tuple[Loss, ...]
    largest_noninferior_batch: int
    chosen_by: Chooser | None = None
    edges: tuple[tuple[int, int, int], ...] = ()
    rates: int = 0


@lru_cache(maxsize=16)
def free_batch(sweep: Sweep, comparison: Comparison = "matched", margin: float | None = None) -> FreeBatch | None:
    """The largest batch that costs at most `margin`, of the plain trials; see the top of the file.

    The margin is in the metric's own scale (a fraction of accuracy); None for that of the sweep's metric. Returns None
    where there is nothing to compare: one batch size alone; for `tuned`, one setting alone, or neither a
    validation set nor a second replicate to choose by. Raises UserError for a margin that is not above 0.
    """
    metric = sweep.metric
    margin = metric.margin if margin is None else margin
    if margin is not None and not margin > 0:
        raise UserError(f"`margin` must be a difference of the test {metric.noun} above 0, got {margin}")
    frame, tried = comparable(sweep), attempted(sweep)
    frame = frame.loc[frame["is_plain"], [*NEEDED, metric.score]]
    tried = tried.loc[tried["is_plain"], [*TRIED, metric.score]]
    if frame.empty:
        return None
    smallest = int(frame["batch_size"].min())
    tried = {int(size): rows for size, rows in tried.groupby("batch_size") if size > smallest}
    if comparison == "matched":
        references = frame[frame["is_reference"]]
        losses = [_matched(size, rows, frame, references, metric.score, margin) for size, rows in tried.items()]
        chosen: dict[str, Any] = {}
    else:
        validation = chosen_on_validation(sweep)
        if frame["setting"].nunique() < 2 or (validation.empty and frame["replicate"].nunique() < 2):
            return None
        tuned, left_out = _at_chosen(frame, validation, metric.score), validation.empty
        losses = [_tuned(size, rows, tuned, smallest, metric.score, left_out, margin) for size, rows in tried.items()]
        rates = frame["learning_rate"]
        at_end = tuned["learning_rate"].isin([rates.min(), rates.max()]).groupby(tuned["batch_size"])
        chosen = {
            "chosen_by": "other replicates" if validation.empty else "validation",
            "edges": tuple((size, count, of) for size, count, of in at_end.agg(["sum", "size"]).itertuples() if count),
            "rates": rates.nunique(),
        }
    if sweep.sequential is not None:
        losses = [_at_look(row, sweep.sequential, frame, margin) for row in losses]
    rows = tuple(row for row in losses if row.lost is not None or row.diverged)
    if not any(row.lost for row in rows):
        return None
    largest = smallest
    for row in rows:
        if not row.free:
            break
        largest = row.batch_size
    return FreeBatch(comparison, margin, smallest, rows, largest, **chosen)


def _matched(
    size: int, tried: pd.DataFrame, frame: pd.DataFrame, references: pd.DataFrame, score: str, margin: float | None
) -> Loss:
    lost = paired_difference(references, frame[frame["batch_size"] == size], score)
    diverged = tried["status"].eq("diverged") & tried["matched_set"].isin(references["matched_set"])
    return _loss(size, lost, 0 if lost is None else lost.trials, len(tried), int(diverged.sum()), margin)


def _tuned(
    size: int,
    tried: pd.DataFrame,
    tuned: pd.DataFrame,
    smallest: int,
    score: str,
    left_out: bool,
    margin: float | None,
) -> Loss:
    reference = tuned.loc[tuned["batch_size"] == smallest].set_index("replicate")["score"]
    rows = tuned[tuned["batch_size"] == size]
    losses = rows.assign(lost=rows["replicate"].map(reference) - rows["score"]).dropna(subset="lost")
    lost = mean_over_replicates(losses, "lost", step=resolution(tried, score), chosen=left_out)
    missing = tried["replicate"].isin(reference.index) & ~tried["replicate"].isin(losses["replicate"])
    diverged = tried.loc[missing & tried["status"].eq("diverged"), "replicate"].nunique()
    compared = tried.loc[tried["replicate"].isin(reference.index), "replicate"].nunique()
    return _loss(size, lost, len(losses), compared, diverged, margin)


def _loss(size: int, lost: Mean | None, compared: int, attempted: int, diverged: int, margin: float | None) -> Loss:
    upper = None if lost is None or lost.interval is None else lost.interval.high
    free = False if diverged else None if upper is None or margin is None else upper < margin
    return Loss(size, lost, upper, free, compared, attempted, diverged)


def repeated(
    lost: Mean | None, design: SequentialDesign | None, rows: pd.DataFrame, references: pd.DataFrame
) -> Mean | None:
    """What `rows` of one batch size lose to `references`, with the repeated confidence interval of its last look.

    Without an interval where the look is too early for any; as it is where there is no `design`.
    """
    if lost is None or design is None:
        return lost
    level = design.level_of(int(rows["batch_size"].iloc[0]), rows.loc[rows["seed"].isin(references["seed"]), "seed"])
    return lost.simultaneous(ALPHA / level) if level else replace(lost, interval=None)


def _at_look(row: Loss, design: SequentialDesign, frame: pd.DataFrame, margin: float | None) -> Loss:
    own = frame[frame["batch_size"] == row.batch_size]
    lost = repeated(row.lost, design, own, frame[frame["is_reference"]])
    return _loss(row.batch_size, lost, row.compared, row.attempted, row.diverged, margin)


def _at_chosen(frame: pd.DataFrame, validation: pd.DataFrame, score: str) -> pd.DataFrame:
    """Score and learning rate of each batch size and replicate at the setting chosen for it, where there is a trial.

    A setting that is missing in one of the replicates that choose is not chosen.
    """
    found, rows = cells(frame, score), []
    judged = None if validation.empty else validation.groupby(["batch_size", "setting"])[score].mean()
    rates = frame.groupby("setting")["learning_rate"].first()
    for i, size in enumerate(found.sizes):
        for k, replicate in enumerate(found.replicates):
            others = np.delete(found.values[i], k, axis=1)
            others = others[:, ~np.isnan(others).all(axis=0)]  # replicates with a trial of this batch size
            if judged is None:
                scores = others.mean(axis=1) if others.size else np.full(len(found.settings), np.nan)
            else:
                scores = np.array([judged.get((size, setting), np.nan) for setting in found.settings])
            if np.isnan(scores).all():
                continue
            best = int(np.nanargmax(scores))
            rows.append((size, replicate, found.values[i, best, k], rates[found.settings[best]]))
    return pd.DataFrame(rows, columns=["batch_size", "replicate", "score", "learning_rate"]).dropna()
