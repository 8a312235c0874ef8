"""Does the gap, and do sharper minima, persist over networks and optimizers? A row for each variant of a sweep.

A variant is a network with its options, and an optimizer; trials of different variants are never compared with each
other. In each, the largest batch is set against the smallest, paired inside replicates. A variant is named by what
sets it apart from the commonest value of each option. Sources: Keskar et al. 2017, and its authors' talk, which calls
the gap resilient to activation, batch norm, dropout and architecture.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.charts.style import save
from analysis.cli.text_table import text_table
from analysis.data.load import Sweep, comparable, load_sweep, number_of
from analysis.paper.comparison import (
    Comparison,
    answered,
    cells,
    compare,
    described,
    fields,
    gap_and_ratio,
    header,
    missing_trials,
    small_and_large,
    wrapped,
    write_table,
)
from trainables.records.matching import SAME_STUDY
from trainables.storage.folders import AnyPath

BASE = "base"


def resilience(sweep: Sweep) -> list[Comparison]:
    """Largest against smallest batch for each variant, the base first.

    Raises UserError where no variant has completed trials at two batch sizes.
    """
    frame = comparable(sweep)
    frame = frame[frame["is_plain"]]
    variants = [rows for _, rows in frame.groupby(number_of(frame, SAME_STUDY))]
    named = zip(variant_names([_options(rows) for rows in variants]), variants, strict=True)
    whole = [(name, rows) for name, rows in named if rows["batch_size"].nunique() > 1]
    if not whole:
        small_and_large(frame.iloc[:0], sweep)  # says what is missing
    found = []
    for name, rows in sorted(whole, key=lambda pair: (pair[0] != BASE, pair[0])):
        small, large = small_and_large(rows, sweep)
        found.append(compare(name, large, small, sweep.metric))
    return found


def variant_names(variants: Sequence[dict[str, Any]]) -> list[str]:
    """What sets each variant apart from the commonest value of each option; `base` where nothing does."""
    keys = sorted({key for variant in variants for key in variant})
    common = {key: Counter(json.dumps(variant.get(key)) for variant in variants).most_common(1)[0][0] for key in keys}
    return [
        ", ".join(f"{key} {_shown(variant.get(key))}" for key in keys if json.dumps(variant.get(key)) != common[key])
        or BASE
        for variant in variants
    ]


def resilience_figure(rows: Sequence[Comparison]) -> Figure:
    """Gap and sharpness ratio of each of the rows of `resilience`."""
    return gap_and_ratio(rows, "the smallest batch of the same variant")


def report(folder: AnyPath) -> list[str]:
    """Writes figure and table; returns the lines of the answer."""
    sweep = load_sweep(folder)
    rows = resilience(sweep)
    save(resilience_figure(rows), folder, "resilience")
    write_table(
        folder,
        "resilience",
        [*fields(sweep.metric), "worse", "sharper"],
        [[*cells(r), r.worse, r.sharper] for r in rows],
    )
    table = [
        [*header(sweep.metric), "worse", "sharper"],
        *([*described(r), answered(r.worse), answered(r.sharper)] for r in rows),
    ]
    return [
        *text_table(table),
        *wrapped(
            "Largest batch against smallest of each variant, paired; 95 % t-intervals over replicates, not corrected "
            "for the number of variants. *: holds trials off target.",
            missing_trials(sweep),
        ),
        "",
        *wrapped(
            _counts("worse", [row.worse for row in rows]),
            _counts("sharper", [row.sharper for row in rows])
            if any(row.ratio is not None for row in rows)
            else "Box sharpness was not measured.",
        ),
    ]


def _counts(word: str, values: list[bool | None]) -> str:
    same, other, undecided = (sum(value is kind for value in values) for kind in (True, False, None))
    return (
        f"The large batch is significantly {word} in {same} of {len(values)} variants, significantly the other way "
        f"round in {other}, and the difference is not significant in {undecided}."
    )


def _options(rows: pd.DataFrame) -> dict[str, Any]:
    first = rows.iloc[0]
    return {"model": first["model"], "optimizer": first["optimizer"], **json.loads(first["model_options"])}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(str(part) for part in value)
    return {True: "on", False: "off", None: "default"}.get(value, str(value)) if not isinstance(value, str) else value
