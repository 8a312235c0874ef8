"""A training whose optimizer chooses the batch size as it goes: that of `progressive_lbfgs`.

The batches are windows of a permutation of the training set, and each begins where the one before ended. A window that
reaches the end goes on at the beginning of the same permutation, so no example is in a batch twice; the next batch then
begins a new permutation. So a batch grows by the examples that follow it, up to the whole training set. Its size and
place are part of a checkpoint. Batches have two examples at least, as one has no variance.

**What counts as examples.** Every example counts each time that its loss is evaluated: once for the gradient of a
batch, once for the test of its size, once more for the gradient after it has grown, and once for each trial of the line
search. A trial computes the gradient too, which the curvature pair takes from the last one without another pass. So a
step on n examples whose first trial is accepted counts 3 n, and 2 n where the batch is the whole training set. Epochs,
tokens, budgets in them and warmup follow from this count: an epoch is as many evaluated examples as the training set
has, and a step that begins before the end of a budget is completed.

Inner products of the gradients g_i of single examples with a vector v need no gradient of a single example. With losses
l_i and G(u) = sum_i u_i grad l_i, which is linear in u, g_i' v = d(G(u)' v) / du_i: a backward pass through a backward
pass. The variance of the g_i comes from squared norms in the backward pass of the batch's own gradient. It is that of
the parameters in layers of the types in trainables.training.per_example_norms, relative to the squared gradient norm of
the same parameters.

All evaluations of a step have the same dropout masks for the same batch. The gradient of an example must depend on no
other example, so batch norm and tasks that augment are refused.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.config import PROGRESSIVE, TrialConfig
from trainables.data import Dataset
from trainables.data.rows import tensor_of
from trainables.data.streams import StreamDataset
from trainables.runtime.errors import UserError, one_line
from trainables.runtime.float32 import exact_products
from trainables.runtime.seeds import derive_seed, seed_all
from trainables.tasks.task import TINY, Task
from trainables.training.batches import order_of_epoch
from trainables.training.loop import Training
from trainables.training.optimizers.progressive_lbfgs import ProgressiveLBFGS
from trainables.training.parts import Part, Parts
from trainables.training.per_example_norms import PerExampleNorms
from trainables.training.synchronized_batch_norm import batch_norms

AGREES = 1e-3  # relative error of a squared norm, in float32


class ProgressiveTraining(Training):
    """A Training by `progressive_lbfgs`, which begins at the batch size of `config`.

    Raises UserError for a network with batch norm or without layers whose norms are known, a task that augments, and
    data that comes in one order alone.
    """

    def __init__(
        self, config: TrialConfig, model: nn.Module, data: Dataset, micro_batch_size: int | None = None
    ) -> None:
        super().__init__(config, model, data, None, micro_batch_size)
        _check(config, model, data, self.task)
        norms = PerExampleNorms.covering(model, data.train_inputs, data.train_labels, self.task)
        if not norms.parameters:
            raise UserError(
                f"`optimizer` {config.optimizer} needs trainable layers of supported types (linear, convolution, "
                "embedding, normalization), got none"
            )
        self._losses = ExampleLosses(model, data, self.task, self.parts, norms, config.label_smoothing)
        self._windows = Windows(config)
        self._with_state["windows"] = self._windows

    def pass_over_data(self, between: Callable[[float], None] = lambda epochs_done: None) -> tuple[int, float]:
        """As in Training; the batch size that it returns is the one that the last update grew to."""
        config, examples = self.config, self.config.train_size
        last_step, last_example = self.next_logging_point()
        self.task.set_mode(self.model, True)
        optimizer = cast(ProgressiveLBFGS, self.optimizer)
        device = self.data.train_labels.device
        while True:
            size = optimizer.batch_size or config.batch_size
            rate = self._schedule((self.examples + size) / examples, config.batch_size, self.step + 1)
            self._set_learning_rate(rate)
            seed = partial(seed_all, derive_seed(config.seed, "noise", self.step), device)
            batch = GrowingBatch(self._losses, self._windows, size, seed)
            optimizer.step(batch)
            epoch = self.examples // examples
            self.step, self.examples, self._size = self.step + 1, self.examples + batch.evaluated, batch.size
            self._windows.end(batch.size)
            self.average.take(self.epochs_done, at_end_of_epoch=self.examples // examples > epoch)
            if self.step >= last_step or self.examples >= last_example:
                return batch.size, rate
            between(self.epochs_done)

    def check(self) -> None:
        """Also raises UserError where the network lacks second derivatives: the mean of g_i' g is not |g|^2 there."""
        super().check()
        self.task.set_mode(self.model, True)
        inputs, labels = (tensor_of(part[:2]) for part in (self.data.train_inputs, self.data.train_labels))
        seed_all(0, self.data.train_labels.device)
        _, gradient = self._losses.loss_and_gradient(inputs, labels, watched=False)
        square = float(gradient @ gradient)
        try:
            seed_all(0, self.data.train_labels.device)
            found = float(self._losses.inner_products(inputs, labels, gradient).mean())
        except RuntimeError as error:
            raise UserError(
                f"`optimizer` {PROGRESSIVE} needs second derivatives, and {self.config.model} has none: "
                f"{one_line(error)}"
            ) from error
        if abs(found - square) > AGREES * square:
            raise UserError(f"`optimizer` {PROGRESSIVE} needs second derivatives, and {self.config.model} lacks some")


