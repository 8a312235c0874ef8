"""The first screen of a sweep: one line that says what was run, and three questions with a verdict and one result each.

The page shows them as cards. The terminal prints them last, in eight lines (`headline_lines`). The sentences behind
each verdict are those of analysis/reporting/answer.py, which the terminal prints before.

A verdict says the main fact. The loss of the largest batch is compared between learning rates, paired inside
replicates and corrected for how many pairs of rates there are (Bonferroni): where any pair differs, the average over
rates describes none of them, so the loss at each rate is named. Sharpness is compared with batch size alone, which is
known before training: by the difference of their rank correlations with the gap, paired inside replicates.

A sweep that has not ended gives no verdict before `enough_is_paired`, and a preliminary one until it ends: results that
are looked at again and again cross any limit in the end.
"""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.data.batch_unit import BatchUnit
from analysis.data.load import NO_REMEDY, Sweep, axes, constants
from analysis.data.metric import Metric
from analysis.data.progress import Progress
from analysis.questions.association import associate, beats_batch_size, compared, judged_measure, matched_correlation
from analysis.questions.free_batch import FreeBatch, Loss, free_batch
from analysis.questions.losses_by_setting import differing_losses
from analysis.questions.remedies import never_completed, remedies
from analysis.questions.sharpness_intervention import has_intervention
from analysis.reporting.answer import (
    association_sentence,
    cost_sentence,
    name_of,
    quoted_correlation,
    remedy_sentence,
    why_unknown,
)
from analysis.reporting.gap_answer import at_each, named_remedy
from analysis.reporting.intervention import card as intervention_card
from analysis.stats.means import Mean
from analysis.stats.rank_correlation import Correlation
from analysis.stats.wording import capitalized, fixed
from trainables.records.matching import SWITCH
from trainables.remedies import REMEDIES
from trainables.units import read_amount

LEAST_REPLICATES = 2  # with a pair at the largest batch
LEAST_SHARE = 0.5  # of the planned trials of every batch size
NEARLY_ALL = 0.8  # of the loss summed over learning rates
MOST_VALUES = 4  # of an axis that are named one by one
MOST_LINES = 8  # of the headline on a terminal
MOST_LETTERS = 40  # of a value; the page's "What was run" holds it whole
NAMES = {
    "batch_size": "batch size",
    "learning_rate": "learning rate",
    "warmup_epochs": "warmup",
    "switch_epoch": "switch",
}
KEPT_AXES = ("axis batch_size", "axis learning_rate")
SEPARATOR, INDENT, NO_BREAK = " · ", "    ", "\N{NO-BREAK SPACE}"
COUNTED = ("seed", "split_seed", *(name for name in SWITCH if name != "switch_epoch"), *REMEDIES)


@dataclass(frozen=True)
class Card:
    """A question, its verdict, the one result that it rests on, and the sentences that say why.

    `result` is empty where there is none. `further` goes on with it where there is room, as on the page.
    """

    question: str
    verdict: str
    result: str
    why: tuple[str, ...]
    further: str = ""


def run_line(sweep: Sweep) -> str:
    """What was run: data, model, optimizer, stopping, grid, seeds, device, date."""
    return SEPARATOR.join(_run_parts(sweep).values())


def _run_parts(sweep: Sweep) -> dict[str, str]:
    """The parts of `run_line` by name, in their order; the axes beyond batch size and learning rate as `axis NAME`."""
    varying, same = axes(sweep.trials), constants(sweep.trials)

    def value(name: str) -> str:
        return _values(varying[name]) if name in varying else str(same.get(name))

    unit = sweep.batch_unit.examples
    examples = f" ({_value(same['train_size'])} training {unit})" if same.get("train_size") else ""
    until = _longest(sweep.trials)
    if same.get("target_loss"):
        until = f"to training loss {same['target_loss']:g}"
    named = {"dataset", "model", "optimizer", "train_size", "epochs", "budget", "target_loss", *COUNTED}
    first = [name for name in NAMES if name in varying]
    order = [*first, *(name for name in varying if name not in named and name not in first)]
    seeds, tried = (
        sweep.trials[["seed", "split_seed"]].drop_duplicates(),
        sorted(set(sweep.trials["remedy"]) - {NO_REMEDY}),
    )
    parts = {
        "dataset": f"{value('dataset')}{examples}",
        "model": value("model"),
        "optimizer": value("optimizer"),
        "until": until,
        **{f"axis {name}": f"{NAMES.get(name, name.replace('_', ' '))} {_values(varying[name])}" for name in order},
        "remedies": f"{len(tried)} remed{'y' if len(tried) == 1 else 'ies'}" if tried else "",
        "seeds": f"{len(seeds)} seed{'s' * (len(seeds) != 1)}",
        "trials": f"{len(sweep.trials)} trial{'s' * (len(sweep.trials) != 1)}",
        "device": " and ".join(sorted(sweep.trials["device"].dropna().astype(str).unique())),
        "date": (sweep.started_at or min(sweep.trials["finished_at"].dropna(), default=""))[:10],
    }
    return {name: part for name, part in parts.items() if part and part != "None"}


