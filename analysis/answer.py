"""The answer of a sweep in sentences, worded by the evidence.

Each sentence names its number, its 95 % interval and what it rests on. Where an interval holds zero the
sentence says that the data do not show it, never that it is so; where there is no interval it says why. An
association is called one: batch size moves both the sharpness and the gap, so that they go together does not
make one the cause.

The comparisons are fixed before the numbers are seen (largest batch against smallest; smallest batch with the
latest switch against the largest batch), so no sentence picks the best of many.
"""

from dataclasses import dataclass

import pandas as pd

from analysis.association import Association, associate
from analysis.load import BOX_STRONG, MAX_EIG, Sweep, comparable
from analysis.statistics import Correlation, Mean, mean_over_replicates, paired_difference


@dataclass(frozen=True)
class BatchSizeRow:
    """One batch size, over all completed trials without a switch; accuracy and gap are fractions."""

    batch_size: int
    trials: int
    off_target: int
    is_reference: bool
    accuracy: Mean | None
    gap: Mean | None
    box_sharpness: Mean | None
    max_eig: Mean | None


def by_batch_size(sweep: Sweep) -> list[BatchSizeRow]:
    """A row per batch size: means over replicates; the gap is paired with the reference inside replicates."""
    frame = comparable(sweep)
    pure = frame[~frame["is_switched"]]
    references = pure[pure["is_reference"]]
    return [
        BatchSizeRow(
            batch_size=int(size),
            trials=len(rows),
            off_target=int(rows["off_target"].sum()),
            is_reference=bool(rows["is_reference"].all()),
            accuracy=mean_over_replicates(rows, "test_accuracy"),
            gap=paired_difference(references, rows, "test_accuracy"),
            box_sharpness=mean_over_replicates(rows, BOX_STRONG.column, scale="log"),
            max_eig=mean_over_replicates(rows, MAX_EIG.column, scale="log"),
        )
        for size, rows in pure.groupby("batch_size")
    ]


def answer(sweep: Sweep) -> list[str]:
    """Up to three sentences: is there a gap, does sharpness go with it, does a switch close it."""
    return [text for text in (gap_sentence(sweep), association_sentence(sweep), switch_sentence(sweep)) if text]


def gap_sentence(sweep: Sweep) -> str:
    """How much the largest batch loses to the smallest, and at which batch sizes the loss is clear."""
    rows = by_batch_size(sweep)
    if not rows:
        return "No trial without a switch has completed, so there is no gap to measure."
    smallest, largest = rows[0], rows[-1]
    if largest.gap is None or largest.is_reference:
        return "No two batch sizes can be compared, so there is no large-batch gap to measure."
    gap, points = largest.gap, f"{100 * abs(largest.gap.value):.2f} percentage points"
    caveat = _off_target(smallest, largest)
    if gap.interval is None:
        place = "higher" if gap.value < 0 else "lower"
        return (
            f"At batch {largest.batch_size} test accuracy is {points} {place} than at {smallest.batch_size} "
            f"({_replicates(gap)}: no interval, so no evidence of more than chance){caveat}."
        )
    where = f"{_points_interval(gap)}, paired inside {_replicates(gap)}"
    if gap.interval.holds(0):
        return (
            f"The data do not show a large-batch gap at batch {largest.batch_size}: against batch "
            f"{smallest.batch_size} it is {100 * gap.value:+.2f} percentage points ({where}), which holds "
            "zero."
        )
    if gap.value < 0:
        return (
            f"Batch {largest.batch_size} generalizes better than batch {smallest.batch_size}: its test "
            f"accuracy is {points} higher (large-batch gap {where}){caveat}."
        )
    clear = [str(row.batch_size) for row in rows if row.gap and row.gap.interval and row.gap.interval.low > 0]
    return (
        f"Batch {largest.batch_size} generalizes worse than batch {smallest.batch_size}: its test accuracy "
        f"is {points} lower ({where}); the interval lies above zero at batch {', '.join(clear)}{caveat}."
    )


