"""What the results of a training are of: columns of trials.parquet that follow from its task and its last losses."""

import math
from typing import Any

from trainables.tasks.task import Task
from trainables.training.loop import Training


def task_row(task: Task) -> dict[str, Any]:
    """What the metrics of a trial are."""
    return {
        "task": task.name,
        "metric": task.metric,
        "metric_unit": task.unit,
        "metric_direction": task.direction,
    }


def perplexity(training: Training, loss: float) -> float | None:
    """exp of the loss per token; None where examples, not tokens, have labels."""
    return math.exp(min(loss, 700.0)) if is_of_tokens(training) else None


def is_of_tokens(training: Training) -> bool:
    """Whether each token has a label."""
    return training.task.has_classes and training.data.train_labels.ndim > 1
