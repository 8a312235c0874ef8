"""The data object of the page: what report.html embeds and serve.py sends as data.json.

    name, message            the sweep; what stands in the way (null where nothing does)
    progress                 counts, planned, running, the command that goes on with a stopped sweep (`resume`), ...
    run, badge, cards, notes what was run; n of N where the sweep has not ended; three questions with their verdicts
    gap_chart                the gap by batch size (null without two batch sizes)
    metric                   the primary metric: its columns (test, train), its label on an axis, its factor
    fields                   the columns of the trials: name, label, kind (axis, result, measure, gap, fact), factor
    trials                   {field: [a value per trial]}
    matched                  per trial the number of the set that it is compared in, null where it is in none
    curves                   names, and per trial a list per name (a number where all epochs agree), thinned evenly
    profiles                 per trial_id, rows of one measure at many scales: spectra, paths through the minimum
    correlations             {gap: {measure: sentence}}
    sections                 tables and charts, in the order of the page; a row's `where` finds its trials

Whatever is missing is null, numbers that are not finite too. Floats carry six significant digits, curves four.
"""

from typing import Any

import pandas as pd

from analysis.data.load import NO_REMEDY, Sweep, axes, comparable, measures_of
from analysis.data.metric import Metric
from analysis.data.progress import Progress
from analysis.reporting import tables as tables
from analysis.reporting.headline import run_line, standing
from analysis.reporting.page.lines import curves, plain, profiles
from analysis.reporting.page.means import gap_chart
from analysis.reporting.page.sections import correlations, sections
from analysis.stats.wording import in_words

Data = dict[str, Any]

FACTS = ("train_seconds", "sharpness_seconds", "finished_at", "device", "host")
MARKS = ("is_comparable", "has_remedy", "is_plain", "is_switched", "is_reference", "off_target")


def page_data(sweep: Sweep, progress: Progress) -> Data:
    """The data object of a sweep of which at least one trial ended."""
    return {**trial_data(sweep, progress), **statistics_data(sweep, progress)}


def statistics_data(sweep: Sweep, progress: Progress) -> Data:
    """What is computed over all trials, seconds of work: the verdicts, the correlations, the sections."""
    badge, found = standing(sweep, progress)
    return {
        "run": run_line(sweep),
        "badge": badge,
        "cards": [{**vars(card), "why": list(card.why)} for card in found],
        "notes": list(sweep.notes),
        "gap_chart": gap_chart(sweep),
        "correlations": correlations(sweep),
        "sections": sections(sweep),
    }


def trial_data(sweep: Sweep, progress: Progress) -> Data:
    """What the trials themselves say: fields, values, curves; the statistics empty."""
    frame = _trials(sweep)
    fields = _fields(sweep, frame)
    return {
        **empty_data(sweep.name, progress),
        "metric": metric_data(sweep.metric),
        "fields": fields,
        "trials": {field["name"]: [plain(value) for value in frame[field["name"]].tolist()] for field in fields},
        "marks": {name: frame[name].astype(bool).tolist() for name in MARKS},
        "matched": [plain(value) for value in frame["matched_set"].tolist()],
        "curves": curves(sweep.epochs, frame["trial_id"], sweep.metric),
        "profiles": profiles(sweep),
    }


def empty_data(name: str, progress: Progress | None, message: str | None = None) -> Data:
    """The data object of a sweep without a trial that ended, or that cannot be read: why stands in `message`."""
    return {
        "name": name,
        "message": message,
        "progress": None if progress is None else _progress(progress),
        "run": "",
        "badge": None,
        "cards": [],
        "notes": [],
        "gap_chart": None,
        "metric": None,
        "fields": [],
        "trials": {"trial_id": []},
        "marks": {name: [] for name in MARKS},
        "matched": [],
        "curves": {"names": [], "trials": []},
        "profiles": {},
        "correlations": {},
        "sections": [],
    }


