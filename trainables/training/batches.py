"""The batches of one epoch: a fresh permutation of the examples, cut into batches by index.

The last batch is as small as it comes out and its gradient is the mean over its own examples; only a single
example left over joins the batch before it, because batch norm has no variance of one example.
"""

import math

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.runtime.seeds import generator
from trainables.units import ROUNDING


def epoch_order(examples: int, *, seed: int, epoch: int, device: torch.device | None = None) -> Tensor:
    """0 .. examples - 1 in the order of (`seed`, `epoch`).

    They are brought to `device` in one piece: a copy for each batch would make the device wait.
    """
    return torch.randperm(examples, generator=generator(seed, "batches", epoch)).to(device or "cpu")


def order_of_epoch(config: TrialConfig, epoch: int, device: torch.device | None = None) -> Tensor:
    """The examples of a trial's `epoch` in their order: `epoch_order` of its seed.

    After the switch of a trial with a `switch_order_seed`, the examples that are left of the epoch are in the order
    of that seed, and so are all later epochs.
    """
    order = epoch_order(config.train_size, seed=config.seed, epoch=epoch, device=device)
    switch, seed = config.switch_epoch, config.switch_order_seed
    if seed is None or switch is None or switch >= epoch + 1:
        return order
    steps = math.ceil((switch - epoch - ROUNDING) * config.train_size / config.batch_size)
    used, left = order.tensor_split([max(0, steps) * config.batch_size])
    return torch.cat([used, left[epoch_order(len(left), seed=seed, epoch=epoch, device=device)]])


def next_batch(order: Tensor, seen: int, batch_size: int) -> Tensor:
    """The indices of the batch after the first `seen` examples of an epoch."""
    left = len(order) - seen
    joins = left == batch_size + 1 and batch_size > 1
    return order[seen : seen + batch_size + joins]


def epoch_batches(
    examples: int, batch_size: int, *, seed: int, epoch: int, device: torch.device | None = None
) -> list[Tensor]:
    """Index tensors that together hold 0 .. examples - 1 once, in the order of (`seed`, `epoch`)."""
    order = epoch_order(examples, seed=seed, epoch=epoch, device=device)
    batches: list[Tensor] = []
    seen = 0
    while seen < examples:
        batches.append(next_batch(order, seen, batch_size))
        seen += len(batches[-1])
    return batches
