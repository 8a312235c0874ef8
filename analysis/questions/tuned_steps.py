"""The steps to each goal of sweeps/steps_to_result.py: settings searched by one seed, and judged by others.

The search of a batch size (Optuna, validation examples) says which setting is the fastest to a goal, and what share of
the settings that were tried comes to it at all. Other seeds and draws of the training examples train that setting
again. Their steps on the test set are S(B), so nobody is judged by the runs that chose it.

Trap: a setting that reaches the goal in the search, but not in every replicate, leaves its batch size without a value.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.data.load import load_sweep
from analysis.data.metric import Direction
from analysis.data.runs import Runs, read_results
from analysis.questions.steps_to_result import StepsAtBatch, StepsToResult, steps_to_result
from analysis.stats.wording import exact_number, setting_value
from trainables.runtime.errors import UserError, quoted
from trainables.storage.folders import AnyPath, read_file

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TunedSteps:
    """One goal: the `runs` at the settings chosen for it; `found` is None where none of them reaches it everywhere.

    `reached` and `tried`: settings of the search, all batch sizes together. `edges`: by hyperparameter, the batch sizes
    whose chosen value is at an end of its range.
    """

    goal: float
    runs: Runs
    found: StepsToResult | None
    reached: int
    tried: int
    edges: Mapping[str, tuple[int, ...]]


def is_search(folder: AnyPath) -> bool:
    """Whether sweeps/steps_to_result.py has written `folder`. Raises UserError for a damaged tuning.json."""
    path = folder / "tuning.json"
    if not path.is_file():
        return False
    try:
        return "goals" in json.loads(read_file(path))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"`results` must hold a whole tuning.json, got {path}, which cannot be read ({quoted(error)}); without "
            "that file the answer is of the trials alone"
        ) from error


def is_ladder(folder: AnyPath) -> bool:
    """Whether the search in `folder` has several optimizers, as those of sweeps/optimizer_ladder.py have."""
    return read_search(
        folder, lambda about, _: any("optimizer" in cell for cell in about["cells"]), "sweeps/steps_to_result.py"
    )


def load_tuned_steps(folder: AnyPath) -> list[TunedSteps]:
    """A `TunedSteps` for each goal, the easiest first. Raises UserError where the folder is not of such a search."""

    def find(about: dict[str, Any], tuning: pd.DataFrame) -> list[TunedSteps]:
        goals, cells = about["goals"], about["cells"]
        if any("optimizer" in cell for cell in cells):
            raise UserError(
                f"`results` must be of one optimizer, got a ladder of several in {folder}; "
                f"python analysis/optimizer_ladder.py {folder} shows them"
            )
        runs = read_results(load_sweep(folder), goals["column"], goals["direction"])
        return [of_goal(runs, cells, tuning, k, goal) for k, goal in enumerate(goals["values"])]

    return read_search(folder, find, "sweeps/steps_to_result.py")


def asked_of_search(
    searched: Sequence[TunedSteps], goals: Sequence[float] | None, metric: str | None, direction: Direction | None
) -> list[TunedSteps]:
    """Those of the `goals`, in this order, or all for None.

    Raises UserError for goals, a metric or a direction by which the search did not choose settings.
    """
    own = searched[0].runs
    for option, given, known in (("metric", metric, own.metric), ("direction", direction, own.direction)):
        if given not in (None, known):
            raise UserError(f"`--{option}` must be {known}, by which the search chose its settings, got {given}")
    if not goals:
        return list(searched)
    found = {}
    for goal in goals:
        one = next((one for one in searched if math.isclose(goal, one.goal, rel_tol=1e-9)), None)
        if one is None:
            said, got = " or ".join(exact_number(one.goal) for one in searched), exact_number(goal)
            raise UserError(f"`--goal` must be one that the search chose settings for ({said}), got {got}")
        found[one.goal] = one
    return [*found.values()]


def read_search(folder: AnyPath, find: Callable[[dict[str, Any], pd.DataFrame], T], script: str) -> T:
    """What `find` makes of tuning.json and tuning.parquet. Raises UserError where they are not as `script` writes."""
    try:
        about = json.loads(read_file(folder / "tuning.json"))
        tuning = pq.read_table(pa.BufferReader(read_file(folder / "tuning.parquet"))).to_pandas()
        if tuning.empty:
            raise UserError(f"`results` must hold trials of a search, got none in {folder / 'tuning.parquet'}")
        return find(about, tuning)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            f"`results` must be a folder that {script} has written, got {folder}, without tuning.json or tuning.parquet"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"`results` must be a folder that {script} has written, got {folder} "
            f"({type(error).__name__}: {quoted(error)})"
        ) from error


def of_goal(runs: Runs, cells: list[dict[str, Any]], tuning: pd.DataFrame, number: int, goal: float) -> TunedSteps:
    """Goal number `number` of a search with these `cells` of tuning.json, trials in `tuning`, and `runs` that judge."""
    chosen = {trial for cell in cells for trial in cell["trials"].get(repr(goal), [])}
    own = dataclasses.replace(
        runs,
        about=runs.about[runs.about.index.isin(chosen)],
        curves=runs.curves[runs.curves["run"].isin(chosen)].reset_index(drop=True),
    )
    try:
        found = steps_to_result(own, goal) if len(own.about) else None
    except UserError:  # no batch size reaches it in every replicate
        found = None
    settings = tuning[tuning["status"] != "failed"]
    reached = settings["steps_to_goals"].map(lambda steps: steps is not None and pd.notna(steps[number])).astype(bool)
    counts = {int(size): (int(flags.sum()), len(flags)) for size, flags in reached.groupby(settings["batch_size"])}
    if found is not None:
        judged = {row.batch_size: row for row in found.rows}
        settings_of = chosen_settings(cells, goal)
        rows = tuple(
            _searched(judged.get(size), size, *counts[size], settings_of.get(size, {})) for size in sorted(counts)
        )
        found = dataclasses.replace(found, rows=rows)
    return TunedSteps(
        goal=goal,
        runs=own,
        found=found,
        reached=int(reached.sum()),
        tried=len(reached),
        edges=_edges({cell["batch_size"]: cell["edges"].get(repr(goal), []) for cell in cells}),
    )


def _edges(by_size: Mapping[int, list[str]]) -> dict[str, tuple[int, ...]]:
    names = dict.fromkeys(name for found in by_size.values() for name in found)
    return {name: tuple(size for size, found in by_size.items() if name in found) for name in names}


def chosen_settings(cells: list[dict[str, Any]], goal: float) -> dict[int, dict[str, float]]:
    """By batch size, the hyperparameters that the search chose for `goal`, where some setting reaches it."""
    chosen = {cell["batch_size"]: cell["chosen"].get(repr(goal)) for cell in cells}
    return {
        size: {name: value for name, value in one.items() if name != "number"}
        for size, one in chosen.items()
        if one is not None
    }


def _searched(
    row: StepsAtBatch | None, size: int, reached: int, tried: int, setting: Mapping[str, float]
) -> StepsAtBatch:
    """The row of a batch size with its chosen setting and the counts of its search; None: nothing was trained again."""
    if row is None:
        row = StepsAtBatch(size, "", None, None, None, 0, 0, False)
    text = ", ".join(f"{name} {setting_value(value)}" for name, value in setting.items() if value)
    return dataclasses.replace(row, setting=text, reached=reached, tried=tried, judged=(row.reached, row.tried))
