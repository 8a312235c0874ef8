"""The answer of sweeps/optimizer_ladder.py: a sentence for each goal, a table of the optimizers, and the figure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from analysis.charts.optimizer_ladder import optimizer_ladder_figure
from analysis.charts.style import save
from analysis.data.batch_unit import BatchUnit
from analysis.questions.optimizer_ladder import LadderAtGoal, RungAtGoal, load_ladder
from analysis.questions.steps_to_result import critical_words, goal_words, mean_words, noise_lines, why_no_steps
from analysis.reporting.tuned_steps import basis, doubts
from analysis.stats.means import Mean
from analysis.stats.wording import counted, out_of, plain_number
from trainables.storage.folders import AnyPath, write_atomically


def ladder_lines(folder: AnyPath) -> list[str]:
    """The answer; writes optimizer_ladder.json, and the figure where a goal was reached."""
    goals = load_ladder(folder)
    said = [line for one in goals for line in _goal_lines(one)]
    write_atomically(folder / "optimizer_ladder.json", _as_json(goals).encode())
    reached = [one for one in goals if any(rung.tuned.found is not None for rung in one.rungs)]
    if not reached:
        return said
    figures = save(optimizer_ladder_figure(reached), folder, "optimizer_ladder")
    files = ["optimizer_ladder.json", *(f"figures/{path.name}" for path in figures)]
    tuned = [rung.tuned for one in reached for rung in one.rungs if rung.tuned.found is not None]
    return [*said, basis(tuned), f"In {folder}: {', '.join(files)}"]


def _goal_lines(one: LadderAtGoal) -> Iterator[str]:
    runs = one.rungs[0].tuned.runs
    goal, unit = goal_words(runs, one.goal), runs.batch_unit
    yield _sentence(one, goal, unit)
    replicates = max(rung.tuned.runs.about["replicate"].nunique() for rung in one.rungs)
    for rung in one.rungs:
        found = rung.tuned.found
        if found is None:
            share = f"{rung.tuned.reached} of {rung.tuned.tried} settings reach {goal}"
            kept = ", but no batch size's fastest one does in every replicate" if rung.tuned.reached else ""
            yield f"{rung.name}: {share}{kept}; try an easier goal or a wider range."
            continue
        yield f"{rung.name}: {critical_words(found, unit)}"
        yield from (f"  {line}" for line in noise_lines(found, unit))
        for row in found.rows:
            share = f"({row.reached} of {row.tried} settings reach it)"
            if row.steps is None:
                yield f"  batch {unit.batch(row.batch_size)}: {why_no_steps(row)} {share}"
                continue
            seconds = rung.seconds.get(row.batch_size)
            time = "" if seconds is None else f", {plain_number(seconds.value)} s"
            setting = _setting(rung, row.batch_size)
            needed = f"{counted(mean_words(row.steps), 'steps')}{time} at {setting} {share}"
            yield f"  batch {unit.batch(row.batch_size)}: {needed}{out_of(row.steps, replicates)}"
        yield from (f"  {line}" for line in doubts(rung.tuned))


def _sentence(one: LadderAtGoal, goal: str, unit: BatchUnit) -> str:
    fewest = one.fewest
    if fewest is None:
        return f"No batch size has two optimizers that reach {goal} in every replicate, so they are not compared."
    others = "; ".join(f"{name} takes {_times_as_many(ratio)}" for name, ratio in fewest.ratios)
    at = f"At batch {unit.batch(fewest.batch_size)}"
    text = f"{at}, {fewest.name} needs the fewest steps to {goal}: {mean_words(fewest.steps)}."
    text += f" {others}." if others else " No other run shares a seed with its runs."
    compared = {fewest.name, *(name for name, _ in fewest.ratios)}
    missing = [rung.name for rung in one.rungs if rung.name not in compared and not _reaches(rung, fewest.batch_size)]
    if missing:
        text += f" Not reached there in every replicate: {', '.join(missing)}."
    larger = sorted({size for rung in one.rungs for size in rung.settings if size > fewest.batch_size})
    alone = [f"batch {size} ({rung.name})" for size in larger for rung in one.rungs if _reaches(rung, size)]
    return f"{text} Larger batches that one optimizer alone reaches it with: {', '.join(alone)}." if alone else text


def _reaches(rung: RungAtGoal, size: int) -> bool:
    rows = () if rung.tuned.found is None else rung.tuned.found.rows
    return any(row.batch_size == size and row.steps is not None for row in rows)


def _times_as_many(ratio: Mean) -> str:
    words = f"{plain_number(ratio.value)} times as many"
    if ratio.interval is None:
        why = "one replicate" if ratio.replicates == 1 else "all replicates agree exactly"
        return f"{words} (no interval: {why})"
    verdict = "significant" if ratio.interval.low > 1 else "not significant"
    ends = f"{plain_number(ratio.interval.low)} to {plain_number(ratio.interval.high)}"
    return f"{words} (95 % CI {ends}: {verdict})"


def _setting(rung: RungAtGoal, size: int) -> str:
    values = rung.settings.get(size, {})
    shown = [f"{name.replace('_', ' ')} {plain_number(value)}" for name, value in values.items() if value]
    return ", ".join(shown)


def _as_json(goals: list[LadderAtGoal]) -> str:
    return json.dumps([_goal_json(one) for one in goals], indent=2) + "\n"


def _goal_json(one: LadderAtGoal) -> dict[str, Any]:
    fewest = one.fewest
    return {
        "metric": one.rungs[0].tuned.runs.metric,
        "goal": one.goal,
        "examples_of_losses": one.examples,
        "fewest_steps": None
        if fewest is None
        else {
            "batch_size": fewest.batch_size,
            "optimizer": fewest.name,
            "ratios": {name: _mean_json(ratio) for name, ratio in fewest.ratios},
        },
        "optimizers": {rung.name: _rung_json(rung) for rung in one.rungs},
    }


def _rung_json(rung: RungAtGoal) -> dict[str, Any]:
    found = rung.tuned.found
    critical = None if found is None else found.critical
    return {
        "critical_batch": None if critical is None else _mean_json(critical),
        "batch_sizes": {
            row.batch_size: {
                "steps": _mean_json(row.steps),
                "seconds": _mean_json(rung.seconds.get(row.batch_size)),
                "loss": _mean_json(rung.losses.get(row.batch_size)),
                "setting": dict(rung.settings.get(row.batch_size, {})),
                "settings_that_reach_it": row.reached,
                "settings_tried": row.tried,
            }
            for row in (() if found is None else found.rows)
        },
    }


def _mean_json(mean: Any) -> Mapping[str, float | None] | None:
    if mean is None:
        return None
    ends = (None, None) if mean.interval is None else (mean.interval.low, mean.interval.high)
    low, high = (end if end is not None and abs(end) < float("inf") else None for end in ends)
    return {"value": mean.value, "low": low, "high": high}