def metric_data(metric: Metric) -> Data:
    """What the page must know of the primary metric to draw curves."""
    return {
        "test": metric.column,
        "train": metric.train_column,
        "label": metric.label(""),
        "factor": metric.factor,
        "loss": f"loss{metric.loss_unit}",
    }


def _progress(progress: Progress) -> Data:
    return {
        "sentence": progress.sentence,
        "resume": progress.resume,
        "counts": progress.counts,
        "planned": progress.planned,
        "ended": progress.ended,
        "is_running": progress.is_running and not progress.is_finished,
        "last_ended_at": progress.last_ended_at and progress.last_ended_at.isoformat(timespec="seconds"),
    }


def _trials(sweep: Sweep) -> pd.DataFrame:
    """All trials in the order of their axes, with the columns of `comparable` where they enter it."""
    trials = sweep.trials
    known = comparable(sweep).set_index("trial_id")
    frame = trials.assign(
        flags=[", ".join(flags) if flags is not None else "" for flags in trials["flags"]],
        test_error=sweep.metric.errors(trials[sweep.metric.column]),
        is_comparable=trials["trial_id"].isin(known.index),
        has_remedy=trials["remedy"] != NO_REMEDY,
    )
    for name in MARKS[2:]:
        frame[name] = frame["trial_id"].isin(known.index[known[name].astype(bool)])
    frame["matched_set"] = frame["trial_id"].map(known["matched_set"])
    for measure in measures_of(sweep):
        if measure.column not in frame:
            frame[measure.column] = frame["trial_id"].map(known[measure.column])
    return frame.sort_values([*tables.telling_axes(sweep), "trial_id"], na_position="first", ignore_index=True)


def _results(metric: Metric) -> dict[str, tuple[str, float]]:
    """The columns of results, with their labels and the factors of their units."""
    nats = metric.loss_unit
    results = {
        metric.column: (metric.label(), metric.factor),
        metric.train_column: (metric.label("train"), metric.factor),
        "test_loss": (f"test loss{nats}", 1),
        "test_perplexity": ("test perplexity", 1),
        "large_batch_loss_gap": (f"large-batch gap of the loss{nats}", 1),
        "train_loss": (f"train loss{nats}", 1),
        "epochs_done": ("epochs", 1),
        "steps": ("steps", 1),
    }
    same = ("test_loss", "large_batch_loss_gap", "train_loss") if metric.name == "nats" else ()
    return {name: shown for name, shown in results.items() if name not in same}


def _gaps(metric: Metric) -> list[tuple[str, str]]:
    """The columns that the map shows against sharpness, with their labels."""
    return [
        ("large_batch_gap", metric.gap_label),
        ("generalization_gap", metric.difference_label("generalization gap")),
        ("test_error", metric.error_label),
    ]


def _fields(sweep: Sweep, frame: pd.DataFrame) -> list[Data]:
    """The columns worth sending: those that vary, and those of which a value is known."""
    telling = tables.telling_axes(sweep)
    others = [name for name in axes(sweep.trials) if name not in telling]
    found: list[Data] = [{"name": name, "label": in_words(name), "kind": "axis"} for name in telling]
    found.append({"name": "status", "label": "status", "kind": "axis"})
    metric = sweep.metric
    found += [
        {"name": name, "label": label, "kind": "result", "factor": factor}
        for name, (label, factor) in _results(metric).items()
    ]
    found += [{"name": name, "label": label, "kind": "gap", "factor": metric.factor} for name, label in _gaps(metric)]
    found += [{"name": part.column, "label": part.label, "kind": "measure"} for part in measures_of(sweep)]
    found += [{"name": name, "label": in_words(name), "kind": "fact"} for name in ("flags", "error", *FACTS)]
    found += [{"name": name, "label": in_words(name), "kind": "fact"} for name in others]
    found.append({"name": "trial_id", "label": "trial", "kind": "key"})
    return [field for field in found if field["kind"] == "axis" or frame[field["name"]].notna().any()]