def _off_target(smallest: BatchSizeRow, largest: BatchSizeRow) -> str:
    """A warning where the two batch sizes were not trained equally far."""
    counts = [f"{row.off_target} of {row.trials} trials at batch {row.batch_size}" for row in (smallest, largest)]
    told = [text for text, row in zip(counts, (smallest, largest), strict=True) if row.off_target]
    return f" ({' and '.join(told)} off target: not at equal training loss)" if told else ""


def association_sentence(sweep: Sweep) -> str:
    """Whether box sharpness and the gap go together: matched, and beside it pooled."""
    association = associate(sweep, BOX_STRONG)
    shown, among = headline(association)
    if shown.value is None or shown.interval is None:
        return (
            "There are too few trials to say whether box sharpness and the gap go together "
            f"({shown.trials} trials of {shown.groups} configurations; rank correlation "
            f"{correlation_text(shown)})."
        )
    value = f"{correlation_text(shown)} over {among}"
    if shown.interval.holds(0):
        return (
            "The data do not show that box sharpness and the gap go together: among trials that differ in "
            f"batch size and switch alone their rank correlation is {value}, and the interval holds zero."
        )
    more, tail = ("larger" if shown.value > 0 else "smaller"), ""
    pooled = association.pooled
    if pooled.interval is not None and (pooled.interval.holds(0) or (pooled.interval.low > 0) != (shown.value > 0)):
        seen = "is not clear" if pooled.interval.holds(0) else "turns round"
        tail = f"; pooled over learning rates and splits it {seen} ({correlation_text(pooled)})"
    return (
        f"Among trials that differ in batch size and switch alone, sharper minima go with a {more} gap: "
        f"the rank correlation of box sharpness and gap is {value}, an association, not a cause{tail}."
    )


def switch_sentence(sweep: Sweep) -> str | None:
    """What a start at the smallest batch gains over the large batch alone; None without switched trials."""
    frame = comparable(sweep)
    switched, pure = frame[frame["is_switched"]], frame[~frame["is_switched"]]
    if switched.empty:
        return None
    pick = switched.sort_values(["batch_size", "switch_epoch"], ascending=[True, False]).iloc[0]
    small, large, epoch = int(pick["batch_size"]), int(pick["switch_batch_size"]), int(pick["switch_epoch"])
    same = (switched["batch_size"] == small) & (switched["switch_batch_size"] == large)
    started: pd.DataFrame = switched[same & (switched["switch_epoch"] == epoch)]
    gain = paired_difference(started, pure[pure["batch_size"] == large], "test_accuracy")
    if gain is None:
        return None
    change = (
        f"Going on at batch {large} after {epoch} epochs at batch {small} changes test accuracy by "
        f"{100 * gain.value:+.2f} percentage points against batch {large} alone "
    )
    if gain.interval is None:
        return f"{change}({_replicates(gain)}: no interval)."
    end = "; as the interval holds zero, no clear change" if gain.interval.holds(0) else ""
    return f"{change}({_points_interval(gain)}, paired inside {_replicates(gain)}){end}."


def headline(association: Association) -> tuple[Correlation, str]:
    """The correlation to quote, and what it is over: on target trials, or all where those are too few."""
    on_target, everything = association.matched, association.matched_with_off_target
    if on_target.value is None and everything.value is not None:
        return everything, f"{everything.trials} trials, off target ones included"
    return on_target, f"{on_target.trials} trials"


def correlation_text(correlation: Correlation) -> str:
    """Such as `+0.42 [+0.22, +0.58]`."""
    if correlation.value is None:
        return "undefined"
    interval = correlation.interval
    shown = f" [{interval.low:+.2f}, {interval.high:+.2f}]" if interval else " (no interval)"
    return f"{correlation.value:+.2f}{shown}".replace("-", "−")


def _points_interval(mean: Mean) -> str:
    assert mean.interval is not None
    return f"95 % interval [{100 * mean.interval.low:+.2f}, {100 * mean.interval.high:+.2f}]".replace("-", "−")


def _replicates(mean: Mean) -> str:
    return "1 replicate" if mean.replicates == 1 else f"{mean.replicates} replicates"
