"""The sentences on the gap: which batch size is free, what the largest one loses, and which remedy helps.

Each names its value, its 95 % interval and what it rests on: n of m where trials are missing, how many diverged where
the reference completed, how many are off target, and whether the best learning rates lie at an end of the grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.data.load import BOX_STRONG, MAX_EIG, Sweep, attempted, comparable
from analysis.data.metric import Metric
from analysis.questions.free_batch import FreeBatch, Loss, free_batch, repeated
from analysis.questions.losses_by_setting import By, differing_losses, values_of
from analysis.questions.remedies import Remedy, never_completed, remedies
from analysis.questions.sequential import verdicts_sentence
from analysis.stats.means import Mean, mean_over_replicates, paired_difference

MOST_TOLD = 6  # losses, one by one
Name = Callable[[int], str]  # of a batch size: analysis.data.batch_unit


@dataclass(frozen=True)
class BatchSizeRow:
    """One batch size, over all completed trials without a switch or a remedy.

    `level`: the primary metric on the test set; `gap`: how much better the reference is (of accuracy fractions).

    `trials` of `attempted` completed; `diverged` of the others diverged.
    """

    batch_size: int
    trials: int
    attempted: int
    diverged: int
    off_target: int
    is_reference: bool
    level: Mean | None
    gap: Mean | None
    box_sharpness: Mean | None
    max_eig: Mean | None


def by_batch_size(sweep: Sweep) -> list[BatchSizeRow]:
    """A row per batch size: means over replicates; the gap is paired with the reference inside replicates."""
    frame, tried = comparable(sweep), attempted(sweep)
    plain, tried = frame[frame["is_plain"]], tried[tried["is_plain"]]
    if plain.empty:
        return []
    references, metric, found = plain[plain["is_reference"]], sweep.metric, []
    for size, ended in tried.groupby("batch_size"):
        rows = plain[plain["batch_size"] == size]
        gap = paired_difference(references, rows, metric.score)
        found.append(
            BatchSizeRow(
                batch_size=int(size),
                trials=len(rows),
                attempted=len(ended),
                diverged=int(ended["status"].eq("diverged").sum()),
                off_target=int(rows["off_target"].sum()),
                is_reference=bool(len(rows) and rows["is_reference"].all()),
                level=mean_over_replicates(rows, metric.column),
                gap=repeated(gap, sweep.sequential, rows, references),
                box_sharpness=mean_over_replicates(rows, BOX_STRONG.column, scale="log"),
                max_eig=mean_over_replicates(rows, MAX_EIG.column, scale="log"),
            )
        )
    return found


def population(sweep: Sweep) -> str:
    """What the intervals over replicates speak of, in one sentence."""
    frame = comparable(sweep)
    names = sorted(frame["dataset"].dropna().unique().tolist()) or ["this dataset"]
    replicates, splits = frame["replicate"].nunique(), frame["split_seed"].nunique(dropna=False)
    new = "new random seeds and data splits"
    if splits < replicates:
        new = f"new random seeds on {'this data split' if splits == 1 else f'these {splits} data splits'}"
    return f"Confidence intervals are for {new} of {', '.join(names)}, with the settings of this sweep."


def cost_sentence(sweep: Sweep) -> str:
    """The largest batch that is no worse within the metric's margin, what the largest one loses, and caveats."""
    rows = by_batch_size(sweep)
    if not rows:
        return "No trial without a switch or a remedy has completed, so there is no gap to measure."
    found, metric, batch = free_batch(sweep, "matched"), sweep.metric, sweep.batch_unit.batch
    if found is None:
        nothing = "No two batch sizes can be compared, so there is no large-batch gap to measure."
        return " ".join([nothing, *(_diverged(row) for row in rows if row.diverged)])
    largest = found.rows[-1]
    if largest.lost is not None and largest.lost.interval is None:
        sentences = [
            f"Batch {batch(largest.batch_size)} {_lost(metric, largest.lost)} against batch {batch(found.reference)}, "
            "so there is no evidence of more than chance."
        ]
    else:
        sentences = [_free(metric, found, batch)]
        if largest.batch_size != found.largest_noninferior_batch:
            sentences.append(_at_the_same_settings(metric, largest, batch))
        sentences += [_by(sweep, largest.batch_size, "learning_rate"), _by(sweep, largest.batch_size, "optimizer")]
    sentences += [_not_free(row, found.reference) for row in found.rows if row.diverged]
    told = {row.batch_size for row in found.rows if row.diverged}
    sentences += [_diverged(row) for row in rows if row.diverged and row.batch_size not in told]
    sentences.append(verdicts_sentence(sweep))
    sentences.append(_tuned(metric, free_batch(sweep, "tuned"), largest.diverged, batch))
    missing = [row for row in rows if row.trials < row.attempted and row.diverged < row.attempted - row.trials]
    if missing:
        counted = ", ".join(f"{row.trials} of {row.attempted} at batch {row.batch_size}" for row in missing)
        sentences.append(f"Trials failed, so only some completed: {counted}.")
    off_target = [
        f"{row.off_target} of {row.trials} trials at batch {row.batch_size}" for row in rows if row.off_target
    ]
    off, trials = sum(row.off_target for row in rows), sum(row.trials for row in rows)
    if off_target:
        counted = f"all {trials} trials" if off == trials else ", ".join(off_target)
        sentences.append(f"Off target, so not compared at equal training loss: {counted}.")
    if largest.lost is not None and largest.lost.interval is not None:
        sentences.append(population(sweep))
    return " ".join(sentence for sentence in sentences if sentence)


