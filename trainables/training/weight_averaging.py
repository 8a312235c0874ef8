"""Averages of the weights along a training, evaluated and measured in place of the last ones, the raw weights.

    ema    the exponential moving average over updates: a <- d a + (1 - d) w, d = average_decay, from the first on
    swa    stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407): the mean of the weights at the end of
           each epoch after the first `average_from` epochs
    lawa   latest weight averaging (Kaddour 2022, arXiv 2209.14981): the mean of the weights at the last `average_last`
           ends of epochs

The training itself does not change: the weights between updates are those of plain training to the last bit. A trial
evaluates, stops at its target, keeps and measures the average, so that averages too are compared at equal training
loss. The plain trial of the same seed is the same training without it. As long as there is nothing to average, the last
weights take its place. The raw weights are evaluated and measured once more beside the average, at the end.

An optimizer that averages the weights itself, such as the schedule-free ones, is evaluated at its average likewise; it
goes on from the same bits, so evaluating more often changes nothing.

Buffers that are floating-point numbers, such as the running statistics of batch norm, are averaged like weights (as
with `use_buffers` of torch.optim.swa_utils.AveragedModel, whose averages these are); others are the last ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from trainables.remedies import Remedies
from trainables.runtime.errors import UserError
from trainables.training.optimizers.optimizer import Optimizer, ScheduleFree, is_schedule_free


def require_one_average(remedies: Remedies, optimizer: Optimizer) -> None:
    """Raises UserError where `optimizer` averages the weights, and so would one of `remedies`."""
    for name in ("average", "local_workers"):
        if getattr(remedies, name) is not None and is_schedule_free(optimizer):
            raise UserError(f"`{name}` cannot be used with an optimizer that averages the weights itself")


class WeightAverage:
    """The average that `remedies` asks for, of the weights of `model`; or that of the `optimizer` at that moment.

    Raises UserError where both average, and where parts of a batch have optimizers of their own.
    """

    def __init__(self, remedies: Remedies, model: nn.Module, optimizer: Callable[[], Optimizer] | None = None) -> None:
        self._optimizer = optimizer
        if optimizer is not None:
            require_one_average(remedies, optimizer())
        self._kind = remedies.average
        self._from, self._last = remedies.average_from or 0.0, remedies.average_last or 1
        decay = remedies.average_decay or 0.0
        self._mean = get_ema_multi_avg_fn(decay) if self._kind == "ema" else get_swa_multi_avg_fn()
        self._model = model
        self._taken = 0
        self._averages: list[Tensor] = []
        self._kept: list[list[Tensor]] = []  # of lawa, the oldest first
        self._raw: list[Tensor] = []  # once the average is in their place for good

    def _weights(self) -> list[Tensor]:
        found = chain(self._model.parameters(), self._model.buffers())
        return [tensor.detach() for tensor in found if tensor.is_floating_point()]

    @torch.no_grad()
    def take(self, epochs_done: float, at_end_of_epoch: bool) -> None:
        """To be called after every update."""
        if self._kind is None or not (at_end_of_epoch or self._kind == "ema"):
            return
        if self._kind == "swa" and epochs_done <= self._from:
            return
        weights = self._weights()
        if self._kind == "lawa":
            self._kept = [*self._kept[1 - self._last or len(self._kept) :], clones(weights)]
            self._averages = [torch.stack(same).mean(0) for same in zip(*self._kept, strict=True)]
        elif not self._averages:
            self._averages = clones(weights)
        else:
            self._mean(self._averages, weights, self._taken)
        self._taken += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the average for its weights; afterwards its own, the same bits."""
        optimizer = self._of_optimizer()
        if not self._averages and optimizer is None:
            yield
            return
        with self._restored():
            self._replace(self._averages)
            try:
                yield
            finally:
                if optimizer is not None:
                    optimizer.train()

    @contextmanager
    def raw_in_place(self) -> Iterator[None]:
        """Inside, the model has its raw weights again, where `has_raw`."""
        with self._restored():
            self._replace(self._raw)
            yield

    @contextmanager
    def _restored(self) -> Iterator[None]:
        own = clones(self._weights())
        try:
            yield
        finally:
            put_into(self._weights(), own)

    @property
    def has_raw(self) -> bool:
        """Whether the model has an average of `remedies` for good, and its raw weights are known."""
        return bool(self._raw)

    def put(self) -> None:
        """Gives the model the average for good."""
        self._raw = clones(self._weights()) if self._averages else []
        self._replace(self._averages)

    def _replace(self, weights: list[Tensor]) -> None:
        """Gives the model `weights`, or without any the average of the optimizer, where it has one."""
        if weights:
            put_into(self._weights(), weights)
        elif (optimizer := self._of_optimizer()) is not None:
            optimizer.eval()

    def _of_optimizer(self) -> ScheduleFree | None:
        """The optimizer, where it averages and its average is not in place already."""
        optimizer = None if self._optimizer is None else self._optimizer()
        if optimizer is None or not is_schedule_free(optimizer) or not optimizer.param_groups[0]["train_mode"]:
            return None
        return optimizer

    def state_dict(self) -> dict[str, object]:
        return {"taken": self._taken, "averages": self._averages, "kept": self._kept, "raw": self._raw}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self._taken, self._averages, self._kept = state["taken"], state["averages"], state["kept"]  # type: ignore[assignment]
        self._raw = state.get("raw", [])  # type: ignore[assignment]


def clones(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


@torch.no_grad()
def put_into(targets: list[Tensor], sources: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
