"""Tasks by name, or by import path: `load_task("regression")`, `load_task("my_package.tasks:Quantile")`."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from trainables.runtime.errors import UserError, did_you_mean, quoted
from trainables.runtime.importing import is_import_path, load_callable
from trainables.runtime.sources import source_fingerprint
from trainables.tasks.binary import Binary
from trainables.tasks.classification import Classification
from trainables.tasks.language import Language
from trainables.tasks.multilabel import Multilabel
from trainables.tasks.names import DIRECTIONS, TASKS
from trainables.tasks.regression import Regression
from trainables.tasks.task import Task

CLASSES: dict[str, type[Task]] = {
    kind.name: kind for kind in (Classification, Language, Regression, Multilabel, Binary)
}


def load_task(name: str, labels: Iterable[Tensor] | None = None) -> Task:
    """The task `name`, one of TASKS or `package.module:Class`, prepared for the `labels` that it will see, in chunks.

    Raises UserError for an unknown name, and for a class that is not a task.
    """
    if is_import_path(name):
        task = _own(name)
    elif name in CLASSES:
        task = CLASSES[name]()
    else:
        near = did_you_mean(name, TASKS)
        raise UserError(f"`task` must be one of {', '.join(TASKS)} or `package.module:Class`, got {name!r}{near}")
    if labels is not None:
        task.prepare(labels)
    return task


def fingerprint_of_task(path: str) -> str:
    """Hash the source of the task at `path`. Raises UserError as `load_task` does."""
    return source_fingerprint(path, "task", load_task)


def _own(path: str) -> Task:
    kind: Any = load_callable(path, "task")
    if not isinstance(kind, type) or not callable(getattr(kind, "loss", None)):
        raise UserError(f"`task` must name a class with a method `loss`, got {path}")
    if not issubclass(kind, Task):  # takes the defaults of what it has not itself
        kind = type(kind.__name__, (kind, Task), {})
    try:
        task: Task = kind()
        task.name = path
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's code may raise any
        raise UserError(
            f"`task` must be a class without arguments, got {path} ({type(error).__name__}: {quoted(error)})"
        ) from error
    if not isinstance(task, Task):
        raise UserError(f"`task` must be a class whose objects are tasks, got {type(task).__name__} from {path}")
    check_words(task, f"`task` {path}")
    return task


def check_words(of: object, who: str) -> None:
    """Raises UserError for a metric, unit or direction that is none."""
    for name in ("metric", "unit"):
        if not isinstance(found := getattr(of, name, ""), str):
            raise UserError(f"{who} must have a `{name}` in words, got {found!r}")
    if (direction := getattr(of, "direction", DIRECTIONS[0])) not in DIRECTIONS:
        raise UserError(f"{who} must have a `direction` of higher or lower, got {direction!r}")
