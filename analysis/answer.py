"""The answer of a sweep in three sentences, worded by the evidence: what is free, what predicts it, what helps.

Each sentence names its number, its 95 % interval and what it rests on. Where an interval holds zero the
sentence says that the data do not show it, never that it is so; where there is no interval it says why. An
association is called one: batch size moves both the sharpness and the gap, so that they go together does not
make one the cause, and rescaled networks (analysis.rescaling) show that sharpness alone cannot be it.

The comparisons are fixed before the numbers are seen (the largest batch against the smallest; remedies at the largest
batch); where the best of several is named, its p-value is corrected for how many there were.
"""

from dataclasses import dataclass

from analysis.association import Association, associate, beyond_hyperparameters, compared
from analysis.free_batch import MARGIN, FreeBatch, free_batch
from analysis.load import BOX_STRONG, MAX_EIG, Sweep, comparable
from analysis.means import Mean, mean_over_replicates, paired_difference
from analysis.remedies import remedies
from analysis.statistics import Correlation

RESCALING = (
    "Sharpness alone cannot be the cause: rescaling the layers of a ReLU network makes its Hessian arbitrarily sharp "
    "without changing the function (Dinh et al. 2017)"
)


@dataclass(frozen=True)
class BatchSizeRow:
    """One batch size, over all completed trials without a switch or a remedy; accuracy and gap are fractions."""

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
    pure = frame[frame["is_plain"]]
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
    """Three sentences: what batch size costs nothing, whether sharpness predicted it, what remedy helps beyond."""
    return [cost_sentence(sweep), association_sentence(sweep), remedy_sentence(sweep)]


def cost_sentence(sweep: Sweep, margin: float = MARGIN) -> str:
    """The largest batch that costs at most `margin` (a fraction), and what is lost beyond it."""
    rows = by_batch_size(sweep)
    if not rows:
        return "No trial without a switch or a remedy has completed, so there is no gap to measure."
    found, largest = free_batch(sweep, "matched", margin), rows[-1]
    if found is None or largest.gap is None or largest.is_reference:
        return "No two batch sizes can be compared, so there is no large-batch gap to measure."
    at_most = f"{100 * margin:g} percentage points"
    caveat = _off_target(rows[0], largest)
    if largest.gap.interval is None:
        return (
            f"Batch {largest.batch_size} {_change(largest.gap)} against batch {found.reference} "
            f"({_replicates(largest.gap)}: no interval, so no evidence of more than chance){caveat}."
        )
    lost = f"batch {largest.batch_size} {_lost(largest.gap)}"
    if found.largest == found.reference:
        first = found.rows[0]
        bound = "" if first.upper is None else f" (batch {first.batch_size} may lose up to {100 * first.upper:.2f})"
        text = f"No batch above {found.reference} is shown to cost less than {at_most}{bound}; {lost}"
    else:
        passed = next(row for row in found.rows if row.batch_size == found.largest)
        assert passed.upper is not None
        bound = f"it loses at most {100 * passed.upper:.2f}" if passed.upper > 0 else "it loses nothing"
        text = (
            f"Up to batch {found.largest} nothing is lost beyond a margin of {at_most} against batch {found.reference} "
            f"({bound}, one-sided 95 %, paired inside {_replicates(passed.lost)})"
        )
        text += f"; {lost}" if found.largest != largest.batch_size else f", the largest tried: it {_lost(largest.gap)}"
    tuned = free_batch(sweep, "tuned", margin)
    return f"{text}{caveat}{_tuned(tuned)}."


def _tuned(found: FreeBatch | None) -> str:
    """What the largest batch loses when each batch size has a setting of its own."""
    if found is None:
        return ""
    by = "a validation set" if found.chosen_by == "validation" else "the other replicates"
    free = f"free up to batch {found.largest}" if found.largest != found.reference else "none is shown to be free"
    return f"; each at its own best setting, chosen by {by}, it {_lost(found.rows[-1].lost)}, and {free}"


def _change(gap: Mean) -> str:
    return f"{'gains' if gap.value < 0 else 'loses'} {100 * abs(gap.value):.2f} percentage points"


def _lost(gap: Mean) -> str:
    """`loses 0.96 percentage points (95 % interval [+0.50, +1.43])`, and whether that is clear."""
    if gap.interval is None:
        return f"{_change(gap)} ({_replicates(gap)}: no interval)"
    unclear = ", which holds zero" if gap.interval.holds(0) else ""
    return f"{_change(gap)} (loss: {_points_interval(gap)}{unclear})"


def _off_target(smallest: BatchSizeRow, largest: BatchSizeRow) -> str:
    """A warning where the two batch sizes were not trained equally far."""
    counts = [f"{row.off_target} of {row.trials} trials at batch {row.batch_size}" for row in (smallest, largest)]
    told = [text for text, row in zip(counts, (smallest, largest), strict=True) if row.off_target]
    return f" ({' and '.join(told)} off target: not at equal training loss)" if told else ""


