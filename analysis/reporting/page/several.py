"""One page of several sweeps: the data of each (data.py) put together, with the sweep as the first axis.

Statistics stay those of each sweep: its verdicts and sections are over its own trials alone. The trials of all sweeps
share the map, the table and the curves, and the gap charts their axes.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.data.load import Sweep, axes
from analysis.data.progress import progress_of
from analysis.reporting.page.data import Data, empty_data, page_data
from analysis.reporting.page.lines import plain
from analysis.reporting.tables import FIRST_COLUMNS
from analysis.stats.wording import in_words
from trainables.runtime.errors import UserError

SWEEP = {"name": "sweep", "label": "sweep", "kind": "axis"}


def several_data(sweeps: Mapping[str, Sweep]) -> Data:
    """The data object of `sweeps`, by name. Raises UserError where their primary metrics differ."""
    metrics = {sweep.metric.label() for sweep in sweeps.values()}
    if len(metrics) > 1:
        raise UserError(
            f"`results` must hold sweeps with one primary metric for one page, got {', '.join(sorted(metrics))}"
        )
    pages = {name: page_data(sweep, progress_of(sweep.trials, sweep.folder)) for name, sweep in sweeps.items()}
    fields = _fields(sweeps, pages)
    found = empty_data(", ".join(sweeps), None)
    found["metric"] = next(iter(pages.values()))["metric"]
    found["fields"] = fields
    found["trials"] = {field["name"]: [] for field in fields}
    found["curves"]["names"] = list(dict.fromkeys(name for page in pages.values() for name in page["curves"]["names"]))
    keys = Counter(key for page in pages.values() for key in page["trials"]["trial_id"])
    for rank, (name, page) in enumerate(pages.items()):
        renamed = {key: f"{name}:{key}" if keys[key] > 1 else key for key in page["trials"]["trial_id"]}
        _add_trials(found, name, sweeps[name], page, renamed)
        found["cards"] += [{**card, "question": f"{name}: {card['question']}"} for card in page["cards"]]
        found["notes"] += [f"{name}: {note}" for note in page["notes"]]
        found["sections"] += [_section(section, rank, name, renamed) for section in page["sections"]]
    found["run"] = "; ".join(f"{name}: {page['run']}" for name, page in pages.items())
    found["badge"] = "; ".join(f"{name}: {page['badge']}" for name, page in pages.items() if page["badge"]) or None
    found["gap_chart"] = _gap_chart({name: page["gap_chart"] for name, page in pages.items() if page["gap_chart"]})
    return found


def _fields(sweeps: Mapping[str, Sweep], pages: Mapping[str, Data]) -> list[Data]:
    """The fields of all pages, each once, and what varies between sweeps alone."""
    found = {field["name"]: field for page in pages.values() for field in page["fields"]}
    for page in pages.values():
        found |= {field["name"]: field for field in page["fields"] if field["kind"] == "axis"}
    between = axes(pd.concat([sweep.trials for sweep in sweeps.values()], ignore_index=True))
    more = [
        {"name": name, "label": in_words(name), "kind": "axis" if name in FIRST_COLUMNS else "fact"}
        for name in between
        if name not in found
    ]
    return [SWEEP, *found.values(), *more]


def _add_trials(found: Data, name: str, sweep: Sweep, page: Data, renamed: Mapping[str, str]) -> None:
    rows = sweep.trials.set_index("trial_id").loc[page["trials"]["trial_id"]]
    for column, values in found["trials"].items():
        if column == "sweep":
            values += [name] * len(rows)
        elif column == "trial_id":
            values += renamed.values()
        elif column in page["trials"]:
            values += page["trials"][column]
        else:  # the same in all trials of this sweep
            values += [plain(value) for value in rows[column].tolist()] if column in rows else [None] * len(rows)
    for mark, values in page["marks"].items():
        found["marks"][mark] += values
    first = 1 + max((number for number in found["matched"] if number is not None), default=-1)
    found["matched"] += [None if number is None else first + number for number in page["matched"]]
    places = {column: place for place, column in enumerate(page["curves"]["names"])}
    for curve in page["curves"]["trials"]:
        values = (
            [None if column not in places else curve["values"][places[column]] for column in found["curves"]["names"]]
            if curve
            else []
        )
        found["curves"]["trials"].append(curve and {**curve, "values": values})
    found["profiles"] |= {renamed[key]: lines for key, lines in page["profiles"].items()}


def _section(section: Data, rank: int, name: str, renamed: Mapping[str, str]) -> Data:
    """A section under the name of its sweep, whose rows find the trials of that sweep alone."""
    tables = [
        {
            **table,
            "caption": f"{table['caption']} ({name})",
            "rows": [_row(row, name, renamed) for row in table["rows"]],
        }
        for table in section["tables"]
    ]
    return {**section, "id": f"{section['id']}-{rank}", "title": f"{section['title']} ({name})", "tables": tables}


def _row(row: Data, name: str, renamed: Mapping[str, str]) -> Data:
    if "where" not in row:
        return row
    where: dict[str, Any] = {**row["where"], "sweep": name}
    if "trial_id" in where:
        wanted = where["trial_id"]
        where["trial_id"] = renamed.get(wanted) if isinstance(wanted, str) else [renamed[key] for key in wanted]
    return {**row, "where": where}


def _gap_chart(charts: Mapping[str, Data]) -> Data | None:
    """The lines of all sweeps in one chart; what is free differs between them, and is not shaded."""
    if not charts:
        return None
    lines = {f"{name}, {line}": points for name, chart in charts.items() for line, points in chart["lines"].items()}
    at = sorted({size for chart in charts.values() for size in chart["at"]})
    return {**next(iter(charts.values())), "lines": lines, "at": at, "free": None}
