"""Post-local SGD: some time into the training, parts of the batch take steps of their own between averages.

    w_k <- w_k - rate * step of the optimizer of worker k on its part of the batch      for k = 1 .. local_workers
    w_k <- sum_j n_j w_j / sum_j n_j, for all k, after every local_steps such steps     n_j: examples since the last one

(Lin et al. 2020, arXiv 1808.07217; local SGD from the first step on: Stich 2019, arXiv 1805.09767). The workers are
simulated one after another in one process. Until `local_from` epochs are done an update is that of plain training. Then
every worker starts with the weights and the optimizer's state of that moment. A step of the trial is one step of every
worker, so it uses `batch_size` examples, and the learning rate is the one that plain training would have.

The network holds the average of the workers at all times: this is what is evaluated, measured and kept, and evaluating
more often changes nothing. With one local step, and an optimizer that is linear in the gradient such as SGD, it is
plain training up to rounding.

Batch norm normalizes over a worker's part. Running statistics belong to a worker and are averaged like weights; buffers
of whole numbers are the first worker's. In a short last batch no part is smaller than two examples, unless all parts
are of one: then fewer workers take a step.
"""

import copy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.training.optimizers.by_name import build_optimizer, load_state
from trainables.training.optimizers.optimizer import Optimizer
from trainables.training.update import Updates
from trainables.training.weight_averaging import clones, put_into
from trainables.units import ROUNDING


@dataclass
class _Worker:
    """The weights and buffers of one worker, its optimizer, and the examples that it used since the last average."""

    tensors: list[Tensor]
    optimizer: Optimizer
    examples: int = 0


class LocalUpdate:
    """Updates of `model` as above, in which `update` is what one worker does with its part of a batch."""

    def __init__(self, config: TrialConfig, update: Updates, model: nn.Module) -> None:
        self._config, self._update, self._model = config, update, model
        self._count, self._round = config.local_workers or 1, config.local_steps or 1
        self._start = ((config.local_from or 0.0) - ROUNDING) * config.train_size
        self._least = min(2, config.batch_size // self._count)
        self._examples = 0  # used so far
        self._steps = 0  # since the last average
        self._workers: list[_Worker] = []
        self._copied: Optimizer | None = None  # whose state the workers' optimizers went on from

    def begin_epoch(self, epoch: int) -> None:
        self._update.begin_epoch(epoch)

    def random_state(self) -> list[Tensor]:
        return self._update.random_state()

    def restore_random_state(self, states: list[Tensor]) -> None:
        self._update.restore_random_state(states)

    def __call__(self, optimizer: Optimizer, batch: Tensor) -> None:
        """One update; `optimizer` says the learning rate, and before the first local step the optimizer's state."""
        if self._examples < self._start:
            self._update(optimizer, batch)
        else:
            self._go_on_from(optimizer)
            self._step(batch)
        self._examples += len(batch)

    def _go_on_from(self, optimizer: Optimizer) -> None:
        """Gives the workers what they start with, and the learning rate of now."""
        if not self._workers:
            self._workers = [_Worker(clones(self._tensors()), optimizer) for _ in range(self._count)]
        if self._copied is not optimizer:  # at the start, and where a switch of the batch size resets the state
            for worker in self._workers:
                worker.optimizer = self._optimizer(optimizer.state_dict())
            self._copied = optimizer
        for worker in self._workers:
            for own, group in zip(worker.optimizer.param_groups, optimizer.param_groups, strict=True):
                own["lr"] = group["lr"]

    def _step(self, batch: Tensor) -> None:
        """One step of every worker; the network then holds their average."""
        parts = batch.tensor_split(max(1, min(self._count, len(batch) // self._least)))
        for worker, part in zip(self._workers, parts, strict=False):
            put_into(self._tensors(), worker.tensors)
            self._update(worker.optimizer, part)
            worker.tensors = clones(self._tensors())
            worker.examples += len(part)
        self._average()
        self._steps += 1
        if self._steps == self._round:
            self._steps = 0
            for worker in self._workers:
                worker.tensors, worker.examples = clones(self._tensors()), 0

    @torch.no_grad()
    def _average(self) -> None:
        shares = [worker.examples / sum(worker.examples for worker in self._workers) for worker in self._workers]
        for target, *own in zip(self._tensors(), *(worker.tensors for worker in self._workers), strict=True):
            if target.is_floating_point():
                weighted = [share * tensor.double() for share, tensor in zip(shares, own, strict=True)]
                target.copy_(torch.stack(weighted).sum(0))
            else:
                target.copy_(own[0])

    def _tensors(self) -> list[Tensor]:
        return [tensor.detach() for tensor in chain(self._model.parameters(), self._model.buffers())]

    def _optimizer(self, state: dict[str, Any]) -> Optimizer:
        """An optimizer of its own, which goes on from a copy of `state`."""
        optimizer = build_optimizer(self._config, self._model)
        load_state(optimizer, copy.deepcopy(state))
        return optimizer

    def state_dict(self) -> dict[str, Any]:
        workers = [
            {"tensors": worker.tensors, "examples": worker.examples, "optimizer": worker.optimizer.state_dict()}
            for worker in self._workers
        ]
        return {"examples": self._examples, "steps": self._steps, "workers": workers}

    def load_state_dict(self, state: dict[str, Any], optimizer: Optimizer) -> None:
        """Goes on from what `state_dict` returned; `optimizer` is what the next update will be called with."""
        self._examples, self._steps = state["examples"], state["steps"]
        self._workers = [
            _Worker(worker["tensors"], self._optimizer(worker["optimizer"]), worker["examples"])
            for worker in state["workers"]
        ]
        self._copied = optimizer if self._workers else None
