"""A trial whose training step is a class of the user's own, given as `package.module:Class`.

For steps that are not the gradient of a task's loss: adversarial pairs, evolution strategies, forward-only learning,
several optimizers. Everything else stays as it is: the grid, the data and its batches, the learning rate's schedule,
logging, checkpoints, measures and the report. The class has

    __init__(self, config, data)                builds the network; all global generators are seeded by config.seed
    self.model                                  the network, a torch.nn.Module with all weights that are trained
    step(self, inputs, labels, learning_rate)   one update from a batch
    state_dict(self), load_state_dict(self, state)
                                                what steps depend on beyond the weights of `model`, as of an optimizer:
                                                tensors, numbers, text, and lists and dictionaries of them

and, where they are not those of the task on `model(inputs)`,

    evaluate(self)                              {"train_loss", "test_loss", "train_metric", "test_metric"}, numbers
    metric, unit, direction                     of that metric: its name, the unit of a difference, "higher" or "lower"
    loss(self, params)                          the loss that is measured, a scalar tensor of the (n,) vector of all
                                                parameters of `model` in their order; differentiable, deterministic

Steps are repeated to the last bit after an interruption where they draw from the global generators of PyTorch, NumPy
and Python alone. `trainables.models.of_config.build(config, data)` builds the network of --model.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import PROGRESSIVE, TrialConfig
from trainables.data import Dataset
from trainables.models.of_config import build
from trainables.models.parameters import check_parameters
from trainables.runtime.errors import UserError, quoted
from trainables.runtime.importing import load_callable
from trainables.runtime.in_place import kept
from trainables.runtime.seeds import preserve_rng
from trainables.sharpness import Objective
from trainables.tasks.by_name import check_words
from trainables.training.loop import Training
from trainables.training.parallel import Workers
from trainables.training.progressive_batching import ProgressiveTraining
from trainables.training.recording import Recorder

NEEDED = ("step", "state_dict", "load_state_dict")
EVALUATED = ("train_loss", "test_loss", "train_metric", "test_metric")


def build_network(config: TrialConfig, data: Dataset) -> tuple[nn.Module, Any]:
    """A new network, with weights from the global generators, and the user's object that trains it, or None.

    Raises UserError where the object lacks a part.
    """
    if config.trial is None:
        return build(config, data), None
    kind = load_callable(config.trial, "trial")
    with kept(f"`trial` {config.trial}", "data", *vars(data).values()):
        step = kind(config, data)
    missing = [name for name in NEEDED if not callable(getattr(step, name, None))]
    if missing:
        raise UserError(f"`trial` {config.trial} must have {', '.join(NEEDED)}, got none named {', '.join(missing)}")
    if not isinstance(getattr(step, "model", None), nn.Module):
        raise UserError(f"`trial` {config.trial} must have its network as `model`, a torch.nn.Module")
    if not any(parameter.requires_grad for parameter in step.model.parameters()):
        raise UserError(f"`trial` {config.trial} must have a network with parameters that are trained, got none")
    check_parameters(step.model)
    check_words(step, f"`trial` {config.trial}")
    return step.model, step


def training_of(
    config: TrialConfig,
    network: tuple[nn.Module, Any],
    data: Dataset,
    workers: Workers | None = None,
    micro_batch_size: int | None = None,
    record: Recorder | None = None,
) -> Training:
    """The training of what `build_network` returned, on the data's device."""
    model, step = network
    model = model.to(data.train_labels.device)
    check_whole_batches(config, micro_batch_size, 1 if workers is None else workers.count)
    if step is None and config.optimizer == PROGRESSIVE:
        return ProgressiveTraining(config, model, data, micro_batch_size)
    if step is None:
        return Training(config, model, data, workers, micro_batch_size, record)
    return OwnTraining(config, step, data)


def check_whole_batches(config: TrialConfig, micro_batch_size: int | None, workers: int) -> None:
    """Raises UserError where batches are to be cut whose update takes whole ones."""
    if config.optimizer == PROGRESSIVE and workers > 1:
        raise UserError(f"`optimizer` {PROGRESSIVE} must train on one worker, got {workers} workers a trial")
    name = taking_whole_batches(config)
    if name is not None and (micro_batch_size is not None or workers > 1):
        raise UserError(f"`{name}` must train on one worker without micro-batches: its step takes whole batches")


