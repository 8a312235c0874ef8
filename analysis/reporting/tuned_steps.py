"""The answer of sweeps/steps_to_result.py: a block of lines for each goal, what to doubt, and the figure."""

from collections.abc import Sequence

from analysis.charts.steps_to_result import steps_to_result_figure
from analysis.charts.style import save
from analysis.data.metric import Direction
from analysis.questions.equal_examples import equal_examples_words
from analysis.questions.steps_to_result import goal_words, lines
from analysis.questions.tuned_steps import TunedSteps, asked_of_search, load_tuned_steps
from analysis.stats.wording import counted
from trainables.storage.folders import AnyPath

MARGIN = 0.05


def tuned_steps_lines(
    folder: AnyPath,
    margin: float | None = None,
    goals: Sequence[float] | None = None,
    metric: str | None = None,
    direction: Direction | None = None,
) -> list[str]:
    """The answer to `goals`, all of the search by default; writes the figure, where a goal was reached.

    `margin`: what a batch size may lose at equal examples; None is MARGIN of the hardest goal that was reached. Raises
    UserError for a goal, metric or direction that are not the search's.
    """
    searched = load_tuned_steps(folder)
    asked = asked_of_search(searched, goals, metric, direction)
    shown = [one for one in searched if one in asked]
    said = [line for one in shown for line in goal_lines(one)]
    reached = [one.found for one in shown if one.found is not None]
    if not reached:
        return said
    hardest = next(one for one in reversed(shown) if one.found is not None)
    usual = MARGIN * abs(hardest.goal) or None  # a goal of 0 says no margin
    said += [equal_examples_words(hardest.runs, usual if margin is None else margin), basis(shown)]
    figures = save(steps_to_result_figure(shown[0].runs, reached), folder, "steps_to_result")
    kept = ["optuna.db", "tuning.parquet", "tuning.json", "trials.parquet", "epochs.parquet"]
    kept = [name for name in kept if (folder / name).exists()]
    return [*said, f"In {folder}: {', '.join([*kept, *(f'figures/{path.name}' for path in figures)])}"]


def goal_lines(one: TunedSteps) -> list[str]:
    """What was found of one goal, and what to doubt of it."""
    goal = goal_words(one.runs, one.goal)
    if one.found is None:
        share = f"{one.reached} of {one.tried} settings reach {goal}"
        if one.reached:
            return [f"{share}, but no batch size's fastest one does in every replicate."]
        return [f"{share}, so its steps are not known; try an easier goal or a wider range."]
    return [*lines(one.runs, one.found), *doubts(one)]


def doubts(one: TunedSteps) -> list[str]:
    """What the search leaves open."""
    said = []
    for name, sizes in one.edges.items():
        said.append(
            f"Not settled: the {name.replace('_', ' ')} chosen for batch {', '.join(map(str, sizes))} is at an end of "
            "the range searched; widen the range for all batch sizes."
        )
    rows = () if one.found is None else one.found.rows
    early = ", ".join(str(row.batch_size) for row in rows if row.is_bound)
    if early:
        said.append(
            f"Not settled: runs of batch {early} reach the goal by their first evaluation, so the search cannot tell "
            "their settings apart; evaluate more often (--evaluate-every 10steps)."
        )
    return said


def basis(goals: Sequence[TunedSteps]) -> str:
    """What settings were chosen by, and what they are judged by."""
    replicates = max(int(one.runs.about["replicate"].nunique()) for one in goals)
    return (
        f"Settings were chosen on validation examples with one random seed. The steps are those of "
        f"{counted(replicates, 'other seeds')} and data splits, on the test set; 95 % intervals are over these."
    )
