"""The sections of the page below the map, as data: tables whose rows know their trials, and charts of means.

A section is a title, findings, notes on how to read it, charts and tables. A row of a table may have `where`, a value
or a list of values per column of the trials (or of `marks`): the trials that its numbers rest on, which the page shows
on a click. A sweep that lacks what a section needs has no such section.
"""

from collections.abc import Iterable
from typing import Any

from analysis.data.load import Sweep, axes, comparable, constants, measures_of
from analysis.questions.association import TARGETS, associate, defined
from analysis.questions.critical_batch import critical_batch_sentence
from analysis.questions.importance import cells as importance_cells
from analysis.questions.importance import importance_sentence, importances, target_name
from analysis.questions.rescaling import rescaling, rescaling_sentence
from analysis.questions.threshold_batch import threshold_sentence
from analysis.reporting import tables as tables
from analysis.reporting.gap_answer import population
from analysis.reporting.page.means import batch_size_charts, switch_charts
from analysis.reporting.summary import flag_counts
from analysis.stats.rank_correlation import Correlation
from analysis.stats.wording import correlation_text, in_words
from trainables.runtime.errors import UserError

Section = dict[str, Any]
Table = dict[str, Any]
PLAIN = {"is_plain": True}
COMPARED = {"is_comparable": True, "has_remedy": False}

REMEDIES_NOTE = (
    "Each remedy at each large batch, best first, paired inside replicates among trials that differ in batch "
    "size, switch and remedy alone. Gain: {gain} plain training at this batch; remaining: what the "
    "smallest batch still has ahead. Share: of the gap that is won back, given where the gap is significant. All three "
    "are over the same settings, those that all sides completed, and their intervals hold together with 95 % for all "
    "rows (Bonferroni), so they also hold for the best one. p is corrected for all rows (Holm). Costs and flatness are "
    "ratios to plain training at this batch."
)
AVERAGING_NOTE = (
    "Each average of the weights against the last, raw weights of the same trial. Gain: {gain} the raw weights; "
    "intervals hold together with 95 % for all rows (Bonferroni). Ratios: average over raw, geometric means. All other "
    "results of these trials are of the average."
)
FREE_NOTE = (
    "A batch size costs nothing where the upper end of the 95 % interval of what it loses is below the margin and no "
    "trial diverged where the smallest batch completed. Batch sizes are tested upwards and the first that does not "
    "pass ends it. Matched: at the same settings. Tuned: each batch size at a setting of its own, chosen on other data "
    "than it is judged on."
)
LEADERBOARD_NOTE = (
    "Which measure orders the trials by their gap? Matched: Spearman’s rank correlation inside sets that differ "
    "in batch size and switch alone. Tau: the same as Kendall’s; at matched loss: over pairs of nearly equal "
    "training loss. Partial: what is left when all hyperparameters and their interactions are taken out of both "
    "sides. Psi: granulated Kendall (Jiang et al. 2020). Sign error: in the worst environment, 0.5 is a coin "
    "(Dziugaite et al. 2020); its interval holds for all environments at once. All intervals are 95 % t-intervals "
    "over replicates. p: of the matched correlation, corrected for all rows (Holm). Seconds: mean cost of measuring "
    "a trial. Rows of other quantities are there for comparison."
)
BATCH_SIZE_NOTE = (
    "Completed trials without a switch or a remedy. The cells of a replicate (seed, split_seed) are averaged "
    "first; intervals are 95 % t-intervals over replicates, and a single replicate has none. The gap is paired: "
    "each trial against the reference of its own replicate, learning rate and warmup. Sharpness: geometric mean "
    "[interval]."
)
SWITCH_NOTE = (
    "On the left the large batch from the start, on the right the small batch to the end, in between the epoch "
    "after which training goes on at the large batch. Means and 95 % t-intervals over replicates."
)
IMPORTANCE_NOTE = (
    "Shares of the variance between the plain trials of a complete grid, with replicates as blocks. With interactions: "
    "with what depends on a second hyperparameter too. Noise is taken off each share. p: F-test against the scatter "
    "between replicates, corrected for all rows (Holm). The shares are of this grid: a wider range of a hyperparameter "
    "gives it a larger share."
)
CORRELATION_NOTES = (
    "Each correlation is taken inside every replicate (seed, split_seed) and averaged; the interval is a t-interval "
    "over replicates, and speaks of new seeds and splits for this grid of configurations. Matched: ranks are taken "
    "among trials that differ in batch size and switch alone. Pooled and per learning rate leave out the reference "
    "trials, whose gap is 0 by construction. Trials off target ({off_target}) are left out, except where the view "
    "includes them.",
    "The granulated Kendall coefficient: does a measure order the {error} when one axis varies and all "
    "others, the seed and the split are fixed?",
)