def _run_lines(sweep: Sweep, width: int, most: int) -> list[str]:
    """`run_line` wrapped between its parts; those that tell the least are left out until it takes `most` lines."""
    parts = _run_parts(sweep)
    further = [name for name in parts if name.startswith("axis ") and name not in KEPT_AXES]
    spare = [*reversed(further), "trials", "device", "remedies", "until", "optimizer", "axis learning_rate", "seeds"]
    while True:
        whole = width - len(INDENT) - len(SEPARATOR)  # a longer part is broken at its spaces
        kept = (part.replace(" ", NO_BREAK) if len(part) <= whole else part for part in parts.values())
        text = f"{NO_BREAK}· ".join(kept)
        lines = [line.replace(NO_BREAK, " ") for line in textwrap.wrap(text, width, subsequent_indent=INDENT)]
        if len(lines) <= most or not spare:
            return lines
        parts.pop(spare.pop(0), None)


def _longest(trials: pd.DataFrame) -> str:
    """How long trials train: `2, 5 epochs or 450 examples`, `up to 9 epochs` with a target; empty if none says."""
    epochs = sorted(trials["epochs"].dropna().unique().tolist())
    budgets = [read_amount("budget", text) for text in trials["budget"].dropna().unique()]
    lengths = [f"{_values(epochs)} epochs"] if epochs else []
    for unit in sorted({budget.unit for budget in budgets}):
        lengths.append(f"{_values(sorted(budget.value for budget in budgets if budget.unit == unit))} {unit}")
    most = "up to " if lengths and trials[["target_metric", "target_test_loss"]].notna().any(axis=None) else ""
    return f"{most}{' or '.join(lengths)}"


def cards(sweep: Sweep) -> list[Card]:
    """The three cards: how large, is it sharpness, what helps."""
    return [_how_large(sweep), _is_it_sharpness(sweep), _what_helps(sweep)]


def headline_lines(sweep: Sweep, progress: Progress | None = None, width: int = 80) -> list[str]:
    """The run, and each question with its verdict and its result, wrapped at `width`.

    At most eight lines, unless the verdicts and results alone take more: the run is shortened to what is left.
    """
    badge, shown = standing(sweep, progress)
    lines = [f"PRELIMINARY: {badge}"] if badge else []
    for card in shown:
        lines.append(f"{card.question} {card.verdict}")
        if card.result:
            lines.append(f"{INDENT}{card.result}")
    answer = [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent=INDENT)]
    left = MOST_LINES - len(answer)
    return [*_run_lines(sweep, width, left if left > 0 else 2), *answer]


def standing(sweep: Sweep, progress: Progress | None) -> tuple[str | None, list[Card]]:
    """What a sweep that has not ended may say so far: n of N, and the cards, none before enough is paired."""
    if sweep.sequential is not None and not sweep.sequential.taken:
        return "No verdict before the first look.", []
    if progress is None or progress.planned is None or progress.is_finished:
        return None, cards(sweep)
    count = f"{progress.ended} of {progress.planned} trials"
    if enough_is_paired(sweep, progress):
        return f"{count}. Verdicts and intervals may change until all have ended.", cards(sweep)
    return f"{count}. No verdict yet: too few trials can be paired with the smallest batch.", []


def enough_is_paired(sweep: Sweep, progress: Progress) -> bool:
    """Whether half of the trials planned of every batch size ended, and the largest is paired in two replicates."""
    planned = [size for size in progress.sizes if size.planned]
    if any(size.ended < LEAST_SHARE * (size.planned or 0) for size in planned):
        return False
    found = free_batch(sweep, "matched")
    largest = max((size.batch_size for size in planned), default=None)
    last = found.rows[-1] if found else None
    if last is None or last.lost is None or last.lost.replicates < LEAST_REPLICATES:
        return False
    return largest is None or last.batch_size >= largest


