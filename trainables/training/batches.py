"""The batches of one epoch: a fresh permutation of the examples, cut into batches by index.

The last batch is as small as it comes out and its gradient is the mean over its own examples; only a single
example left over joins the batch before it, because batch norm has no variance of one example.
"""

import torch
from torch import Tensor

from trainables.runtime.seeds import generator


def epoch_batches(
    examples: int, batch_size: int, *, seed: int, epoch: int, device: torch.device | None = None
) -> list[Tensor]:
    """Index tensors that together hold 0 .. examples - 1 once, in the order of (`seed`, `epoch`).

    They are brought to `device` in one piece: a copy for each batch would make the device wait.
    """
    order = torch.randperm(examples, generator=generator(seed, "batches", epoch)).to(device or "cpu")
    batches = list(order.split(batch_size))
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
