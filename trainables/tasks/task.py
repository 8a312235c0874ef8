"""What a trial is trained for: from a network's outputs and the labels to losses, weights and metrics.

A unit is what has one loss: an example, (N,), or a token of it, (N, T). The loss of a set of examples is

    sum over its units of w l  /  sum over its units of w

so a part of a batch counts for sum(w of the part) / sum(w of the batch), and micro-batches, workers and chunks of an
evaluation come to the loss of the whole. Padded positions have weight 0.

A task of your own is a class, given as `package.module:Class`. It needs `loss`; everything else has a default. It may
derive from `Task` or from a built-in task, but need not:

    class Quantile:
        metric, unit, direction = "pinball", "", "lower"

        def loss(self, outputs, labels):  # one loss per example, (N,)
            error = labels - outputs[:, 0]
            return torch.maximum(0.9 * error, -0.1 * error)

        def metrics(self, outputs, labels):  # means of values per example; or trainables.tasks.metrics
            return {"pinball": self.loss(outputs, labels)}

`outputs` is what the network returns: a tensor, tuple, dictionary or object. Losses must be deterministic, and twice
differentiable for measures of curvature.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from trainables.runtime.errors import UserError, quoted
from trainables.runtime.in_place import kept
from trainables.tasks.metrics import Kept, Metric, Sums, Value
from trainables.tasks.outputs import changed, tensors_of

BATCH_DEPENDENT = (_BatchNorm, _DropoutNd)
TINY = torch.finfo(torch.float32).tiny  # a batch without weight has the loss 0, not 0 / 0


class Task:
    """The defaults of all tasks.

    `metric` names the primary metric, `unit` what a difference in it is said in ("points" are hundredths),
    `direction` is higher or lower. `has_classes`: the outputs are logits of a softmax. `is_likelihood`: an example's
    loss is -log of its probability, in nats.
    """

    name = ""
    metric = "loss"
    unit = ""
    direction = "lower"
    has_classes = False
    is_likelihood = False

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        """One loss per unit, (N,) or (N, T)."""
        raise NotImplementedError

    def smoothed_loss(self, outputs: Any, labels: Tensor, smoothing: float) -> Tensor:
        """`loss` with the labels mixed with the uniform distribution. Raises UserError where that has no meaning."""
        raise UserError(f"`label_smoothing` cannot be used with the task {self.name}, which has no classes")

    def weights(self, labels: Tensor) -> Tensor | None:
        """The weight of every unit, in the shape of `loss`; None where all weigh 1."""
        return None

    def metrics(self, outputs: Any, labels: Tensor) -> dict[str, Any]:
        """Metrics by name: a value per unit, whose weighted mean it is, or trainables.tasks.metrics.Sums or Kept."""
        return {}

    def metrics_of_loss(self, loss: float) -> dict[str, Value]:
        """Metrics that follow from the loss of the whole set."""
        return {"loss": loss} if self.metric == "loss" else {}

    def chance(self, labels: Any, num_classes: int) -> float | None:
        """The loss of guessing without inputs, of which a hundredfold is a diverged training; None where unknown.

        `labels` are all of the training set; they have a tensor's length and `split`.
        """
        return None

    def num_outputs(self, num_classes: int, label_shape: tuple[int, ...]) -> int:
        """How many numbers a built-in network puts out for each unit."""
        return num_classes

    def prepare(self, labels: Iterable[Tensor]) -> None:
        """Takes note of what `weights` depends on, such as whether any of the `labels`, in chunks, is padded."""

    def check(self, outputs: Any, labels: Tensor) -> None:
        """Raises UserError where the loss has no meaning for `labels`; `outputs` are those of the first of them."""
        count = len(next(iter(tensors_of(outputs)), labels))
        few = labels[:count]
        with kept(f"`task` {self.name}", "outputs or labels", few, *tensors_of(outputs), exact=True):
            losses, weights = self.loss(outputs, few), self.weights(few)
        if not isinstance(losses, Tensor) or losses.ndim not in (1, 2) or len(losses) != count:
            got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            raise UserError(
                f"`task` must have a loss for each example, of shape ({count},) or ({count}, T) for {count} examples, "
                f"got {got} from {self.name}; do not take its mean"
            )
        if not losses.is_floating_point():
            raise UserError(f"`task` must have losses of a floating-point type, got {losses.dtype} from {self.name}")
        if weights is None:
            return
        if not isinstance(weights, Tensor) or weights.shape != losses.shape:
            got = str(tuple(weights.shape)) if isinstance(weights, Tensor) else type(weights).__name__
            raise UserError(
                f"`task` must have a weight for each loss, of shape {tuple(losses.shape)}, got {got} from {self.name}"
            )
        if not bool((weights >= 0).all() and weights.isfinite().all()):
            odd = weights[~(weights >= 0) | ~weights.isfinite()][0]
            raise UserError(f"`task` must have finite weights of 0 or more, got {odd.item():g} from {self.name}")

    def check_metrics(self, outputs: Any, labels: Tensor) -> None:
        """Raises UserError where the primary metric is not among those of `outputs` for `labels`."""
        with kept(f"`task` {self.name}", "outputs or labels", labels, *tensors_of(outputs), exact=True):
            names = self.measured(outputs, labels).keys() | self.metrics_of_loss(0.0).keys()
        if self.metric not in names:
            raise UserError(
                f"`task` must return its metric {self.metric} from `metrics`, got {', '.join(sorted(names)) or 'none'}"
            )

    def check_labels(self, labels: Tensor, part: str) -> None:
        """Raises UserError where the whole set of `labels`, the "training" or "test" part, cannot be learned."""

    @property
    def checks_labels(self) -> bool:
        """Whether `check_labels` looks at anything: it takes all labels into memory."""
        return type(self).check_labels is not Task.check_labels

    def augment(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A training batch changed by draws from `generator`, on the CPU: of the whole batch, before it is cut."""
        return inputs, labels

    def augmented(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`augment`. Raises UserError where it returns anything but as many examples of the same type."""
        found: Any = self.augment(inputs, labels, generator)
        is_pair = isinstance(found, tuple | list) and len(found) == 2
        if not is_pair or not all(isinstance(one, Tensor) and len(one) == len(inputs) for one in found):
            parts = found if is_pair else (found,)
            kinds = [str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in parts]
            raise UserError(
                f"`task` must return inputs and labels of {len(inputs)} examples from `augment`, got "
                f"{' and '.join(kinds)} from {self.name}"
            )
        if found[0].dtype != inputs.dtype:
            raise UserError(
                f"`task` must return inputs of {inputs.dtype} from `augment`, got {found[0].dtype} from {self.name}"
            )
        return found[0], found[1]

    def checked_chance(self, labels: Any, num_classes: int) -> float | None:
        """`chance`, which is 0 where all labels are equal. Raises UserError for anything but None or such a number."""
        found: Any = self.chance(labels, num_classes)
        try:
            is_right = found is None or 0 <= float(found) < math.inf
        except (TypeError, ValueError):
            is_right = False
        if not is_right:
            got = f"{quoted(found)} from {self.name}"
            raise UserError(f"`task` must have a finite `chance` of 0 or more, or None, got {got}")
        return None if found is None else float(found)

    def set_mode(self, model: nn.Module, training: bool) -> None:
        """Puts the layers of `model` into training or evaluation mode; some may be kept in the other one."""
        model.train(training)

    def evaluation_mode(self, model: nn.Module) -> nn.Module:
        """`model` as `set_mode` leaves it for evaluation.

        Raises UserError where dropout or batch norm stays in training mode: losses would depend on chance, or on the
        examples that are evaluated together.
        """
        self.set_mode(model, False)
        for name, layer in model.named_modules():
            if layer.training and isinstance(layer, BATCH_DEPENDENT):
                raise UserError(
                    f"`task` must leave {name or 'the model'}, {type(layer).__name__}, in evaluation mode for "
                    f"evaluation, got training mode from set_mode of {self.name}"
                )
        return model

    def curvature(self, outputs: Any, labels: Tensor) -> Callable[[list[Tensor]], list[Tensor]]:
        """v -> H v, H the Hessian of the sum of `example_losses` in the tensors of `outputs`, which are constants."""
        leaves: list[Tensor] = []

        def leaf(tensor: Tensor) -> Tensor:
            leaves.append(tensor.detach().requires_grad_())
            return leaves[-1]

        with torch.enable_grad():
            total = self.example_losses(changed(outputs, leaf), labels).sum()
            first = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
        moving = [index for index, gradient in enumerate(first) if gradient.requires_grad]

        def product(vectors: list[Tensor]) -> list[Tensor]:
            if not moving:
                return [torch.zeros_like(leaf) for leaf in leaves]
            found = torch.autograd.grad(
                [first[index] for index in moving],
                leaves,
                [vectors[index] for index in moving],
                retain_graph=True,
                materialize_grads=True,
            )
            return list(found)

        return product

    def example_losses(self, outputs: Any, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """(N,): each example's sum of w l over its units; without weights the mean of l over them."""
        losses = self.smoothed_loss(outputs, labels, smoothing) if smoothing else self.loss(outputs, labels)
        weights = self.weights(labels)
        if weights is not None:
            losses = torch.where(weights == 0, 0.0, weights.to(losses.dtype) * losses)
            return losses.flatten(1).sum(1) if losses.ndim > 1 else losses
        return losses.flatten(1).mean(1) if losses.ndim > 1 else losses

    def example_weights(self, labels: Tensor) -> Tensor | None:
        """(N,): each example's sum of weights, what its `example_losses` weighs; None where all weigh 1."""
        weights = self.weights(labels)
        if weights is None or weights.ndim == 1:
            return weights
        return weights.flatten(1).sum(1)

    def mean_loss(
        self, outputs: Any, labels: Tensor, *, factors: Tensor | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """The loss of a set, differentiable; each example's share times its factor, where `factors` (N,) are given."""
        losses = self.example_losses(outputs, labels, smoothing)
        weights = self.example_weights(labels)
        if factors is not None:
            losses = factors * losses
        if weights is None:
            return losses.mean()
        return losses.sum() / weights.sum(dtype=torch.float64).clamp(min=TINY).to(losses.dtype)

    def measured(self, outputs: Any, labels: Tensor) -> dict[str, Metric]:
        """`metrics` as what adds up over chunks."""
        found: dict[str, Metric] = {}
        metrics = self.metrics(outputs, labels)
        if not isinstance(metrics, dict) or not all(isinstance(name, str) for name in metrics):
            raise UserError(f"`task` must return metrics by name, a dictionary, got {quoted(metrics)} from {self.name}")
        for name, value in metrics.items():
            if isinstance(value, Sums | Kept):
                found[name] = value
            elif isinstance(value, Tensor) and value.ndim in (1, 2) and len(value) == len(labels):
                found[name] = self._mean(name, value, labels)
            else:
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise UserError(
                    f"`task` must have metrics that are tensors of a value per example, Sums or Kept, got {got} for "
                    f"{name} from {self.name}"
                )
        return found

    def _mean(self, name: str, values: Tensor, labels: Tensor) -> Sums:
        """The weighted mean of `values`, of units or of examples."""
        weights = self.weights(labels)
        if weights is not None and weights.shape != values.shape:
            weights = self.example_weights(labels)
        if weights is not None and weights.shape != values.shape:
            raise UserError(
                f"`task` must have metrics with a value for each weight, got shape {tuple(values.shape)} for {name} "
                f"from {self.name}"
            )
        return Sums.mean(values, weights)
