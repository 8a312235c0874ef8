"""How much of the large-batch gap remains when every batch size is tuned separately: the answer, a table and a figure.

Reads what sweeps/tuned_gap.py has left. Two comparisons of each batch size with the smallest, inside replicates (seed
and draw of the training examples), of trials that have tested once:

    tuned gap    score(smallest at its best) - score(this batch at its own best)
    untuned gap  score(smallest at its best) - score(this batch at the smallest's best)
    gained       untuned gap - tuned gap: what tuning this batch by itself is worth

of the scores of analysis.data.metric, with 95 % t-intervals over the replicates: for new random seeds and draws of the
training examples. They hold for the values that were chosen and for this test set: another search could choose others.
Validation results are of the tuning trials, one seed, the best of many, so too good; test results are of fresh ones. If
a chosen learning rate is at an end of its range, a better one may lie beyond, and the comparison is not fair to that
batch size; the answer says so. Nor is it where a search chose a setting that does significantly worse on the test set
than that of the smallest batch. It also says in how many replicates a batch size completed, and that one that diverged
where the smallest did not is not free.
"""

import textwrap
from collections.abc import Callable

from analysis.charts.style import save
from analysis.charts.tuned_gap import basis, tuned_gap_figure
from analysis.data.load import NO_REMEDY
from analysis.data.metric import Metric
from analysis.questions.tuned_cells import RATE, TunedCell, TunedGap, load_tuned_gap
from analysis.reporting.summary import plus_minus
from analysis.stats.means import Mean
from trainables.optimizer_settings import MOMENTS
from trainables.storage.folders import AnyPath

COLUMNS = 80


def answer(found: TunedGap) -> list[str]:
    """The sentences, worded by the evidence: the largest batch, what tuning does to it, remedies, what is unfair."""
    metric, plain = found.metric, [cell for cell in found.cells if cell.remedy == NO_REMEDY]
    reference, largest = plain[0], plain[-1]
    if reference.best is None:
        return [f"No tuning trial of {reference.name} has come to a result yet, so there is nothing to compare with."]
    sentences = []
    if largest is not reference:
        sentences.append(_verdict(metric, reference, largest, found.batch_unit.batch))
    for cell in found.cells:
        if cell.remedy != NO_REMEDY and cell.batch_size == largest.batch_size and cell.tuned_gap is not None:
            loses = _loses(metric, cell.tuned_gap, reference)
            sentences.append(f"Tuned with {cell.remedy}, batch {found.batch_unit.batch(cell.batch_size)} {loses}.")
    unfair = [cell.name for cell in found.cells if RATE in cell.edges]
    if unfair:
        sentences.append(
            f"Not settled: the learning rate chosen for {', '.join(unfair)} lies at an end of the range searched, and "
            "a better one may lie beyond; widen the range for all."
        )
    worse = [cell.name for cell in found.cells if cell.gained is not None and _sign(cell.gained) < 0]
    if worse:
        sentences.append(
            f"Not settled: for {', '.join(worse)} the search chose a setting that is significantly worse than that of "
            f"{reference.name}; give it more --trials, or a later --grace-epochs."
        )
    others = [f"{name} of {cell.name}" for cell in found.cells for name in cell.edges if name != RATE]
    if others:
        sentences.append(f"At an end of its range too: {', '.join(others)}.")
    without = [cell.name for cell in found.cells if cell.best is None]
    if without:
        sentences.append(f"No tuning trial had a finite result for {', '.join(without)}.")
    return sentences


def _verdict(metric: Metric, reference: TunedCell, largest: TunedCell, batch: Callable[[int], str]) -> str:
    tuned, untuned, gained = largest.tuned_gap, largest.untuned_gap, largest.gained
    if tuned is None or untuned is None:
        return f"{largest.name.capitalize()} has not been retrained, so nothing can be said of its gap."
    partial = tuned.replicates < largest.retrained
    some = f" in {tuned.replicates} of {largest.retrained} replicates" if partial else ""
    text = f"Tuned separately{some}, batch {batch(largest.batch_size)} {_loses(metric, tuned, reference)}; "
    text += f"at the setting that is best for {reference.name}, it {_loses(metric, untuned, None)}."
    if largest.diverged and _sign(tuned) <= 0:
        lost = f"{largest.diverged} of {largest.retrained} retrained trials"
        text += f" It diverged in {lost} where {reference.name} completed, so it is not free"
    elif _sign(untuned) > 0 and _sign(tuned) == 0 and tuned.interval is not None:
        text += " With each tuned, no significant gap remains"
    elif _sign(untuned) > 0 and _sign(tuned) > 0:
        text += " Tuning does not remove the gap"
    elif _sign(untuned) > 0 and _sign(tuned) < 0:
        text += " With each tuned, the gap is reversed"
    elif _sign(tuned) > 0:
        text += " The gap is significant only when both are tuned"
    else:
        text += " There is no significant gap to remove"
    if gained is not None and gained.interval is not None:
        level = "" if _sign(gained) else ", which is not significant"
        text += f"; tuning changes this batch's {metric.noun} by {_shown(metric, gained, metric.sign)}{level}"
    return text + "."


