"""The training loop: one network from its first weights to its last, from one logging point to the next.

A logging point is the end of an epoch, or where `evaluate_every` says, and the end of the trial. A `Training` can be
saved at each and goes on to bit-identical numbers: all randomness of an epoch is derived from (seed, epoch) when the
epoch starts, so weights, buffers, optimizer state and the history are the whole state, within an epoch with the states
of the random streams. Logging more often changes no weights. Between logging points nothing waits for the device.

The first epochs are an exception. A loss that is reached there would otherwise be known to whole epochs only, so it is
also looked at after 1, 2, 3, 4, 6, 8, 11, ... steps, on some of the training examples. This draws no random numbers and
changes no weights: the updates are the same to the last bit. The test set is not evaluated at every logging point: see
trainables.training.looks.

Several workers train one network by each running this loop: same weights, same draws, their own parts of every batch.
"""

import json
import math
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainables.config import FULL_BATCH_OPTIMIZERS, TrialConfig
from trainables.data import Dataset
from trainables.data.rows import Examples, tensor_of
from trainables.runtime.float32 import large_products
from trainables.runtime.importing import is_import_path
from trainables.runtime.in_place import kept
from trainables.runtime.seeds import (
    derive_seed,
    generator,
    preserve_rng,
    random_states,
    restore_random_states,
    seed_all,
)
from trainables.tasks.by_name import load_task
from trainables.training.batches import next_batch, order_of_epoch
from trainables.training.evaluate import Evaluation
from trainables.training.ghost_batch_norm import use_ghost_batch_norm
from trainables.training.local_sgd import LocalUpdate
from trainables.training.looks import is_look, is_test_always_due, is_test_due
from trainables.training.noise_scale import NoiseScale
from trainables.training.optimizers.by_name import build_optimizer, load_state, scale_velocity
from trainables.training.optimizers.groups import LR_RATIO
from trainables.training.parallel import Workers, evaluate_together
from trainables.training.parts import Parts
from trainables.training.recording import RecordedUpdate, Recorder, is_recordable
from trainables.training.schedule import Schedule, batch_size_at, batch_sizes
from trainables.training.update import Update, Updates
from trainables.training.weight_averaging import WeightAverage

DIVERGED_LOSS = 100.0  # times the loss of guessing without looking at the inputs, Task.chance
LOOKED_EPOCHS = 3  # in which the loss is also looked at between steps: later, the looks would be an epoch apart
LOOKED_EXAMPLES = 1000  # at most, for such a look


