"""One update of the weights from one batch: the parts that a trial's configuration asks for, in their one order.

    inputs      augmentation, then the adversary on the inputs
    loss        cross-entropy, with label smoothing, each example weighted by its noise factor
    gradient    at the weights, or at the worst point near them (SAM, robust training); then clipped
    step        the optimizer's, or several on the proximal objective (conservative training)

All draws of an epoch come from streams of that epoch, so a run that is resumed repeats them. Plain training goes
straight to gradient and step. In `bfloat16` the network runs under autocast: products in bfloat16, weights, losses and
updates in float32. Where a batch does not fit the memory, or is shared by several workers, its gradient is
a sum over parts (trainables.training.parts); what is drawn is drawn for the whole batch.
"""

import torch
from torch import Tensor, nn

from trainables.config import FULL_BATCH_OPTIMIZERS, TrialConfig
from trainables.data import Dataset
from trainables.runtime.seeds import generator
from trainables.tasks.loss import cross_entropy
from trainables.training.augmentation import augment
from trainables.training.gradient_noise import noise_factors
from trainables.training.input_perturbation import adversarial_inputs
from trainables.training.one_loss import Closure, one_loss
from trainables.training.optimizers.optimizer import Optimizer
from trainables.training.parts import Part, Parts
from trainables.training.proximal import proximal_step
from trainables.training.weight_perturbation import robust_gradient, sam_gradient


class Update:
    """Changes `model` by one batch of `data` after another, as `config` says; in `parts` where they are to be cut."""

    def __init__(self, config: TrialConfig, model: nn.Module, data: Dataset, parts: Parts) -> None:
        self.config = config
        self.model = model
        self.data = data
        self._parts = parts
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Starts the random streams of `epoch`."""
        self._augmentation = generator(self.config.seed, "augmentation", epoch)
        self._noise = generator(self.config.seed, "gradient noise", epoch)

    def __call__(self, optimizer: Optimizer, batch: Tensor) -> None:
        """One update from the examples whose indices are `batch` (on the data's device)."""
        config = self.config
        parts = None if self._parts.leave_whole(len(batch)) else self._parts
        # Not `[batch]`, which takes five times as long: a tenth of a step of a small network.
        inputs, labels = (t.index_select(0, batch) for t in (self.data.train_inputs, self.data.train_labels))
        if config.augmentation is not None:
            inputs = augment(inputs, config.augmentation, self._augmentation)
        if config.input_adversary is not None:
            inputs = self._adversarial(inputs, labels, config.input_adversary, parts)
        factors = None
        if config.noise_batch_size is not None and len(batch) > config.noise_batch_size:
            factors = noise_factors(len(batch), config.noise_batch_size, self._noise).to(inputs.device)

        def of_rows(rows: Tensor) -> Tensor:
            return self._loss(self._logits(inputs[rows]), labels[rows], None if factors is None else factors[rows])

        def closure() -> Tensor:
            optimizer.zero_grad()
            if parts is not None:
                return parts.gradient(len(batch), of_rows)
            loss = self._loss(self._logits(inputs), labels, factors)
            loss.backward()
            return loss

        if config.optimizer in FULL_BATCH_OPTIMIZERS:
            optimizer.step(one_loss(self.model, closure))
        elif config.proximal is not None:
            proximal_step(self.model, optimizer, closure, weight=config.proximal)
        else:
            self._gradient(closure)
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
            optimizer.step()

    def _gradient(self, closure: Closure) -> None:
        config = self.config
        if config.sam_radius is not None:
            sam_gradient(self.model, closure, radius=config.sam_radius, adaptive=config.sam_adaptive)
        elif config.weight_adversary is not None:
            robust_gradient(self.model, closure, epsilon=config.weight_adversary)
        else:
            closure()

    def _adversarial(self, inputs: Tensor, labels: Tensor, epsilon: float, parts: Parts | None) -> Tensor:
        if parts is None:
            return adversarial_inputs(self.model, inputs, labels, self._loss, epsilon=epsilon)
        moved = inputs.clone()

        def move(part: Part) -> None:
            def share(logits: Tensor, targets: Tensor) -> Tensor:
                return part.weight * self._loss(logits, targets)

            own = part.rows
            moved[own] = adversarial_inputs(self.model, inputs[own], labels[own], share, epsilon=epsilon)

        parts.run(len(inputs), move)
        return moved

    def _logits(self, inputs: Tensor) -> Tensor:
        if self.config.precision == "float32":
            return self.model(inputs)  # type: ignore[no-any-return]
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return self.model(inputs).float()  # type: ignore[no-any-return]

    def _loss(self, logits: Tensor, labels: Tensor, factors: Tensor | None = None) -> Tensor:
        smoothing = self.config.label_smoothing
        if factors is None:
            return cross_entropy(logits, labels, label_smoothing=smoothing)
        return (factors * cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")).mean()