def _how_large(sweep: Sweep) -> Card:
    question, why, metric = "How large?", _sentences(cost_sentence(sweep)), sweep.metric
    found, unit = free_batch(sweep, "matched"), sweep.batch_unit
    if found is None:
        return Card(question, "Unknown: no two batch sizes can be compared", "", why)
    last = found.rows[-1]
    if last.free and found.largest_noninferior_batch != last.batch_size:  # a smaller one ended the tests
        last = next(row for row in found.rows if not row.free)
    if last.lost is None:
        return Card(question, f"Batch {last.batch_size} diverged", f"{last.diverged} of {last.attempted} trials", why)
    result = f"batch {unit.batch(last.batch_size)} {_loses(metric, last)}"
    if (design := sweep.sequential) is not None:
        result += f", at look {design.look_of(last.batch_size)} of {len(design.looks)}"
    if last.lost.interval is None:
        return Card(question, _without_interval(last.lost), result, why)
    if by_rate := differing_losses(sweep, last.batch_size):
        told = at_each(sweep, last.batch_size, by_rate, "learning_rate")
        return Card(question, _by_rate(found, last, by_rate, unit), result, why, f"by learning rate: {told}")
    by_optimizer = differing_losses(sweep, last.batch_size, "optimizer")
    told = f"by optimizer: {at_each(sweep, last.batch_size, by_optimizer, 'optimizer')}" if by_optimizer else ""
    return Card(question, _size_verdict(metric, found, last, unit), result, why, told)


def _by_rate(found: FreeBatch, last: Loss, by_rate: dict[float, Mean], unit: BatchUnit) -> str:
    worst = max(by_rate, key=lambda rate: by_rate[rate].value)
    total = sum(max(0.0, mean.value) for mean in by_rate.values())
    if by_rate[worst].value <= 0:
        return f"What batch {last.batch_size} gains depends on the learning rate{_diverged(last)}"
    share = "almost only" if by_rate[worst].value >= NEARLY_ALL * total else "mostly"
    where = f"{share} at learning rate {worst:g}"
    return f"Batch {last.batch_size} is worse, {where}{_free(found, last, unit)}{_diverged(last)}"


def _size_verdict(metric: Metric, found: FreeBatch, last: Loss, unit: BatchUnit) -> str:
    assert last.lost is not None
    assert last.lost.interval is not None
    if found.margin is not None and found.largest_noninferior_batch == last.batch_size:
        within = f"{_number(metric, found.margin)} {metric.unit}".strip()
        return f"Batch {last.batch_size} is as good as {found.reference}, within {within}"
    if last.lost.interval.low > 0:
        return f"Batch {last.batch_size} is worse than {found.reference}{_free(found, last, unit)}{_diverged(last)}"
    if last.diverged:
        counted = f"{last.diverged} of {last.attempted} trials"
        return f"Batch {last.batch_size} diverged in {counted}{_free(found, last, unit)}"
    if last.lost.interval.high < 0:
        return f"Batch {last.batch_size} is better than {found.reference}"
    upper = f"{_number(metric, last.lost.interval.high)} {metric.unit}".strip()
    most = f"may lose up to {upper}" if metric.direction == "higher" else f"may be up to {upper} worse"
    return f"Undecided: batch {last.batch_size} {most}{_free(found, last, unit)}"


def _free(found: FreeBatch, last: Loss, unit: BatchUnit) -> str:
    free = found.largest_noninferior_batch
    return f"; free up to {unit.batch(free)}" if found.reference < free < last.batch_size else ""


def _diverged(last: Loss) -> str:
    return f"; {last.diverged} of {last.attempted} trials diverged" if last.diverged else ""


def _is_it_sharpness(sweep: Sweep) -> Card:
    question = "Is it sharpness?"
    if has_intervention(sweep):
        return Card(question, *intervention_card(sweep))
    why = _sentences(association_sentence(sweep))
    measure = judged_measure(sweep)
    if measure is None:
        return Card(question, "Unknown: sharpness was not measured", "", why)
    association = associate(sweep, measure)
    found, _, over = quoted_correlation(sweep, association)
    if found.value is None or found.interval is None:
        return Card(question, f"Unknown: {why_unknown(found)}", "", why)
    result = f"{name_of(measure)} and gap: ρ = {_correlation(found, over)}"
    frame = compared(sweep)
    frame = frame[~frame["off_target"]] if found is association.matched else frame
    alone, better = matched_correlation(frame, "batch_size"), beats_batch_size(frame, measure.column)
    further = "" if alone.value is None else f"of batch size alone {fixed(alone.value, plus=True)}"
    return Card(question, _sharpness_verdict(found, better), result, why, further)