def _free(metric: Metric, found: FreeBatch, batch: Name) -> str:
    if found.margin is None:
        return (
            f"No batch size was tested for non-inferiority to batch {batch(found.reference)}, because {metric.noun} "
            f"has no default margin; set one{f' in {metric.unit}' if metric.unit else ''} with `--margin`."
        )
    within = f"non-inferior to batch {batch(found.reference)} within {metric.shown_margin()}"
    if found.largest_noninferior_batch == found.reference:
        first = found.rows[0]
        why = "" if first.upper is None else f"batch {first.batch_size} {_at_most(metric, first.upper)}"
        if first.diverged or not why:
            why = f"batch {first.batch_size} {'diverged in some trials' if first.diverged else 'has one replicate'}"
        return f"No batch size above {found.reference} is shown to be {within} ({why})."
    passed = next(row for row in found.rows if row.batch_size == found.largest_noninferior_batch)
    assert passed.lost is not None
    tried = ", the largest tried," if passed is found.rows[-1] else ""
    lost = _lost(metric, passed.lost, _compared(passed))
    free = batch(found.largest_noninferior_batch)
    return f"Up to batch {free}{tried} test {metric.noun} is {within}: it {lost}."


def _at_most(metric: Metric, upper: float) -> str:
    """`may lose up to 0.70`, `may be up to 0.031 worse`."""
    amount = metric.number(upper)
    return f"may lose up to {amount}" if metric.direction == "higher" else f"may be up to {amount} worse"


def _at_the_same_settings(metric: Metric, row: Loss, batch: Name) -> str:
    if row.lost is None:
        return ""
    return f"At the same settings, batch {batch(row.batch_size)} {_lost(metric, row.lost, _compared(row))}."


def _by(sweep: Sweep, batch_size: int, by: By) -> str:
    losses = differing_losses(sweep, batch_size, by)
    if not losses:
        return ""
    loses = "loses" if sweep.metric.direction == "higher" else "is worse by"
    return f"By {by.replace('_', ' ')}, batch {batch_size} {loses} {at_each(sweep, batch_size, losses, by)}."


def at_each(sweep: Sweep, batch_size: int, losses: dict[Any, Mean], by: By) -> str:
    """`0.10 at 0.003, 2.00 at 0.01 (2 of 4 trials)`, `0.10 with adam`; of many those with the least and the most."""
    tried = attempted(sweep)
    tried = tried[tried["is_plain"] & tried["batch_size"].eq(batch_size)]
    of = tried.groupby(values_of(tried, by)).size()
    told = {
        value: f"{sweep.metric.number(mean.value)} ".replace("-", "−")
        + (f"at {value:g}" if by == "learning_rate" else f"with {value}")
        + (f" ({mean.trials} of {of[value]} trials)" if mean.trials < of[value] else "")
        for value, mean in losses.items()
    }
    if len(losses) <= MOST_TOLD:
        return ", ".join(told.values())
    by_loss = sorted(losses, key=lambda value: losses[value].value)
    return f"between {told[by_loss[0]]} and {told[by_loss[-1]]}"


def _tuned(metric: Metric, found: FreeBatch | None, diverged: int, batch: Name) -> str:
    """What the largest batch loses when each batch size has a setting of its own; `diverged`: its trials elsewhere."""
    if found is None:
        return ""
    last = found.rows[-1]
    if last.lost is not None and last.lost.interval is None:
        return ""
    by = "a validation set" if found.chosen_by == "validation" else "the other replicates"
    if last.lost is None:
        loses = "completed no trial at the setting chosen for it"
    else:
        partial = f" in {last.compared} of {last.attempted} replicates" if _is_partial(last) else ""
        loses = _lost(metric, last.lost, partial)
    by_setting = f"With each batch size tuned separately (by {by}), batch {batch(last.batch_size)} {loses}"
    if found.margin is None:
        return f"{by_setting}.{_edges(found)}"
    free = "no larger batch size is shown to be non-inferior"
    if found.largest_noninferior_batch != found.reference:
        free = f"batch sizes up to {batch(found.largest_noninferior_batch)} are non-inferior"
    if last.diverged:
        free += f", as batch {last.batch_size} diverged in {last.diverged} of {last.attempted} replicates"
    elif diverged:
        free += " at settings where they do not diverge"
    return f"{by_setting}; {free}.{_edges(found)}"