class Windows:
    """Where the next batch begins: `start` examples into permutation number `number`."""

    def __init__(self, config: TrialConfig) -> None:
        self._config = config
        self._number = self._start = 0
        self._order: tuple[int, Tensor] | None = None  # the permutation of a number

    @property
    def examples(self) -> int:
        return self._config.train_size

    def take(self, first: int, last: int, device: torch.device) -> Tensor:
        """The indices of examples `first` to `last`, exclusive, of the batch that begins here."""
        if self._order is None or self._order[0] != self._number:
            self._order = self._number, order_of_epoch(self._config, self._number, device)
        places = torch.arange(self._start + first, self._start + last, device=device) % self.examples
        return self._order[1][places]

    def end(self, size: int) -> None:
        """Ends a batch of `size` examples, so that the next one begins after it."""
        self._start += size
        if self._start >= self.examples:
            self._number, self._start = self._number + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"number": self._number, "start": self._start}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._number, self._start = state["number"], state["start"]


class ExampleLosses:
    """Means, gradients and products of gradients of the losses of examples, in `parts`; `model` is in training mode.

    A loss is the task's with label smoothing, times n w_i / sum_j w_j in a batch of n examples with weights w. So the
    batch's loss is the plain mean.
    """

    def __init__(
        self, model: nn.Module, data: Dataset, task: Task, parts: Parts, norms: PerExampleNorms, smoothing: float
    ) -> None:
        self.data, self.task, self.norms, self.smoothing = data, task, norms, smoothing
        self._model, self._parts = model, parts
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def loss_and_gradient(self, inputs: Tensor, labels: Tensor, *, watched: bool) -> tuple[float, Tensor]:
        """The mean loss and its gradient, (p,); `watched`: `norms` collects the squared norms of its examples."""
        weights = self.task.example_weights(labels)
        self._model.zero_grad()

        def loss(rows: Tensor) -> Tensor:
            if watched:
                self.norms.begin(len(rows))
            outputs = self._model(inputs[rows])
            return self.task.mean_loss(outputs, labels[rows], smoothing=self.smoothing)

        with torch.enable_grad():
            if watched:
                with self.norms.watching(len(labels)):
                    found = self._parts.gradient(len(labels), loss, weights)
            else:
                found = self._parts.gradient(len(labels), loss, weights)
        return float(found), torch.cat([_gradient(parameter).flatten() for parameter in self.trained])

    def relative_variance(self, count: int) -> float:
        """Var(g_i) / |g|^2 of the parameters of `norms`, after a watched gradient of `count` examples."""
        mean = sum(float(_gradient(parameter).double().square().sum()) for parameter in self.norms.parameters.values())
        squares = count**2 * float(self.norms.squared().double().sum())  # of gradients that were divided by `count`
        variance = max(0.0, (squares - count * mean) / (count - 1))
        return variance / mean if mean > 0 else 0.0

    def inner_products(self, inputs: Tensor, labels: Tensor, vector: Tensor) -> Tensor:
        """(n,): the product of the gradient of each example's loss with `vector`, (p,)."""
        vectors = [
            piece.view_as(parameter)
            for piece, parameter in zip(
                vector.split([parameter.numel() for parameter in self.trained]), self.trained, strict=True
            )
        ]
        weights = self.task.example_weights(labels)
        scale = 1.0 if weights is None else len(labels) / float(weights.sum(dtype=torch.float64).clamp(min=TINY))
        found = torch.empty(len(labels), dtype=vector.dtype, device=vector.device)

        def products(rows: Tensor) -> Tensor:
            losses = self.task.example_losses(self._model(inputs[rows]), labels[rows], self.smoothing)
            ones = torch.ones_like(losses, requires_grad=True)
            gradients = torch.autograd.grad(losses, self.trained, ones, create_graph=True, allow_unused=True)
            along = [(g * v).sum() for g, v in zip(gradients, vectors, strict=True) if g is not None]
            (own,) = torch.autograd.grad(torch.stack(along).sum(), ones)
            return own

        def put(part: Part) -> None:
            found[part.rows] = products(part.rows)

        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the one attention kernel with second derivatives
            self._parts.run(len(labels), put)
        return found * scale


