"""One update of the weights from one batch: the parts that a trial's configuration asks for, in their one order.

    inputs      augmentation, the configuration's and the task's own, then the adversary on the inputs
    loss        the task's, with label smoothing, each example weighted by its noise factor
    gradient    at the weights, or at the worst point near them (SAM, robust training), or with that of a penalty on
                gradient norms, or with reduced variance (SVRG); then clipped
    step        the optimizer's, or several on the proximal objective (conservative training)

All draws of an epoch come from streams of that epoch, so a run that is resumed repeats them. Plain training goes
straight to gradient and step. In `bfloat16` the network runs under autocast: products in bfloat16, weights, losses and
updates in float32. Where a batch does not fit the memory, or is shared by several workers, its gradient is
a sum over parts (trainables.training.parts); what is drawn is drawn for the whole batch.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainables.config import FULL_BATCH_OPTIMIZERS, TrialConfig
from trainables.data import Dataset
from trainables.remedies import svrg_amount
from trainables.runtime.seeds import generator
from trainables.tasks.outputs import changed
from trainables.tasks.task import Task
from trainables.training.augmentation import augment
from trainables.training.gradient_penalty import penalized_gradient
from trainables.training.input_perturbation import adversarial_inputs
from trainables.training.matched_noise import noise_factors
from trainables.training.noise_scale import NoiseScale
from trainables.training.one_loss import Closure, one_loss
from trainables.training.optimizers.optimizer import Optimizer
from trainables.training.parts import Part, Parts
from trainables.training.proximal import proximal_step
from trainables.training.sam_and_robust import robust_gradient, sam_gradient
from trainables.training.variance_reduction import VarianceReduction


class Updates(Protocol):
    """What the loop asks of an update."""

    def begin_epoch(self, epoch: int) -> None: ...

    def random_state(self) -> list[Tensor]: ...

    def restore_random_state(self, states: list[Tensor]) -> None: ...

    def __call__(self, optimizer: Optimizer, batch: Tensor) -> None: ...


class Update:
    """Changes `model` by one batch of `data` after another, as `config` says; in `parts` where they are to be cut."""

    def __init__(
        self,
        config: TrialConfig,
        model: nn.Module,
        data: Dataset,
        task: Task,
        parts: Parts,
        noise_scale: NoiseScale | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.task = task
        self.data = data
        self._parts = parts
        self._noise_scale = noise_scale
        self.svrg: VarianceReduction | None = None
        if config.svrg_every is not None:
            every = svrg_amount(config.svrg_every)
            self.svrg = VarianceReduction(model, data, task, self._mean_loss, every, config.batch_size)
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Starts the random streams of `epoch`."""
        self._augmentation = generator(self.config.seed, "augmentation", epoch)
        self._noise = generator(self.config.seed, "gradient noise", epoch)

    def random_state(self) -> list[Tensor]:
        """The places in the random streams of the epoch."""
        return [self._augmentation.get_state(), self._noise.get_state()]

    def restore_random_state(self, states: list[Tensor]) -> None:
        """Goes on in the random streams of an epoch, from what `random_state` returned."""
        for stream, state in zip((self._augmentation, self._noise), states, strict=True):
            stream.set_state(state.cpu())

    def __call__(self, optimizer: Optimizer, batch: Tensor) -> None:
        """One update from the examples whose indices are `batch` (on the data's device)."""
        config = self.config
        parts = None if self._parts.leave_whole(len(batch)) else self._parts
        inputs, labels = self.data.batch(batch)
        if config.augmentation is not None:
            inputs = augment(inputs, config.augmentation, self._augmentation)
        if augments(self.task):
            inputs, labels = self.task.augmented(inputs, labels, self._augmentation)
        weights = self.task.example_weights(labels)
        if config.input_adversary is not None:
            inputs = self._adversarial(inputs, labels, config.input_adversary, parts, weights)
        factors = None
        if config.noise_batch_size is not None and len(batch) > config.noise_batch_size:
            factors = noise_factors(len(batch), config.noise_batch_size, self._noise, weights).to(inputs.device)

        def of_rows(rows: Tensor) -> Tensor:
            return self._loss(self._outputs(inputs[rows]), labels[rows], None if factors is None else factors[rows])

        def closure() -> Tensor:
            optimizer.zero_grad()
            if config.gradient_penalty is not None:
                penalty, size = config.gradient_penalty, config.penalty_batch_size or len(batch)
                return penalized_gradient(self.model, of_rows, len(batch), weights, penalty=penalty, group_size=size)
            if parts is not None:
                return parts.gradient(len(batch), loss_of_rows, weights)
            loss = self._loss(self._outputs(inputs), labels, factors)
            loss.backward()
            return loss

        noise = self._noise_scale
        loss_of_rows = of_rows if noise is None else noise.of_part(of_rows)
        gradient = closure if noise is None else noise.watched(closure, len(batch), weights)
        if config.optimizer in FULL_BATCH_OPTIMIZERS:
            optimizer.step(one_loss(self.model, gradient))
        elif config.proximal is not None:
            proximal_step(self.model, optimizer, gradient, weight=config.proximal)
        else:
            self._gradient(gradient, len(batch))
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
            optimizer.step()

    def _gradient(self, closure: Closure, examples: int) -> None:
        config = self.config
        if config.sam_radius is not None:
            sam_gradient(self.model, closure, radius=config.sam_radius, adaptive=config.sam_adaptive)
        elif config.weight_adversary is not None:
            robust_gradient(self.model, closure, epsilon=config.weight_adversary)
        elif self.svrg is not None:
            self.svrg.gradient(closure, examples)
        else:
            closure()

    def _adversarial(
        self, inputs: Tensor, labels: Tensor, epsilon: float, parts: Parts | None, weights: Tensor | None
    ) -> Tensor:
        if parts is None:
            return adversarial_inputs(self.model, inputs, labels, self._loss, epsilon=epsilon)
        moved = inputs.clone()

        def move(part: Part) -> None:
            def share(outputs: Any, targets: Tensor) -> Tensor:
                return part.of_mean(self._loss(outputs, targets), weights)

            own = part.rows
            moved[own] = adversarial_inputs(self.model, inputs[own], labels[own], share, epsilon=epsilon)

        parts.run(len(inputs), move)
        return moved

    def _outputs(self, inputs: Tensor) -> Any:
        if self.config.precision == "float32":
            return self.model(inputs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return changed(self.model(inputs), Tensor.float)

    def _mean_loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return self._loss(self._outputs(inputs), labels)

    def _loss(self, outputs: Any, labels: Tensor, factors: Tensor | None = None) -> Tensor:
        return self.task.mean_loss(outputs, labels, factors=factors, smoothing=self.config.label_smoothing)


def augments(task: Task) -> bool:
    """Whether the task has an augmentation of its own."""
    return type(task).augment is not Task.augment
