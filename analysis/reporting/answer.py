"""The answer of a sweep in three paragraphs, worded by the evidence: what is free, what predicts it, what helps.

Each statement names its value, its 95 % interval and what it rests on. Where an interval holds zero the statement says
that the difference is not significant, never that there is none; where there is no interval it says why. An
association is called one: batch size moves both the sharpness and the gap, so that they go together does not
make one the cause, and rescaled networks (analysis.questions.rescaling) show that sharpness alone cannot be it.

The comparisons are fixed before the numbers are seen (the largest batch against the smallest; remedies at the largest
batch); where the best of several is named, its p-value and its interval are corrected for how many there were. The
sentences on the gap are those of analysis/reporting/gap_answer.py.
"""

import pandas as pd

from analysis.data.load import NO_REMEDY, Measure, Sweep, attempted
from analysis.data.measure_names import measure_in_words
from analysis.questions.association import (
    Association,
    associate,
    beats_batch_size,
    beyond_hyperparameters,
    compared,
    defined,
    judged_measure,
    matched_correlation,
)
from analysis.questions.sharpness_intervention import has_intervention
from analysis.reporting.gap_answer import by_batch_size as by_batch_size
from analysis.reporting.gap_answer import cost_sentence as cost_sentence
from analysis.reporting.gap_answer import remedy_sentence as remedy_sentence
from analysis.reporting.intervention import card
from analysis.stats.rank_correlation import Correlation
from analysis.stats.wording import correlation_text, fixed

RESCALING = (
    "Sharpness alone cannot be the cause: rescaling the layers of a ReLU network makes its Hessian arbitrarily sharp "
    "without changing the function (Dinh et al. 2017)"
)


def answer(sweep: Sweep) -> list[str]:
    """Three sentences: what batch size costs nothing, whether sharpness predicted it, what remedy helps beyond."""
    return [cost_sentence(sweep), association_sentence(sweep), remedy_sentence(sweep)]


def association_sentence(sweep: Sweep) -> str:
    """What an experiment on the sharpness says; without one, whether sharpness (`judged_measure`) and the gap are
    associated: matched, given the hyperparameters, and pooled.
    """
    if has_intervention(sweep):
        verdict, result, why = card(sweep)
        return " ".join([f"{verdict}.", f"{result[0].upper()}{result[1:]}.", *why])
    measure = judged_measure(sweep)
    if measure is None:
        return "Sharpness was not measured in any trial, so its association with the gap is unknown (`--measures`)."
    association, sharpness = associate(sweep, measure), name_of(measure)
    shown, over, _ = quoted_correlation(sweep, association)
    if shown.value is None or shown.interval is None:
        return (
            f"Whether {sharpness} and the gap are associated is unknown: {why_unknown(shown)} "
            f"({over}; rank correlation {correlation_text(shown)})."
        )
    value, frame = _with_interval(shown, over), compared(sweep)
    on_target = frame[~frame["off_target"]] if shown is association.matched else frame
    alone = _batch_size_alone(on_target, measure)
    if shown.interval.holds(0):
        return (
            f"There is no significant association between {sharpness} and the gap: among trials that differ in batch "
            f"size and switch-point alone, their rank correlation is {value}. {alone}{RESCALING}."
        )
    more = "larger" if shown.value > 0 else "smaller"
    (beyond,) = beyond_hyperparameters(on_target, [measure.column])
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
        f"correlation of {sharpness} and gap is {value}. This is an association, not a cause. "
        f"{controlled}.{turned} {alone}{RESCALING}."
    )


def why_unknown(found: Correlation) -> str:
    """Why there is no correlation of sharpness and gap, or no interval of it."""
    if found.value is None:
        return "sharpness and gap do not both vary between batch sizes"
    if found.replicates == 1:
        return "one replicate cannot show more than chance"
    return "too few batch sizes and settings to rank in each replicate"


def _batch_size_alone(frame: pd.DataFrame, measure: Measure) -> str:
    """How well batch size, which is known before training, goes with the gap, and by how much sharpness exceeds it."""
    alone, better = matched_correlation(frame, "batch_size"), beats_batch_size(frame, measure.column)
    if alone.value is None:
        return ""
    sentence = f"Batch size alone has a rank correlation of {fixed(alone.value, plus=True)} with the gap. "
    if better.value is None or better.interval is None:
        return sentence
    return f"{sentence}Sharpness exceeds it by {_with_interval(better)}. "


def name_of(measure: Measure) -> str:
    """The measure within a sentence: box sharpness, the largest Hessian eigenvalue."""
    words = measure_in_words(measure.measure)
    return f"the {words}" if words.startswith("largest") else words


def quoted_correlation(sweep: Sweep, association: Association) -> tuple[Correlation, str, str]:
    """The correlation to quote, and what it is over, in full and in short: trials on target, or all where those are too
    few.
    """
    found, is_with = defined(association.matched, association.matched_with_off_target)
    off_target = ", including trials off target" if is_with else ""
    tried = int((attempted(sweep)["remedy"] == NO_REMEDY).sum())
    trials = f"{found.trials} trials" if found.trials == tried else f"{found.trials} of {tried} trials"
    replicates = f"{found.replicates} replicate{'s' * (found.replicates != 1)}"
    some = "" if found.trials == tried else f", {trials}"
    return found, f"{trials} in {replicates}{off_target}", f"n = {replicates}{some}{off_target}"


def _with_interval(correlation: Correlation, over: str = "") -> str:
    """Such as `+0.42 (95 % CI +0.22 to +0.58; 144 trials in 4 replicates)`."""
    assert correlation.value is not None
    assert correlation.interval is not None
    ends, further = correlation.interval, f"; {over}" if over else ""
    low, high = fixed(ends.low, plus=True), fixed(ends.high, plus=True)
    return f"{fixed(correlation.value, plus=True)} (95 % CI {low} to {high}{further})"