def association_sentence(sweep: Sweep) -> str:
    """Whether box sharpness and the gap are associated: matched, given the hyperparameters, and pooled."""
    if comparable(sweep)[BOX_STRONG.column].isna().all():
        return "Box sharpness was not measured in any trial, so its association with the gap is unknown (`--measures`)."
    association = associate(sweep, BOX_STRONG)
    shown, over = headline(association)
    if shown.value is None or shown.interval is None:
        return (
            "There are too few trials to tell whether box sharpness and the gap are associated "
            f"({_trials_and_replicates(shown)}; rank correlation {correlation_text(shown)})."
        )
    value = _with_interval(shown, over)
    if shown.interval.holds(0):
        return (
            "There is no significant association between box sharpness and the gap: among trials that differ in batch "
            f"size and switch-point alone, their rank correlation is {value}. {RESCALING}."
        )
    more, frame = ("larger" if shown.value > 0 else "smaller"), compared(sweep)
    on_target = frame[~frame["off_target"]] if shown is association.matched else frame
    beyond = beyond_hyperparameters(on_target, BOX_STRONG.column)
    controlled = "After controlling for batch size and the other hyperparameters"
    if beyond.interval is None:
        controlled += ", these trials cannot show whether an association remains"
    elif beyond.interval.holds(0):
        controlled += f" there is no significant association: {_with_interval(beyond)}"
    else:
        controlled += f" an association remains: {_with_interval(beyond)}"
    pooled, turned = association.pooled, ""
    if pooled.interval is not None and pooled.interval.holds(0):
        turned = f" Pooled over learning rates it is not significant: {_with_interval(pooled)}."
    elif pooled.interval is not None and (pooled.interval.low > 0) != (shown.value > 0):
        turned = f" Pooled over learning rates it has the other sign: {_with_interval(pooled)}."
    return (
        f"Sharper minima go with a {more} gap: among trials that differ in batch size and switch-point alone, the rank "
        f"correlation of box sharpness and gap is {value}. This is an association, not a cause. "
        f"{controlled}.{turned} {RESCALING}."
    )


def remedy_sentence(sweep: Sweep) -> str:
    """The best remedy at the largest batch that any was tried at, or that none was."""
    tried = remedies(sweep)
    if not tried:
        return "No remedy was tried against the gap (`--remedies`, `--switch-epochs`)."
    tried = tuple(remedy for remedy in tried if remedy.batch_size == tried[0].batch_size)
    best = next((remedy for remedy in tried if remedy.helps), tried[0])
    only, at = len(tried) == 1, f"tried at batch {best.batch_size}"
    if best.gain.interval is None:
        start = (
            f"The one remedy {at}, {best.name},"
            if only
            else f"Of {len(tried)} remedies {at}, {best.name} gains most: it"
        )
        return (
            f"{start} changes test accuracy by {100 * best.gain.value:+.2f} percentage points "
            f"({_replicates(best.gain)}: no interval)."
        )
    gain = (
        f"{100 * best.gain.value:+.2f} percentage points ({_points_interval(best.gain)}, corrected p "
        f"{best.corrected_p:.2g})"
    )
    if not best.helps:
        start = f"The one remedy {at} does" if only else f"Of {len(tried)} remedies {at} none does"
        verb = "not clearly help" if only else "clearly help"
        return f"{start} {verb} after correction for all that was tried: {best.name} changes test accuracy by {gain}."
    start = (
        f"The one remedy {at} clearly helps,"
        if only
        else f"Of {len(tried)} remedies {at} the best that clearly helps is"
    )
    text = f"{start} {best.name}: {gain}"
    if best.share is not None and best.share.interval is not None:
        ends = f"[{100 * best.share.interval.low:.0f}, {100 * best.share.interval.high:.0f}]"
        text += f", {100 * best.share.value:.0f} % {ends} of the gap".replace("-", "−")
    if best.seconds_ratio is not None:
        text += f", at {best.seconds_ratio.value:.2g} times the training time"
    if best.box_sharpness_ratio is not None:
        text += f" and {best.box_sharpness_ratio.value:.2g} times the box sharpness"
    return f"{text}."


def headline(association: Association) -> tuple[Correlation, str]:
    """The correlation to quote, and what it is over: on target trials, or all where those are too few."""
    on_target, everything = association.matched, association.matched_with_off_target
    if on_target.value is None and everything.value is not None:
        return everything, f"{_trials_and_replicates(everything)}, including trials off target"
    return on_target, _trials_and_replicates(on_target)


def _trials_and_replicates(correlation: Correlation) -> str:
    return f"{correlation.trials} trials in {correlation.replicates} replicate{'s' * (correlation.replicates != 1)}"


def _with_interval(correlation: Correlation, over: str = "") -> str:
    """Such as `+0.42 (95 % CI +0.22 to +0.58; 144 trials in 4 replicates)`."""
    assert correlation.value is not None
    assert correlation.interval is not None
    ends, further = correlation.interval, f"; {over}" if over else ""
    return f"{correlation.value:+.2f} (95 % CI {ends.low:+.2f} to {ends.high:+.2f}{further})".replace("-", "−")


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