def taking_whole_batches(config: TrialConfig) -> str | None:
    """The field of `config` whose update takes whole batches; None where batches may be cut."""
    return next(
        (name for name in ("trial", "gradient_penalty", "svrg_every") if getattr(config, name) is not None), None
    )


class OwnTraining(Training):
    """A Training by the steps of a user's object."""

    def __init__(self, config: TrialConfig, step: Any, data: Dataset) -> None:
        super().__init__(config, step.model, data)
        self.own = step
        self._update = _OwnUpdate(step, data)
        self._has_evaluation = hasattr(step, "evaluate")
        if self._has_evaluation:
            self._chance = None
            self.task = copy.copy(self.task)
            for name in ("metric", "unit", "direction"):
                setattr(self.task, name, getattr(step, name, getattr(self.task, name)))

    def evaluate(self) -> dict[str, Any]:
        if not self._has_evaluation:
            return super().evaluate()
        with self._kept(), preserve_rng(self.data.train_labels.device):
            found = self.own.evaluate()
        if not isinstance(found, dict) or not set(EVALUATED) <= found.keys():
            raise UserError(f"`trial` {self.config.trial} must return {', '.join(EVALUATED)} from `evaluate`")
        try:
            row: dict[str, Any] = {name: float(found[name]) for name in EVALUATED}
        except (TypeError, ValueError) as error:
            raise UserError(
                f"`trial` {self.config.trial} must return numbers from `evaluate`, got {quoted(found)}"
            ) from error
        is_accuracy = self.task.metric == "accuracy"
        return row | {f"{part}_accuracy": row[f"{part}_metric"] if is_accuracy else None for part in ("train", "test")}

    def _results(self) -> dict[str, Any]:
        return self.evaluate() if self._has_evaluation else super()._results()

    def pass_over_data(self, between: Callable[[float], None] = lambda epochs_done: None) -> tuple[int, float]:
        with self._kept():
            passed = super().pass_over_data(between)
        if self.own.model is not self.model:
            raise UserError(f"`trial` {self.config.trial} must keep its `model`, got another one after a step")
        return passed

    def _kept(self) -> AbstractContextManager[None]:
        return kept(f"`trial` {self.config.trial}", "data", *vars(self.data).values())

    def check(self) -> None:
        if not self._has_evaluation:
            super().check()

    def _look(self, epochs_done: float, looks: list[dict[str, Any]]) -> None:
        if not self._has_evaluation:
            super()._look(epochs_done, looks)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "own": self.own.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.own.load_state_dict(state["own"])

    def own_loss(self, dtype: torch.dtype) -> "OwnLoss | None":
        """The loss of the user's object at its weights of now; None where that of the task is measured."""
        return OwnLoss(self.own.loss, self.model, dtype) if hasattr(self.own, "loss") else None


class _OwnUpdate:
    """One step of a user's object; what it draws comes from the global generators."""

    def __init__(self, step: Any, data: Dataset) -> None:
        self._step, self._data = step, data

    def begin_epoch(self, epoch: int) -> None:
        """Nothing: the global generators are seeded by the loop."""

    def random_state(self) -> list[Tensor]:
        return []

    def restore_random_state(self, states: list[Tensor]) -> None:
        """Nothing: it has no random streams of its own."""

    def __call__(self, optimizer: Any, batch: Tensor) -> None:
        """`optimizer` only carries the learning rate."""
        inputs, labels = self._data.batch(batch)
        self._step.step(inputs, labels, float(optimizer.param_groups[0]["lr"]))


class OwnLoss(Objective):
    """A user's loss(params) at the parameters of `model`, (n,) in `dtype`."""

    def __init__(self, loss: Any, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(loss)
        self.params = torch.cat([parameter.detach().reshape(-1).to(dtype) for parameter in model.parameters()])

    def single(self) -> None:
        """None: it has no form in float32."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a loss(params) of one's own has no {name}, which this measure needs")
