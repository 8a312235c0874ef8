"""Several goals at once: one that no batch size reaches costs its own answer, not that of the others."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from trainables.runtime.errors import UserError

T = TypeVar("T")


def of_each_goal(goals: Iterable[float], answer: Callable[[float], T]) -> tuple[list[T], list[str]]:
    """The answers of the goals that have one, and a line for each other goal.

    Raises UserError where no goal has an answer.
    """
    found, errors = [], []
    for goal in dict.fromkeys(goals):
        try:
            found.append(answer(goal))
        except UserError as error:
            errors.append(error)
    if not found:
        raise errors[0] if len(errors) == 1 else UserError("; ".join(map(str, errors)))
    return found, [f"No answer: {error}." for error in errors]