class Training:
    """Trains `model` (changed in place) on `data` as `config` says; both on one device.

    `workers` are those of the trial, `micro_batch_size` the most examples of a batch that a worker takes at once: where
    the work is done, which changes numbers by rounding alone. `record` makes recordings of updates, where given.
    """

    def __init__(
        self,
        config: TrialConfig,
        model: nn.Module,
        data: Dataset,
        workers: Workers | None = None,
        micro_batch_size: int | None = None,
        record: Recorder | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.data = data
        name = config.task or data.task
        with kept(f"`task` {name}", "labels", data.train_labels, data.test_labels):
            self.task = load_task(name, data.chunks_of_labels())
            self._chance = self.task.checked_chance(data.train_labels, data.num_classes)
        if config.ghost_batch_size is not None:
            use_ghost_batch_norm(model, config.ghost_batch_size)
        self._start = [parameter.detach().clone() for parameter in model.parameters()]
        self.workers = workers or Workers()
        self.micro_batch_size = micro_batch_size
        self.parts = Parts(model, self.workers, micro_batch_size, config.ghost_batch_size)
        self.noise_scale: NoiseScale | None = None
        if config.noise_scale is not None:
            self.noise_scale = NoiseScale(model, config.noise_scale, data, self.task, self.workers)
        update = Update(config, model, data, self.task, self.parts, self.noise_scale)
        self._with_state: dict[str, Any] = {"noise_scale": self.noise_scale, "svrg": update.svrg}
        self._local = None if config.local_workers is None else LocalUpdate(config, update, model)
        self._update: Updates = self._local or update
        is_whole = self.workers.count == 1 and micro_batch_size is None
        is_known = is_recordable(config) and not is_import_path(self.task.name)
        if record is not None and is_known and is_whole and data.is_resident:
            self._update = RecordedUpdate(update, model, record)
        self.optimizer = build_optimizer(config, model)
        this = weakref.proxy(self)  # no cycle: what a training that is over holds is free at once, on a GPU too
        self.average = WeightAverage(config, model, lambda: this.optimizer)
        self.step = 0
        self.examples = 0  # used so far, each as often as it was used
        self.seconds = 0.0
        self.epochs: list[dict[str, Any]] = []  # the rows of epochs.parquet, one for each logging point
        self._every = config.every
        self._schedule = Schedule(config)
        self._end = config.length.as_bounds(config.train_size)
        self._changes_size = len(batch_sizes(config)) > 1
        self._size = config.batch_size  # of the last update
        self._random: dict[str, Any] | None = None  # the states of the random streams, within an epoch
        self._looked_at = data.sample(LOOKED_EXAMPLES, generator(config.seed, "looks"))
        self._judged = data.sample(config.train_loss_examples, generator(config.seed, "training loss"))

    @property
    def recorded(self) -> list[int]:
        """The batch sizes whose updates are replayed."""
        return self._update.recorded if isinstance(self._update, RecordedUpdate) else []

    @property
    def epochs_done(self) -> float:
        """Passes over the data: whole ones as int, a fraction within one."""
        epoch, seen = divmod(self.examples, self.config.train_size)
        return epoch + seen / self.config.train_size if seen else epoch

    @property
    def share_done(self) -> float:
        """The share of the longest training that is done, in [0, 1]."""
        return min(1.0, max(self.step / self._end[0], self.examples / self._end[1]))

    @property
    def diverged(self) -> bool:
        """The last training loss was not finite, or far above chance: further training is pointless."""
        return bool(self.epochs) and self._has_diverged(self.epochs[-1])

    def _has_diverged(self, row: dict[str, Any]) -> bool:
        loss = row["train_loss"]
        return not math.isfinite(loss) or (self._chance is not None and loss > DIVERGED_LOSS * self._chance)

    @property
    def reached_target(self) -> bool | None:
        """Whether a loss or metric is at its target, any of several; None where there is none."""
        return bool(self.epochs) and self._is_at_target(self.epochs[-1]) if self.config.has_target else None

    def _is_at_target(self, row: dict[str, Any]) -> bool:
        """Whether a loss of a row is low, or its held-out metric good, enough to end the training."""
        metric = self.config.target_metric
        for name, target in (("train_loss", self.config.target_loss), ("test_loss", self.config.target_test_loss)):
            if target is not None and row[name] <= target:
                return True
        sign = 1 if self.task.direction == "higher" else -1
        return metric is not None and row["test_metric"] is not None and sign * row["test_metric"] >= sign * metric

    @property
    def at_target(self) -> dict[str, int | None]:
        """The steps and examples after which a target was first seen to be reached; null where it was not."""
        first = next((row for row in self.epochs if self.config.has_target and self._is_at_target(row)), None)
        return {
            "steps_to_target": None if first is None else first["step"],
            "examples_to_target": None if first is None else self._examples_of(first),
        }

    @property
    def finished(self) -> bool:
        return bool(self.diverged or self.reached_target or self._is_at_end)

    @property
    def _is_at_end(self) -> bool:
        return self.step >= self._end[0] or self.examples >= self._end[1]

    def train_epoch(self) -> None:
        """Trains to the next logging point, by default an epoch, then evaluates on the training set, or on
        `train_loss_examples` of it, and on the test set where that is due: one row of `epochs`.
        """
        started = time.perf_counter()
        looks: list[dict[str, Any]] = []
        size, rate = self.pass_over_data(lambda done: self._look(done, looks) if done < LOOKED_EPOCHS else None)
        with self.average.in_place():
            results, distance = self._results(), self._distance()
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.epochs.append(
            {
                "epoch": self.epochs_done,
                "step": self.step,
                "examples": self.examples,
                "tokens": self.tokens,
                **results,
                "distance": distance,
                "lr": rate,
                "batch_size": size,
                "seconds": seconds,
                "within": looks or None,
                **({} if self.noise_scale is None else self.noise_scale.columns()),
            }
        )
        if self.finished:
            self.average.put()
            if isinstance(self._update, RecordedUpdate):
                self._update.release()

    def pass_over_data(self, between: Callable[[float], None] = lambda epochs_done: None) -> tuple[int, float]:
        """The updates up to the next logging point; returns the batch size and learning rate of the last one.

        `between` is called after every update but the last, with the epochs done.
        """
        config, device, examples = self.config, self.data.train_labels.device, self.config.train_size
        last_step, last_example = self.next_logging_point()
        self.task.set_mode(self.model, True)
        while True:
            epoch, seen = divmod(self.examples, examples)
            order = order_of_epoch(config, epoch, device)
            size = self._begin(epoch, seen)
            own = math.ceil(size / self.workers.count)
            with large_products(self.model.parameters(), min(own, self.micro_batch_size or own)):
                while seen < examples:
                    batch = next_batch(order, seen, size)
                    seen += len(batch)
                    done = epoch + seen / examples
                    rate = self._schedule(done, size, self.step + 1)
                    self._set_learning_rate(rate)
                    self._update(self.optimizer, batch)
                    self.step, self.examples = self.step + 1, self.examples + len(batch)
                    self.average.take(done, at_end_of_epoch=seen == examples)
                    if self.step >= last_step or self.examples >= last_example:
                        self._random = self._random_states() if seen < examples else None
                        return size, rate
                    between(done)
                    if self._changes_size and batch_size_at(config, done, self.step) != size:
                        break

    def next_logging_point(self) -> tuple[float, float]:
        """The steps and the examples at which the next logging point is, whichever comes first."""
        step, example = self._every.next_multiple(self.step, self.examples, self.config.train_size)
        return (step, example) if self._is_at_end else (min(step, self._end[0]), min(example, self._end[1]))

    def _begin(self, epoch: int, seen: int) -> int:
        """Gets ready for the updates after the first `seen` examples of `epoch`; returns their batch size."""
        config = self.config
        self.data.begin(epoch, seen)
        if seen == 0:
            seed_all(derive_seed(config.seed, "noise", epoch), self.data.train_labels.device)  # dropout masks
            self._update.begin_epoch(epoch)
        elif self._random is not None:
            restore_random_states(self._random, self.data.train_labels.device)
            self._update.restore_random_state(self._random["update"])
            self._random = None
        size = batch_size_at(config, epoch + seen / config.train_size, self.step)
        if self.step and size != self._size and config.switch_optimizer_state == "reset":
            self.optimizer = build_optimizer(config, self.model)
        self._size = size
        return size

    def _random_states(self) -> dict[str, Any]:
        return {**random_states(self.data.train_labels.device), "update": self._update.random_state()}

    @property
    def tokens(self) -> int | None:
        """Tokens used so far; None where examples, not tokens, have labels."""
        inputs, labels = self.data.train_inputs, self.data.train_labels
        of_tokens = not inputs.is_floating_point() and labels.ndim > 1 and labels.shape[-1] == inputs.shape[-1]
        return self.examples * labels.shape[-1] if of_tokens else None

    def evaluate(self) -> dict[str, Any]:
        """Losses and metrics of the weights of now, as at a logging point: columns of epochs.parquet."""
        return self._columns(self._evaluated("train"), self._evaluated("test"))

    def _results(self) -> dict[str, Any]:
        """`evaluate` at a logging point: without the test set, whose columns are null, where it is not due."""
        train = self._evaluated("train")
        row = self._columns(train, None)
        is_due = self._is_test_due() or self._has_diverged(row) or (self.config.has_target and self._is_at_target(row))
        return self._columns(train, self._evaluated("test")) if is_due else row

    @property
    def _is_before_other_size(self) -> bool:
        return self._changes_size and batch_size_at(self.config, self.epochs_done, self.step) != self._size

    def _is_test_due(self) -> bool:
        if self._is_at_end or is_test_always_due(self.config) or self._is_before_other_size:
            return True
        looked = sum(row["test_loss"] is not None for row in self.epochs)
        return is_test_due(len(self.epochs) + 1, looked, len(self.data.test_labels), self.examples)

    def _evaluated(self, part: str) -> Evaluation:
        test = self.data.test_inputs, self.data.test_labels
        return self._evaluate(*(self._judged if part == "train" else test))

    def _columns(self, train: Evaluation, test: Evaluation | None) -> dict[str, Any]:
        row: dict[str, Any] = {}
        others: dict[str, float | None] = {}
        for part, found in (("train", train), ("test", test)):
            row |= {
                f"{part}_loss": found and found.loss,
                f"{part}_accuracy": found and found.accuracy,
                f"{part}_metric": found and found.metrics[self.task.metric],
            }
            others |= {
                f"{part}_{name}": None if value is None or not math.isfinite(value) else value
                for name, value in (found.metrics if found else {}).items()
                if name not in ("accuracy", self.task.metric)
            }
        return {**row, "metrics": json.dumps(others) if others else None}

    def check(self) -> None:
        """Raises UserError where the task has no loss or no metric for the network's outputs, on two examples."""
        data, task = self.data, self.task
        task.evaluation_mode(self.model)
        with preserve_rng(data.train_labels.device), torch.no_grad():
            inputs, labels = (tensor_of(part[:2]) for part in (data.train_inputs, data.train_labels))
            outputs = self.model(inputs)
            task.check(outputs, labels)
            task.check_metrics(outputs, labels)

    def _look(self, epochs_done: float, looks: list[dict[str, Any]]) -> None:
        if is_look(self.step):
            with preserve_rng(self.data.train_labels.device), self.average.in_place():
                loss = self._evaluate(*self._looked_at).loss
            looks.append({"step": self.step, "epoch": epochs_done, "train_loss": loss})

    def _evaluate(self, inputs: Examples, labels: Examples) -> Evaluation:
        return evaluate_together(self.workers, self.model, inputs, labels, self.micro_batch_size, self.task)

    def _set_learning_rate(self, rate: float) -> None:
        if self.config.optimizer in FULL_BATCH_OPTIMIZERS:
            return  # their line search finds it
        rates = [rate * group.get(LR_RATIO, 1.0) for group in self.optimizer.param_groups]
        if self.data.train_labels.device.type != "cpu":
            rates = torch.tensor(rates, dtype=torch.float32).tolist()  # as kernels read them from memory
        before = self.optimizer.param_groups[0]["lr"]
        if not self.config.momentum_correction and before != rates[0]:
            scale_velocity(self.optimizer, before / rates[0])
        for group, own in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = own

    def _distance(self) -> float:
        """The l2 distance of the weights from the start."""
        norms = [
            torch.dist(now.detach(), start) for now, start in zip(self.model.parameters(), self._start, strict=True)
        ]
        return float(torch.linalg.vector_norm(torch.stack(norms)))

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and text alone, so that it loads without executing anything."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "epochs": self.epochs,
            "random": self._random,
            **{name: None if part is None else part.state_dict() for name, part in self._with_state.items()},
            "average": self.average.state_dict(),
            "local": None if self._local is None else self._local.state_dict(),
        }

    def load_final(self, weights: dict[str, Any], epochs: list[dict[str, Any]]) -> None:
        """Takes what a finished training ended with: weights, buffers and epochs, but no state of the optimizer."""
        self.model.load_state_dict(weights)
        self._load_history(epochs)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer = build_optimizer(self.config, self.model)  # no recording is of this one
        load_state(self.optimizer, state["optimizer"])
        self.seconds = state["seconds"]
        self._load_history(state["epochs"])
        self._random = state.get("random")
        for name, part in self._with_state.items():
            if part is not None and state.get(name) is not None:
                part.load_state_dict(state[name])
        if "average" in state:
            self.average.load_state_dict(state["average"])
        if self._local is not None:
            self._local.load_state_dict(state["local"], self.optimizer)
        if self._is_before_other_size and self.epochs[-1]["test_loss"] is None:  # left by a trial without the switch
            with self.average.in_place():
                self.epochs[-1] = {**self.epochs[-1], **self.evaluate()}

    def _load_history(self, epochs: list[dict[str, Any]]) -> None:
        """Takes the rows of `epochs`; those of earlier versions end with epochs."""
        self.epochs = list(epochs)
        last = self.epochs[-1]
        self.step, self._size = last["step"], last["batch_size"]
        self.examples = self._examples_of(last)

    def _examples_of(self, row: dict[str, Any]) -> int:
        examples: int | None = row.get("examples")
        return round(row["epoch"] * self.config.train_size) if examples is None else examples
