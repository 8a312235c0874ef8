"""The batches of one epoch: a fresh permutation of the examples, cut into batches by index.

The last batch is as small as it comes out and its gradient is the mean over its own examples; only a single
example left over joins the batch before it, because batch norm has no variance of one example.
"""

import torch
from torch import Tensor

from trainables.runtime.seeds import generator


def epoch_order(examples: int, *, seed: int, epoch: int, device: torch.device | None = None) -> Tensor:
    """0 .. examples - 1 in the order of (`seed`, `epoch`).

    They are brought to `device` in one piece: a copy for each batch would make the device wait.
    """
    return torch.randperm(examples, generator=generator(seed, "batches", epoch)).to(device or "cpu")


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