def _sign(mean: Mean) -> int:
    """Which side of 0 the interval lies on; 0 where it holds it or there is none."""
    if mean.interval is None:
        return 0
    return (mean.interval.low > 0) - (mean.interval.high < 0)


def _loses(metric: Metric, gap: Mean, reference: TunedCell | None) -> str:
    against = "" if reference is None else f" against {reference.name}, tuned too"
    if gap.interval is None:
        apart = metric.signed_difference(-metric.sign * gap.value)
        return f"is {apart} apart{against} (too few replicates for an interval)"
    if _sign(gap) == 0:
        return f"shows no significant difference in test {metric.noun}{against}: a gap of {_shown(metric, gap)}"
    if metric.direction == "higher":
        verb = f"{'loses' if gap.value > 0 else 'gains'} test {metric.noun}"
    else:
        verb = f"has a {'higher' if gap.value > 0 else 'lower'} test {metric.noun}"
    return f"{verb}{against}: a gap of {_shown(metric, gap)}"


def _shown(metric: Metric, mean: Mean, sign: float = 1.0) -> str:
    """A difference with its interval and unit; `sign` turns it into the direction of the metric."""
    inside = ""
    if mean.interval is not None:
        low, high = sorted((sign * mean.interval.low, sign * mean.interval.high))
        inside = f" [{metric.signed(low)}, {metric.signed(high)}]"
    return f"{metric.signed(sign * mean.value)}{inside} {metric.difference_unit}".strip()


def tuned_gap_lines(folder: AnyPath) -> list[str]:
    """Answer, table and files on 80 columns; writes the figure."""
    found = load_tuned_gap(folder)
    lines = [line for sentence in answer(found) for line in _wrap(sentence)]
    lines += ["", *_table(found), *_wrap(basis(found))]
    files = ("optuna.db", "tuning.parquet", "tuning.json", "trials.parquet")
    kept = [name for name in files if (folder / name).exists()]
    if any(cell.tuned is not None for cell in found.cells):
        kept += [f"figures/{path.name}" for path in save(tuned_gap_figure(found), folder, "tuned_gap")]
    return [*lines, f"In {folder}:", *(f"  {line}" for line in _wrap(", ".join(kept)))]


def _table(found: TunedGap) -> list[str]:
    metric, gap = found.metric, found.metric.difference_label("gap", short=True)
    own = metric.label("").strip()
    wide = max(13, len(own))
    lines = [
        f" batch  learning  {'validation':>{wide}}  {metric.label():<26}  {gap}",
        f"  size      rate  {own:>{wide}}  tuned        untuned        tuned        untuned",
    ]
    remedy = NO_REMEDY
    for cell in sorted(found.cells, key=lambda cell: cell.remedy != NO_REMEDY):
        if cell.remedy != remedy:
            remedy = cell.remedy
            lines.append(f"with {remedy}:")
        rate = "none" if cell.best is None else f"{cell.best[RATE]:.2g}" + ("*" if RATE in cell.edges else "")
        validation = "" if cell.validation_metric is None else metric.number(cell.validation_metric)
        shown = [plus_minus(metric, mean) for mean in (cell.tuned, cell.untuned)]
        gaps = [plus_minus(metric, mean) for mean in (cell.tuned_gap, cell.untuned_gap)]
        if cell is found.reference:
            shown[1], gaps = "the same", ["reference", "reference"]
        first = f"{cell.batch_size:>6}  {rate:>8}  {validation:>{wide}}"
        lines.append(f"{first}  {shown[0]:<12} {shown[1]:<13}  {gaps[0]:<12} {gaps[1]}")
    return [*lines, *_chosen_moments(found)]


def _chosen_moments(found: TunedGap) -> list[str]:
    """A line for momentum and each beta that were searched: the value chosen for each batch size."""
    lines = []
    for name in MOMENTS:
        chosen = [(cell, cell.best[name]) for cell in found.cells if cell.best is not None and name in cell.best]
        if chosen:
            values = (f"{cell.name} {value:.3g}{'*' * (name in cell.edges)}" for cell, value in chosen)
            lines += _wrap(f"Chosen {name}: {', '.join(values)}.")
    return lines


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, break_long_words=False)