def _edges(found: FreeBatch) -> str:
    """That a best learning rate at an end of the grid is no optimum."""
    if found.rates == 1:
        return " Only one learning rate was tried, so the learning rate is not tuned."
    if found.rates == 2:
        return " With two learning rates, every best one is at an end of the grid: add lower and higher ones."
    if not found.edges:
        return ""
    sizes = ", ".join(f"{size} ({count} of {of} replicates)" for size, count, of in found.edges)
    return f" The best learning rate is at an end of the grid, beyond which a better one may lie, for batch {sizes}."


def _not_free(row: Loss, reference: int) -> str:
    times = f"{row.diverged} of {row.attempted} trials"
    return f"Batch {row.batch_size} diverged in {times} where batch {reference} completed, so it is not free."


def _diverged(row: BatchSizeRow) -> str:
    return f"Batch {row.batch_size} diverged in {row.diverged} of {row.attempted} trials."


def _is_partial(row: Loss) -> bool:
    return row.compared < row.attempted


def _compared(row: Loss) -> str:
    return f" in the {row.compared} of {row.attempted} trials that can be compared" if _is_partial(row) else ""


def _lost(metric: Metric, lost: Mean, where: str = "") -> str:
    """`loses 0.96 percentage points (95 % CI 0.50 to 1.43: significant)`; a gain has its own sign."""
    sign, amount = -1 if lost.value < 0 else 1, metric.loses(lost.value, where)
    if lost.interval is None:
        return f"{amount} ({_replicates(lost)}: no interval)"
    clear = "not significant" if lost.interval.holds(0) else "significant"
    return f"{amount} ({_interval(metric, lost, sign)}, {_replicates(lost)}: {clear})"


def remedy_sentence(sweep: Sweep) -> str:
    """The best remedy at the largest batch that any was tried at, or that none was."""
    found, lost = remedies(sweep), never_completed(sweep)
    without = f" No trial completed with {', '.join(lost)}." if lost else ""
    if not found:
        if lost:
            return without.strip()
        return "No remedy was tried against the gap (`--remedies`, `--switch-epochs`)."
    tried, best = [remedy for remedy in found if remedy.batch_size == found[0].batch_size], named_remedy(found)
    only, at = len(tried) == 1, f"tried at batch {sweep.batch_unit.batch(best.batch_size)}"
    compared, metric = best.gain.trials, sweep.metric
    partial = f" in {compared} of {best.attempted} trials" if compared < best.attempted else ""
    gain, changes = metric.signed_difference(metric.sign * best.gain.value) + partial, f"changes test {metric.noun} by"
    if best.gain.interval is None:
        start = f"The one remedy {at} is {best.name}: it" if only else f"Of {len(tried)} remedies {at}, {best.name}"
        text = f"{start} {changes} {gain} ({_replicates(best.gain)}: no interval)"
    else:
        family = best.gain.comparisons
        name = "95 % CI" if family == 1 else f"95 % CI, simultaneous over {family} comparisons,"
        gain += f" ({_interval(metric, best.gain, metric.sign, name)}, corrected p {best.corrected_p:.2g})"
        if best.helps:
            start = f"The one remedy {at} helps:" if only else f"Of {len(tried)} remedies {at}, the best that helps is"
            does = f" {changes}" if only else ":"
            text = f"{start} {best.name}{does} {gain}{_share(best)}"
        else:
            start = f"The one remedy {at} does not" if only else f"Of {len(tried)} remedies {at}, none does"
            verb = "help significantly" if only else "significantly help"
            text = f"{start} {verb}: {best.name} {changes} {gain}"
    return f"{text}.{_caveats(best)}{without}"


def named_remedy(found: Sequence[Remedy]) -> Remedy:
    """The remedy that the answer names: at the largest batch the best that helps, or the best if none does."""
    tried = [remedy for remedy in found if remedy.batch_size == found[0].batch_size]
    return next((remedy for remedy in tried if remedy.helps), tried[0])


def _share(best: Remedy) -> str:
    """What share of the gap is won back, and at what cost."""
    text = ""
    if best.share is not None and best.share.interval is not None:
        ends = f"{100 * best.share.interval.low:.0f} to {100 * best.share.interval.high:.0f} %"
        text += f", {100 * best.share.value:.0f} % of the gap ({ends})".replace("-", "−")
    if best.seconds_ratio is not None:
        text += f", at {best.seconds_ratio.value:.2g} times the training time"
    if best.box_sharpness_ratio is not None:
        text += f" and {best.box_sharpness_ratio.value:.2g} times the box sharpness"
    return text


def _caveats(best: Remedy) -> str:
    text = ""
    if best.diverged:
        text += f" It diverged in {best.diverged} of {best.attempted} trials where plain training did not."
    if best.off_target:
        text += f" {best.off_target} of its {best.trials} trials are off target: not at equal training loss."
    return text


def _interval(metric: Metric, mean: Mean, sign: float, name: str = "95 % CI") -> str:
    assert mean.interval is not None
    low, high = sorted((metric.factor * sign * mean.interval.low, metric.factor * sign * mean.interval.high))
    return f"{name} {low:.{metric.decimals}f} to {high:.{metric.decimals}f}".replace("-", "−")


def _replicates(mean: Mean) -> str:
    return "1 replicate" if mean.replicates == 1 else f"{mean.replicates} replicates"
