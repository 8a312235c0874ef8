"""Stochastic variance-reduced gradients, SVRG (Johnson and Zhang 2013, NeurIPS 26, algorithm 1).

    g = grad f_B(w) - grad f_B(a) + grad f(a)

f_B is the loss of a batch and f that of the training set. The anchor a is the weights at the start, and again after
every `svrg_every` of the training. E_B g = grad f(w), as without it. At the anchor g is grad f(a) for every batch, so
it has no variance there; the variance grows with the distance from the anchor. An update costs two gradients of its
batch, and every anchor a pass over the training set in batches of the same size. Both gradients of a batch see the same
dropout masks.

For the mean of batches to be the gradient of the whole, the loss of an example must depend on nothing else. So batch
norm, augmentation, adversarial inputs and gradient noise are refused. With a task that weighs examples, such as padded
tokens, the gradient of a batch is that of a weighted mean, and unbiased only as far as batches weigh the same.

Trap: where weights move far between anchors the two gradients of a batch hardly agree, and the variance can be larger
than without SVRG; deep networks are known for it (Defazio and Bottou 2019, arXiv 1812.04529).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainables.data import Dataset
from trainables.runtime.errors import UserError
from trainables.tasks.task import TINY, Task
from trainables.training.one_loss import Closure, one_loss
from trainables.training.sam_and_robust import weights_restored
from trainables.training.synchronized_batch_norm import batch_norms
from trainables.units import Amount


class VarianceReduction:
    """The gradients of `model` on `data`, with an anchor after every `every`.

    `loss(inputs, labels)` is the mean loss of examples. The full gradient takes `batch_size` of them at once. Raises
    UserError for a network with batch norm, and a task that augments its examples.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        task: Task,
        loss: Callable[[Tensor, Tensor], Tensor],
        every: Amount,
        batch_size: int,
    ) -> None:
        what = None
        if batch_norms(model):
            what = "a network with batch norm"
        elif type(task).augment is not Task.augment:
            what = f"the task {task.name}, which augments its inputs"
        if what is not None:
            raise UserError(
                f"`svrg_every` cannot be used with {what}: the gradient of the training set would not be the mean of "
                "those of its batches"
            )
        self._model, self._data, self._task, self._loss = model, data, task, loss
        self._every, self._batch_size = every, batch_size
        self._done = (0, 0)  # updates, and examples used
        self._anchored: tuple[int, int] | None = None  # what was done when the anchor was taken
        self._anchor: list[Tensor] = []
        self._full: list[Tensor] = []

    def gradient(self, closure: Closure, examples: int) -> Tensor:
        """Leaves g in `.grad`; returns the batch's loss at w.

        `closure()` adds the gradient of the loss of a batch of `examples` to an empty `.grad`, and returns the loss.
        """
        if self._is_due():
            self._take_anchor()
        self._done = (self._done[0] + 1, self._done[1] + examples)
        parameters = self._parameters()
        loss_at = one_loss(self._model, closure)
        self._model.zero_grad()
        loss = loss_at()
        own = _gradients(parameters)
        with weights_restored(parameters):
            with torch.no_grad():
                torch._foreach_copy_(parameters, self._anchor)
            self._model.zero_grad()
            loss_at()
        for parameter, at_weights, at_anchor, full in zip(
            parameters, own, _gradients(parameters), self._full, strict=True
        ):
            parameter.grad = at_weights - at_anchor + full
        return loss

    def _is_due(self) -> bool:
        if self._anchored is None:
            return True
        step, examples = self._every.next_multiple(*self._anchored, len(self._data.train_labels))
        return self._done[0] >= step or self._done[1] >= examples

    def _take_anchor(self) -> None:
        parameters = self._parameters()
        with torch.no_grad():
            self._anchor = [parameter.clone() for parameter in parameters]
        labels = self._data.train_labels
        weights = [self._weight(part) for part in labels.split(self._batch_size)]
        whole = torch.stack(weights).sum().clamp(min=TINY)
        self._model.zero_grad()
        parts = zip(self._data.train_inputs.split(self._batch_size), labels.split(self._batch_size), strict=True)
        for weight, (inputs, targets) in zip(weights, parts, strict=True):
            loss = self._loss(inputs, targets)
            (loss * (weight / whole).to(loss.dtype)).backward()
        self._full = _gradients(parameters)
        self._model.zero_grad()
        self._anchored = self._done

    def _weight(self, labels: Tensor) -> Tensor:
        """The total weight of examples, (), float64."""
        weights = self._task.example_weights(labels)
        if weights is None:
            return torch.full((), float(len(labels)), dtype=torch.float64, device=labels.device)
        return weights.sum(dtype=torch.float64)

    def _parameters(self) -> list[Tensor]:
        return [parameter for parameter in self._model.parameters() if parameter.requires_grad]

    def state_dict(self) -> dict[str, object]:
        return {"done": self._done, "anchored": self._anchored, "anchor": self._anchor, "full": self._full}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self._done, self._anchored = state["done"], state["anchored"]  # type: ignore[assignment]
        self._anchor, self._full = state["anchor"], state["full"]  # type: ignore[assignment]


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    """Copies of those in `.grad`, zeros where there is none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in parameters]