def sections(sweep: Sweep) -> list[Section]:
    """The sections of the page in their order."""
    over, metric = _population(sweep), sweep.metric
    gain = f"test {metric.noun} {'beyond' if metric.direction == 'higher' else 'below that of'}"
    off_target = "missed target" + ("; without one, train accuracy below 99.9 %" if metric.name == "accuracy" else "")
    notes = [note.format(off_target=off_target, error=metric.error) for note in CORRELATION_NOTES]
    found = [
        _section("The remedies", [REMEDIES_NOTE.format(gain=gain), *over], tables=[_remedies(sweep)]),
        _section("Averages of the weights", [AVERAGING_NOTE.format(gain=gain)], tables=[_averaging(sweep)]),
        _section("Which measure predicts the gap", [LEADERBOARD_NOTE], tables=[_leaderboard(sweep)]),
        _section(
            "What costs nothing",
            [FREE_NOTE, *_population(sweep)],
            tables=[_free_batch(sweep)],
            findings=_sentences(sweep),
        ),
        _section("By batch size", [BATCH_SIZE_NOTE, *over], _other_charts(sweep), [_batch_sizes(sweep)]),
        _importance(sweep),
        _section("The switch-point", [SWITCH_NOTE], switch_charts(sweep)),
        _section("Rank correlations", notes, tables=_correlations(sweep)),
        _section("What was run", [], tables=_run(sweep)),
        _section("Flagged and failed", [], tables=_trouble(sweep)),
    ]
    return [section for section in found if section["charts"] or section["tables"]]


def _other_charts(sweep: Sweep) -> list[Section]:
    """The charts by batch size but for the gap, which the first screen shows."""
    return [chart for chart in batch_size_charts(sweep) if not chart["zero"]]


def correlations(sweep: Sweep) -> dict[str, dict[str, str]]:
    """What the map says below itself, by gap and measure."""
    found: dict[str, dict[str, str]] = {target: {} for target in TARGETS}
    for target in TARGETS:
        for measure in measures_of(sweep):
            pair = associate(sweep, measure, target)
            matched = _over(*defined(pair.matched, pair.matched_with_off_target))
            pooled = _over(*defined(pair.pooled, pair.pooled_with_off_target))
            found[target][measure.column] = f"Rank correlation: matched {matched}, pooled {pooled}."
    return found


def _over(found: Correlation, with_off_target: bool) -> str:
    which = " off target too" if with_off_target else ""
    return f"{correlation_text(found)} over {found.trials} trials{which}"


def _section(
    title: str,
    notes: Iterable[str],
    charts: Iterable[Section] = (),
    tables: Iterable[Table | None] = (),
    findings: Iterable[str] = (),
) -> Section:
    kept = [table for table in tables if table is not None and table["rows"]]
    name = "section-" + title.lower().replace(" ", "-")
    return {
        "id": name,
        "title": title,
        "findings": list(findings),
        "notes": list(notes),
        "charts": list(charts),
        "tables": kept,
    }


def _table(caption: str, head: list[str], rows: Iterable[Section], *, folded: bool = False) -> Table:
    return {"caption": caption, "head": head, "rows": list(rows), "folded": folded}


def _population(sweep: Sweep) -> list[str]:
    """What the intervals speak of, where there can be any."""
    return [population(sweep)] if len(comparable(sweep)) else []


def _remedies(sweep: Sweep) -> Table:
    gain, remaining = (sweep.metric.difference_label(name) for name in ("gain", "remaining"))
    head = ["remedy", "batch size", gain, "p", "share bought back [%]", remaining, "training time", "steps",
            "box sharpness", "largest eigenvalue"]  # fmt: skip
    rows = tables.remedy_rows(sweep)
    return _table("Remedies", head, ({"cells": cells, "where": {"trial_id": trials}} for cells, trials in rows))


def _averaging(sweep: Sweep) -> Table:
    gain = sweep.metric.difference_label("gain")
    head = ["average", "batch size", gain, "train loss", "box sharpness", "largest eigenvalue"]
    rows = tables.averaging_rows(sweep)
    return _table("Averages", head, ({"cells": cells, "where": {"trial_id": list(keys)}} for cells, keys in rows))