class GrowingBatch:
    """trainables.training.optimizers.progressive_lbfgs.Batch, the next one of `windows`; `seed` seeds its dropout.

    `evaluated` counts examples as the top of this file says.
    """

    def __init__(self, losses: ExampleLosses, windows: Windows, size: int, seed: Callable[[], None]) -> None:
        self._losses, self._windows, self._seed = losses, windows, seed
        self._examples: tuple[Tensor, Tensor] | None = None
        self.evaluated = 0
        self.size = 0
        self.grow(max(2, size))

    @property
    def is_whole(self) -> bool:
        return self.size == self._windows.examples

    def grow(self, size: int) -> None:
        data, size = self._losses.data, min(size, self._windows.examples)
        more = data.batch(self._windows.take(self.size, size, data.train_labels.device))
        self._examples = more if self._examples is None else _joined(self._examples, more)
        self.size = size
        self._relative_variance: float | None = None

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        is_first = self._relative_variance is None and not self.is_whole
        found = self._evaluated(self._losses.loss_and_gradient, watched=is_first)
        if is_first:
            self._relative_variance = self._losses.relative_variance(self.size)
        return cast(tuple[float, Tensor], found)

    def inner_products(self, vector: Tensor) -> Tensor:
        return cast(Tensor, self._evaluated(self._losses.inner_products, vector))

    def relative_variance(self) -> float:
        assert self._relative_variance is not None, "of a batch that is not whole, after its first gradient"
        return self._relative_variance

    def _evaluated(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        assert self._examples is not None
        self.evaluated += self.size
        self._seed()
        with exact_products(self._losses.trained, self.size):
            return function(*self._examples, *arguments, **options)


def _joined(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()


def _check(config: TrialConfig, model: nn.Module, data: Dataset, task: Task) -> None:
    what = None
    if batch_norms(model):
        what = "a network with batch norm, which makes the gradients of examples depend on each other"
    elif type(task).augment is not Task.augment:
        what = f"the task {task.name}, which augments its inputs"
    elif isinstance(data, StreamDataset):
        what = "a stream, whose examples come in one order"
    if what is not None:
        raise UserError(f"`optimizer` {config.optimizer} cannot be used with {what}")