def _sharpness_verdict(found: Correlation, better: Correlation) -> str:
    """`found`: of sharpness with the gap; `better`: by how much that exceeds the correlation of batch size alone."""
    assert found.value is not None
    assert found.interval is not None
    goes = f"Sharper minima have {'larger' if found.value > 0 else 'smaller'} gaps"
    nothing = "Not shown: sharpness and gap are not significantly associated"
    is_shown = not found.interval.holds(0)
    if better.interval is None:
        return f"{goes}; whether more than batch size tells is unknown" if is_shown else nothing
    if better.interval.low > 0:
        return f"{goes}, and sharpness predicts better than batch size alone" if is_shown else nothing
    as_well = "better" if better.interval.high < 0 else "as well"
    return (
        f"{goes}, but batch size alone predicts {as_well}"
        if is_shown
        else (f"Not shown; batch size alone predicts {as_well}")
    )


def _what_helps(sweep: Sweep) -> Card:
    question, why, metric = "What helps?", _sentences(remedy_sentence(sweep)), sweep.metric
    found = remedies(sweep)
    if not found:
        lost = never_completed(sweep)
        return Card(question, "Nothing completed" if lost else "Nothing was tried", "", why)
    best = named_remedy(found)
    tried = [remedy for remedy in found if remedy.batch_size == found[0].batch_size]
    change, sign = best.gain, metric.sign  # in the direction of the metric
    value = f"{'+' if sign * change.value > 0 else ''}{_number(metric, sign * change.value)} {metric.unit}".strip()
    gain = f"at batch {sweep.batch_unit.batch(best.batch_size)}: {value} {_ends(metric, change, best.attempted, sign)}"
    result = f"{best.name} {gain}"
    if best.gain.interval is None:
        return Card(question, _without_interval(best.gain), result, why)
    if not best.helps:
        of = "The one remedy tried is" if len(tried) == 1 else f"None of {len(tried)} remedies is"
        return Card(question, f"{of} shown to help", result, why)
    back = ""
    if best.share is not None and best.share.interval is not None:
        back = f", wins back {100 * best.share.value:.0f} % of the gap"
    name = best.name if "=" in best.name else capitalized(best.name)  # an option is written as it is given
    diverged = f"; {best.diverged} of {best.attempted} trials diverged" if best.diverged else ""
    off_target = f"; {best.off_target} of {best.trials} trials off target" if best.off_target else ""
    return Card(question, f"{name} helps{back}{diverged}{off_target}", gain, why)


def _without_interval(mean: Mean) -> str:
    if mean.replicates > 1:
        return "Unknown: all replicates agree exactly, which gives no interval"
    return "Unknown: one replicate cannot show more than chance"


def _loses(metric: Metric, row: Loss) -> str:
    """`loses 0.96 points (95 % CI 0.50 to 1.43, n = 4 replicates)`, `is 0.031 nats per token better (...)`."""
    assert row.lost is not None
    sign = -1 if row.lost.value < 0 else 1
    amount = f"{_number(metric, abs(row.lost.value))} {metric.unit}".strip()
    words = {1: ("loses {}", "is {} worse"), -1: ("gains {}", "is {} better")}[sign]
    verb = words[metric.direction == "lower"].format(amount)
    return f"{verb} {_ends(metric, row.lost, row.attempted, sign)}"


def _ends(metric: Metric, mean: Mean, attempted: int, sign: float = 1.0) -> str:
    """The interval, and what it rests on: of how many `attempted` trials, where some are missing."""
    counted = f"n = {mean.replicates} replicate{'s' * (mean.replicates != 1)}"
    counted += f", {mean.trials} of {attempted} trials" if mean.trials < attempted else ""
    if mean.interval is None:
        return f"(no interval, {counted})"
    low, high = sorted((sign * mean.interval.low, sign * mean.interval.high))
    return f"(95 % CI {_number(metric, low)} to {_number(metric, high)}, {counted})"


def _number(metric: Metric, value: float) -> str:
    return metric.number(value).replace("-", "−")


def _correlation(found: Correlation, over: str) -> str:
    assert found.value is not None
    assert found.interval is not None
    ends = f"{fixed(found.interval.low, plus=True)} to {fixed(found.interval.high, plus=True)}"
    return f"{fixed(found.value, plus=True)} (95 % CI {ends}, {over})"


def _values(found: Sequence[object]) -> str:
    texts = [_value(value) for value in found]
    numbers = [text for text, value in zip(texts, found, strict=True) if value is not None]
    return ", ".join(texts) if len(texts) <= MOST_VALUES else f"{numbers[0]} to {numbers[-1]}"


def _value(value: object) -> str:
    """A value of a setting: whole numbers in full, a long text cut."""
    if value is None:
        return "none"
    if isinstance(value, (int, float)):
        return f"{value:.0f}" if float(value).is_integer() else f"{value:g}"
    text = str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"


def _sentences(text: str) -> tuple[str, ...]:
    """The sentences of a paragraph."""
    return tuple(re.split(r"(?<=[.])\s+(?=[A-Z])", text))
