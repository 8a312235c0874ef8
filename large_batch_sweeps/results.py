"""The results of a sweep in Python: its tables as DataFrames, and a card for each question in a notebook."""

import contextlib
import html
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.data import load
from analysis.data.progress import progress_of
from analysis.reporting.answer import answer
from analysis.reporting.headline import Card, run_line, standing
from large_batch_sweeps.arguments import number
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath, place

CARD = "border:1px solid #8888;border-radius:6px;padding:.6em .9em;flex:1 1 16em;max-width:32em"


class SweepResults:
    """What a sweep has found so far. Functions of this package take one as their first argument.

    `trials`: a row for each trial. `epochs`: a row for each trial and epoch. `measures`: a row for each trial, measure
    and moment; `raw_measures`: the same for the raw weights of trials whose weights are an average of them. Their
    columns: docs/usage.md. Missing values are null.
    """

    def __init__(self, sweep: load.Sweep) -> None:
        self.sweep = sweep

    @property
    def folder(self) -> AnyPath:
        return self.sweep.folder

    @property
    def name(self) -> str:
        return self.sweep.name

    @property
    def trials(self) -> pd.DataFrame:
        return self.sweep.trials

    @property
    def epochs(self) -> pd.DataFrame:
        return self.sweep.epochs

    @property
    def measures(self) -> pd.DataFrame:
        return self.sweep.measures

    @property
    def raw_measures(self) -> pd.DataFrame:
        return self.sweep.raw_measures

    def comparable(self) -> pd.DataFrame:
        """The completed trials that statistics are over, with their groups (`replicate`, `setting`, `matched_set`)."""
        return load.comparable(self.sweep)

    def answer(self) -> list[str]:
        """How large the batch may be, whether sharpness predicts the gap, and what helps: a paragraph each."""
        return answer(self.sweep)

    def __repr__(self) -> str:
        counts = self.trials["status"].value_counts()
        ended = ", ".join(f"{number} {status}" for status, number in counts.items())
        planned = f" of {self.sweep.planned}" if self.sweep.planned else ""
        sizes = sorted(self.trials["batch_size"].unique())
        return f"SweepResults({self.name!r}: {len(self.trials)}{planned} trials ({ended}), batch sizes {_range(sizes)})"

    def _repr_html_(self) -> str:
        badge, cards = standing(self.sweep, progress_of(self.trials, self.folder))
        preliminary = f"<p><b>PRELIMINARY</b> {html.escape(badge)}</p>" if badge else ""
        return (
            f"<p>{html.escape(run_line(self.sweep))}</p>{preliminary}"
            f'<div style="display:flex;flex-wrap:wrap;gap:.6em">{"".join(map(_card, cards))}</div>'
            f"<small>{html.escape(repr(self))}</small>"
        )


def load_sweep(folder: str | AnyPath, *, metric: str | None = None, margin: float | None = None) -> SweepResults:
    """The results in `folder`, such as results/batch_grid, also of a sweep that still runs.

    Args:
        metric: the primary metric of the trials to look at, where the folder has several; None for the most frequent.
        margin: what a batch size may lose and still count as free, in the metric's own unit (a fraction of accuracy);
            None for the one that the sweep has fixed, or the metric's own.

    Raises UserError (a ValueError) where `folder` holds no sweep, no trial has ended yet, or none has the `metric`.
    """
    margin = number("margin", margin)
    sweep = load.load_sweep(folder_of(folder), metric=metric)
    if margin is None:
        return SweepResults(sweep)
    if margin <= 0:
        raise UserError(f"`margin` must be above 0, got {margin:g}")
    return SweepResults(replace(sweep, metric=replace(sweep.metric, margin=margin)))


def folder_of(folder: str | AnyPath) -> AnyPath:
    """The folder that a path or URI names; as in a shell, `~` is the home folder."""
    found = place(folder)
    if isinstance(found, Path):
        with contextlib.suppress(RuntimeError):  # no such user: a folder whose name begins with ~
            return found.expanduser()
    return found


def sweep_of(results: SweepResults) -> load.Sweep:
    """The sweep in `results`. Raises UserError for anything else than results, such as a folder."""
    if not isinstance(results, SweepResults):
        raise UserError(f"`results` must be what lbs.load_sweep(folder) returns, got {type(results).__name__}")
    return results.sweep


def sweeps_of(results: SweepResults | Iterable[SweepResults]) -> list[load.Sweep]:
    """The sweeps in one or several results. Raises UserError as `sweep_of` does."""
    if isinstance(results, SweepResults | str) or not isinstance(results, Iterable):
        results = [results]
    return [sweep_of(one) for one in results]


def _card(card: Card) -> str:
    full = "; ".join(filter(None, (card.result, card.further)))
    question, verdict, result, why = map(html.escape, (card.question, card.verdict, full, " ".join(card.why)))
    folded = f"<details><summary>why?</summary>{why}</details>" if why else ""
    return f'<div style="{CARD}">{question}<br><b>{verdict}</b><br>{result}{folded}</div>'


def _range(sizes: list[int]) -> str:
    return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