def _leaderboard(sweep: Sweep) -> Table | None:
    board = tables.standings(sweep)
    if board is None:
        return None
    head = ["predictor", "matched", "tau", "at matched loss", "partial", "psi", "worst sign error", "p", "seconds"]
    where = COMPARED if board.off_target_too else {**COMPARED, "off_target": False}
    rows = ({"cells": cells, "where": where} for cells in tables.leaderboard_rows(board))
    return _table("Predictors of the large-batch gap, best first", head, rows)


def _free_batch(sweep: Sweep) -> Table:
    loses = sweep.metric.difference_label("loses" if sweep.metric.direction == "higher" else "is worse by")
    head = ["comparison", "batch size", "compared", loses, "at most", "costs nothing"]
    rows = tables.free_batch_rows(sweep)
    return _table(
        "What a batch size loses to the smallest",
        head,
        ({"cells": cells, "where": {**PLAIN, "batch_size": size}} for size, cells in rows),
    )


def _sentences(sweep: Sweep) -> list[str]:
    return [threshold_sentence(sweep), critical_batch_sentence(sweep)]


def _batch_sizes(sweep: Sweep) -> Table:
    head = ["batch size", "replicates", sweep.metric.label(), sweep.metric.gap_label,
            "box sharpness, epsilon 1e-3, strong [%]", "largest Hessian eigenvalue"]  # fmt: skip
    rows = tables.batch_size_rows(sweep)
    return _table(
        "Means by batch size", head, ({"cells": cells, "where": {**PLAIN, "batch_size": size}} for size, cells in rows)
    )


def _importance(sweep: Sweep) -> Section:
    head = ["source", "share", "with interactions", "p"]
    known = importances(sweep)
    found = [
        _table(
            f"Shares of the variance of the {target_name(sweep, part.rows[0].target)}",
            head,
            ({"cells": [row.hyperparameter, *importance_cells(row)]} for row in part.rows),
        )
        for part in known
    ]
    sentences = [importance_sentence(sweep, part) for part in known]
    return _section("Which hyperparameter matters", [IMPORTANCE_NOTE], tables=found, findings=sentences)


def _counter_example(sweep: Sweep) -> Table:
    head = ["measure", "before", "after rescaling", "ratio"]
    try:
        found = rescaling(sweep)
    except UserError as error:
        return _table("The counter-example is missing", head, [{"cells": [str(error), "–", "–", "–"]}])
    changes = ([row.measure, *map(tables.shown, (row.before, row.after, row.ratio))] for row in found.rows)
    return _table(f"The counter-example. {rescaling_sentence(found)}", head, ({"cells": cells} for cells in changes))


def _correlations(sweep: Sweep) -> list[Table]:
    if comparable(sweep).empty:
        return []
    kendall = tables.kendall_table(sweep)
    where = {**COMPARED, "off_target": False}
    return [
        _table(
            f"Granulated Kendall coefficient with the {sweep.metric.error}, by axis",
            ["measure", *kendall["axes"], "mean"],
            ({"cells": cells, "where": where} for cells in kendall["rows"]),
        ),
        _counter_example(sweep),
        _table(
            "Spearman’s correlation of every measure with every target, 95 % t-intervals over replicates",
            ["target", "measure", "view", "rho", "trials", "replicates"],
            ({"cells": cells} for cells in tables.correlation_rows(sweep)),
            folded=True,
        ),
    ]


def _run(sweep: Sweep) -> list[Table]:
    varying = {in_words(name): ", ".join(map(tables.shown, values)) for name, values in axes(sweep.trials).items()}
    same = {in_words(name): tables.shown(value) for name, value in constants(sweep.trials).items()}

    def facts(caption: str, entries: dict[str, str], *, folded: bool = False) -> Table:
        return _table(caption, [], ({"cells": list(entry)} for entry in entries.items()), folded=folded)

    return [
        facts("The run", tables.run_facts(sweep)),
        facts("Axes: what varies", varying),
        facts("Constants: what is the same in all trials", same, folded=True),
    ]


def _trouble(sweep: Sweep) -> list[Table]:
    unfinished = tables.unfinished_trials(sweep)
    lost = ({"cells": cells, "where": {"trial_id": key}} for key, cells in unfinished)
    flagged: dict[str, list[str]] = {flag: [] for flag in flag_counts(sweep)}
    for key, flags in zip(sweep.trials["trial_id"], sweep.trials["flags"], strict=True):
        for flag in flags if flags is not None else ():
            if flag in flagged:
                flagged[flag].append(key)
    rows = ({"cells": [flag], "where": {"trial_id": keys}} for flag, keys in flagged.items())
    return [
        _table("Diverged and failed trials", ["status", "trial", "why"], lost),
        _table("Flags", ["flag"], rows),
    ]
