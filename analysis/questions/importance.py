"""Which hyperparameter moves the result? The variance of the primary metric and of the gap, split among the axes.

The trials are the plain ones (no switch, no remedy), one for each cell of a complete grid and replicate. Where trials
are missing (they diverged, failed or never ran), values of axes and replicates are left out, those with the largest
share of missing trials first, until the grid is complete: an incomplete one has no orthogonal effects. An axis that
follows from another, such as a learning rate chosen for each batch size, is counted with it.

The gap has no reference trials, whose own is 0 by construction: its batch sizes are the larger ones.

Trap: the shares are of this grid. A wider range of learning rates gives the learning rate a larger share.

The split and its tests: analysis/stats/variance_shares.py.
"""

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.data.load import Sweep, attempted, axes, comparable
from analysis.questions.association import GAP
from analysis.stats.multiplicity import corrected
from analysis.stats.pairs import Floats
from analysis.stats.variance_shares import variance_shares
from analysis.stats.wording import in_words
from trainables.records.matching import MATCHED
from trainables.runtime.errors import UserError

MOST_CELLS = 50  # cells for each trial, above which a search was no grid


@dataclass(frozen=True)
class Importance:
    """One source of variance: `hyperparameter` (`a x b` for an interaction) and its `share`, 1 for all of it.

    `with_interactions`: of an axis, its own share and those of its pairs with other axes; None for other sources.
    `corrected_p`: Holm's, over the axes and pairs of one target; None for sources without a test.
    """

    target: str
    hyperparameter: str
    share: float
    with_interactions: float | None
    corrected_p: float | None


@dataclass(frozen=True)
class Importances:
    """The sources, axes first, largest share first; over `trials` of those `attempted`, and how many `replicates`."""

    rows: tuple[Importance, ...]
    trials: int
    attempted: int
    replicates: int


def importance(sweep: Sweep, target: str | None = None) -> Importances:
    """The split of `target`, a column of the trials; None is the primary metric on the test set.

    Raises UserError where no axis varies in a complete grid, or the values all agree.
    """
    target = sweep.metric.column if target is None else target
    frame, tried = comparable(sweep), attempted(sweep)
    is_left_out = frame["is_reference"] & (target == GAP)
    lost = tried["is_plain"] & tried["status"].ne("completed")
    lost &= ~tried["batch_size"].isin(frame.loc[is_left_out, "batch_size"])
    frame = frame[frame["is_plain"] & ~is_left_out]
    if target not in frame:
        raise UserError(f"`target` must be a column of the trials, got {target!r}")
    count = len(frame) + int(lost.sum())
    frame = frame[frame[target].notna()]
    names = _independent(frame)
    values, kept = _complete_grid(frame, list(names), target)
    several = [name for name, size in zip(names, values.shape, strict=False) if size > 1]
    shape = [size for size in values.shape[:-1] if size > 1]
    found = variance_shares(values.reshape(*shape, values.shape[-1])) if several else None
    if found is None:
        raise UserError(f"`results` must hold a grid of plain trials in which {target} varies, got none")
    p_values = corrected([one.p_value for one in found.effects])
    rows = []
    for one, p in zip(found.effects, p_values, strict=True):
        alone = len(one.axes) == 1
        around = sum(other.share for other in found.effects if set(one.axes) <= set(other.axes))
        name = " x ".join(names[several[place]] for place in one.axes)
        rows.append(Importance(target, name, one.share, around if alone else None, p))
    rows.sort(key=lambda row: (row.with_interactions is None, -row.share))
    if len(several) > 2:
        rows.append(Importance(target, "interactions of three or more", found.higher, None, None))
    if values.shape[-1] > 1:
        rows.append(Importance(target, "replicate (seed, data split)", found.replicates, None, None))
        rows.append(Importance(target, "noise", found.noise, None, None))
    return Importances(tuple(rows), kept, count, values.shape[-1])


def importances(sweep: Sweep) -> list[Importances]:
    """The splits of the primary metric and of the gap, as far as the sweep has a grid for them."""
    found = []
    for target in (None, GAP):
        with suppress(UserError):
            found.append(importance(sweep, target))
    return found


