"""The network's output for an example is the example's loss: for problems that are stated as a function to minimize."""

from typing import Any

from torch import Tensor

from trainables.tasks.outputs import prediction_of
from trainables.tasks.task import Task


class OutputLoss(Task):
    """Labels are not looked at; a dataset still has one for each example. The primary metric is the mean loss."""

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        return prediction_of(outputs)
