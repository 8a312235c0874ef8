"""Loss and metrics of a network on clean data: eval mode, no augmentation, no weight decay."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.data.rows import Examples, tensor_of
from trainables.runtime.errors import UserError
from trainables.runtime.float32 import large_products
from trainables.runtime.in_place import WAY_OUT, changes
from trainables.tasks.by_name import load_task
from trainables.tasks.metrics import Metric, Value, merged
from trainables.tasks.outputs import tensors_of
from trainables.tasks.task import Task

CHUNK_NUMBERS = 2**20  # input numbers in a chunk: fixed, so that a value never depends on the free memory
LEAST_ON_DEVICE = 64  # images in a chunk on an accelerator, which fewer large ones would leave idle
TOKEN_NUMBERS = 2**8  # what a token, a single number, counts for: its activations are many
OUTPUT_NUMBERS = 2**28  # of outputs in a chunk of tokens, 1 GiB in float32: logits over a large vocabulary


@dataclass(frozen=True)
class Evaluation:
    """`loss` per unit (nats per example or token for classes), and the task's `metrics` by name."""

    loss: float
    metrics: dict[str, Value]

    @property
    def accuracy(self) -> float | None:
        """In [0, 1]; None where the task has none."""
        return self.metrics.get("accuracy")


@dataclass(frozen=True)
class Totals:
    """What an evaluation adds up: the summed loss of some examples, their weight, and metrics."""

    loss: Tensor
    weight: Tensor | int
    metrics: dict[str, Metric]

    def result(self, task: Task) -> Evaluation:
        """The means. A set without weight has the loss NaN."""
        weight = float(self.weight)
        loss = self.loss.item() / weight if weight else float("nan")
        found = {name: metric.value() for name, metric in self.metrics.items()}
        return Evaluation(loss, {**task.metrics_of_loss(loss), **found})


def evaluate(
    model: nn.Module, inputs: Examples, labels: Examples, task: Task | None = None, *, cuts: list[int] | None = None
) -> Evaluation:
    """The loss (each unit's in the model's precision, summed in float64) and the metrics of `task`.

    `inputs` (N, ...), `labels` (N, ...) as the task takes them; None is classification. Each module's own training mode
    is put back afterwards. `cuts`, sizes that sum to N, are for networks whose outputs depend on what is in a batch.
    Raises UserError for labels that the task has no metrics for.
    """
    task = task or load_task("classification")
    return totals(model, inputs, labels, task, cuts=cuts).result(task)


def totals(
    model: nn.Module, inputs: Examples, labels: Examples, task: Task, *, cuts: list[int] | None = None
) -> Totals:
    """What `evaluate` takes the means of."""
    modes = [(module, module.training) for module in model.modules()]
    task.evaluation_mode(model)
    loss = torch.zeros((), dtype=torch.float64, device=inputs.device)
    size = _chunk_size(model, inputs) if cuts is None else max(cuts)
    chunk, largest = cuts or size, min(size, len(inputs))
    metrics: list[dict[str, Metric]] = []
    weight: Tensor | int = 0
    before = changes(inputs, labels)
    with torch.no_grad(), large_products(model.parameters(), largest):
        for part, targets in zip(inputs.split(chunk), labels.split(chunk), strict=True):
            outputs = model(part)
            metrics.append(task.measured(outputs, targets))
            loss += task.example_losses(outputs, targets).sum(dtype=torch.float64)
            weights = task.example_weights(targets)
            weight = weight + (len(part) if weights is None else weights.sum(dtype=torch.float64))
    if changes(inputs, labels) != before:  # by the network or the task: parts are views
        raise UserError(f"`model` and `task` must not change inputs or labels in place: {WAY_OUT}")
    for module, training in modes:
        module.training = training
    return Totals(loss, weight, {name: merged([one[name] for one in metrics]) for name in metrics[0]})


def _chunk_size(model: nn.Module, inputs: Examples) -> int:
    """How many examples are evaluated at once; the same whatever else is in memory."""
    if inputs.is_floating_point():
        least = 1 if inputs.device.type == "cpu" else LEAST_ON_DEVICE
        return max(least, CHUNK_NUMBERS // max(1, inputs[0].numel()))
    with torch.no_grad():
        outputs = sum(tensor.numel() for tensor in tensors_of(model(tensor_of(inputs[:1]))))
    size = CHUNK_NUMBERS // (max(1, inputs[0].numel()) * TOKEN_NUMBERS)
    return max(1, min(size, OUTPUT_NUMBERS // max(1, outputs)))