def importance_lines(sweep: Sweep) -> list[str]:
    """The sentences and shares as lines of text. Raises UserError where there is no grid for either target."""
    lines: list[str] = []
    for found in importances(sweep) or [importance(sweep)]:
        table = [
            ("source", "alone", "with interactions", "p"),
            *((row.hyperparameter, *cells(row)) for row in found.rows),
        ]
        width = max(len(name) for name, *_ in table)
        lines += ["", importance_sentence(sweep, found)] if lines else [importance_sentence(sweep, found)]
        lines += [f"{name:{width}}  {alone:>5}  {around:>17}  {p}".rstrip() for name, alone, around, p in table]
    return lines


def cells(row: Importance) -> tuple[str, str, str]:
    """The share, the share with interactions and the p-value of a row, as they are shown; empty where there is none."""
    around = "" if row.with_interactions is None else percent(row.with_interactions)
    p_value = "" if row.corrected_p is None else "< 0.001" if row.corrected_p < 0.001 else f"{row.corrected_p:.3f}"
    return percent(row.share), around, p_value


def importance_sentence(sweep: Sweep, found: Importances) -> str:
    """The hyperparameter with the largest share, in words."""
    first = found.rows[0]
    text = f"Of the variance of the {target_name(sweep, first.target)}, {first.hyperparameter} explains "
    text += f"{percent(first.share)} alone"
    if first.with_interactions is not None and len(found.rows) > 1 and found.rows[1].with_interactions is not None:
        text += f" and {percent(first.with_interactions)} with its interactions"
    of = f" of {found.attempted}" if found.trials < found.attempted else ""
    text += f" (complete grid of {found.trials}{of} plain trials, {found.replicates} replicates)."
    if found.replicates == 1:
        return f"{text} One replicate: noise is part of these shares."
    if first.corrected_p is not None and first.corrected_p >= 0.05:
        text += " This is not significant."
    return text


def target_name(sweep: Sweep, target: str) -> str:
    """A column of the trials in words."""
    named = {GAP: "large-batch gap", sweep.metric.column: f"test {sweep.metric.noun}"}
    return named.get(target, in_words(target))


def percent(share: float) -> str:
    """A share for a sentence or a table: `62 %`; below 0 it is as good as none."""
    return f"{max(0.0, 100 * share):.0f} %"


def _independent(frame: pd.DataFrame) -> dict[str, str]:
    """The axes that follow from no other one, with their names in words and what follows from them."""
    varying = axes(frame)
    names: dict[str, list[str]] = {}
    for name in ("batch_size", *(name for name in MATCHED if name in varying)):
        codes = frame[name].factorize(use_na_sentinel=False)[0]
        leader = next((one for one in names if _follows(codes, frame[one])), None)
        names.setdefault(leader or name, []).append(in_words(name))
    return {name: f"{first} (with {', '.join(rest)})" if rest else first for name, (first, *rest) in names.items()}


def _follows(codes: Floats, leader: pd.Series) -> bool:
    """Whether each value of `leader` comes with one code."""
    return bool((pd.Series(codes).groupby(leader.factorize(use_na_sentinel=False)[0]).nunique() == 1).all())


def _complete_grid(frame: pd.DataFrame, names: list[str], target: str) -> tuple[Floats, int]:
    """`target` by the values of `names` and replicate, trials of one cell averaged, and of how many trials."""
    codes = [frame[name].factorize(sort=True, use_na_sentinel=False)[0] for name in (*names, "replicate")]
    shape = [int(code.max(initial=-1)) + 1 for code in codes]
    if math.prod(shape) > MOST_CELLS * len(frame):
        raise UserError(f"`results` must hold a grid of plain trials, got {len(frame)} in {math.prod(shape)} cells")
    count, total = np.zeros(shape), np.zeros(shape)
    np.add.at(count, tuple(codes), 1.0)
    np.add.at(total, tuple(codes), frame[target].to_numpy(np.float64))
    while (count == 0).any():
        missing = count == 0
        shares = [missing.mean(axis=tuple(other for other in range(missing.ndim) if other != axis))
                  for axis in range(missing.ndim)]  # fmt: skip
        axis = max(
            (place for place in range(missing.ndim) if missing.shape[place] > 1), key=lambda place: shares[place].max()
        )
        level = int(shares[axis].argmax())
        count, total = np.delete(count, level, axis), np.delete(total, level, axis)
    return total / count, int(count.sum())
