"""The training loop: one network from its first weights to its last, epoch by epoch.

A `Training` can be saved after any epoch and goes on to bit-identical numbers: all randomness of an epoch is
derived from (seed, epoch) when the epoch starts, so weights, buffers, optimizer state and the history are the
whole state. Nothing in an epoch waits for the device: losses are looked at once an epoch is done.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.config import TrialConfig
from trainables.data import Dataset
from trainables.seeds import derive_seed
from trainables.training.batches import epoch_batches
from trainables.training.evaluate import evaluate
from trainables.training.optimizers import build_optimizer
from trainables.training.schedule import batch_size_at, learning_rate_at

DIVERGED_LOSS = 100.0  # times the loss of guessing all classes alike


class Training:
    """Trains `model` (changed in place) on `data` as `config` says; both on one device."""

    def __init__(self, config: TrialConfig, model: nn.Module, data: Dataset) -> None:
        self.config = config
        self.model = model
        self.data = data
        self.optimizer = build_optimizer(config, model.parameters())
        self.step = 0
        self.seconds = 0.0
        self.epochs: list[dict[str, Any]] = []  # the rows of epochs.parquet

    @property
    def epochs_done(self) -> int:
        return len(self.epochs)

    @property
    def diverged(self) -> bool:
        """The last training loss was not finite, or far above chance, log(classes): further training is pointless."""
        chance = math.log(max(2, self.data.num_classes))
        return bool(self.epochs) and not self.epochs[-1]["train_loss"] <= DIVERGED_LOSS * chance

    @property
    def reached_target(self) -> bool | None:
        """Whether the training loss is at the target; None where there is no target."""
        if self.config.target_loss is None:
            return None
        return bool(self.epochs) and self.epochs[-1]["train_loss"] <= self.config.target_loss

    @property
    def finished(self) -> bool:
        return bool(self.diverged or self.reached_target or self.epochs_done >= self.config.epochs)

    def train_epoch(self) -> None:
        """One pass over the data, then evaluation on all of the training and test set: one row of `epochs`."""
        started = time.perf_counter()
        config, data, epoch = self.config, self.data, self.epochs_done
        size = batch_size_at(config, epoch)
        if epoch > 0 and epoch == config.switch_epoch and config.switch_optimizer_state == "reset":
            self.optimizer = build_optimizer(config, self.model.parameters())
        torch.manual_seed(derive_seed(config.seed, "noise", epoch))  # dropout masks and the like
        self.model.train()
        seen = 0
        for batch in epoch_batches(config.train_size, size, seed=config.seed, epoch=epoch):
            seen += len(batch)
            rate = learning_rate_at(config, epoch + seen / config.train_size, size)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self._update(batch.to(data.train_labels.device))
            self.step += 1
        train = evaluate(self.model, data.train_inputs, data.train_labels)
        test = evaluate(self.model, data.test_inputs, data.test_labels)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.epochs.append(
            {
                "epoch": epoch + 1,
                "step": self.step,
                "train_loss": train.loss,
                "train_accuracy": train.accuracy,
                "test_loss": test.loss,
                "test_accuracy": test.accuracy,
                "lr": rate,
                "batch_size": size,
                "seconds": seconds,
            }
        )

    def _update(self, batch: Tensor) -> None:
        self.optimizer.zero_grad()
        logits = self.model(self.data.train_inputs[batch])
        cross_entropy(logits, self.data.train_labels[batch]).backward()
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and text alone, so that it loads without executing anything."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "epochs": self.epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.epochs = list(state["epochs"])
