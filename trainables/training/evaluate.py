"""Loss and accuracy of a network on clean data: eval mode, no augmentation, no weight decay."""

from dataclasses import dataclass

import torch
from torch import nn

from trainables.data.rows import Examples
from trainables.runtime.errors import UserError
from trainables.runtime.float32 import large_products
from trainables.tasks.loss import cross_entropy

CHUNK_NUMBERS = 2**20  # input numbers in a chunk: fixed, so that a value never depends on the free memory
TOKEN_NUMBERS = 2**8  # what a token, a single number, counts for: its logits and activations are many


@dataclass(frozen=True)
class Evaluation:
    """`loss` in nats per example (per token, where every token has a label), `accuracy` in [0, 1], likewise."""

    loss: float
    accuracy: float


def evaluate(model: nn.Module, inputs: Examples, labels: Examples, *, cuts: list[int] | None = None) -> Evaluation:
    """Mean cross-entropy (each example's in the model's precision, summed in float64) and share of hits.

    `inputs` (N, ...), `labels` (N,), or (N, T) for logits (N, T, K); each module's own training mode is put back
    afterwards. `cuts`, sizes that sum to N, are for networks whose outputs depend on what is in a batch. Raises
    UserError for labels that are not integers, one for each row of logits.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=inputs.device)
    hits = torch.zeros((), dtype=torch.int64, device=inputs.device)
    numbers = inputs[0].numel() * (1 if inputs.is_floating_point() else TOKEN_NUMBERS)
    size = max(1, CHUNK_NUMBERS // max(1, numbers))
    chunk = cuts or size
    largest = max(cuts) if cuts else min(size, len(inputs))
    with torch.no_grad(), large_products(model.parameters(), largest):
        for part, targets in zip(inputs.split(chunk), labels.split(chunk), strict=True):
            logits = model(part)
            if targets.is_floating_point() or targets.shape != logits.shape[:-1]:
                raise UserError(
                    f"`labels` must be integers of shape {tuple(logits.shape[:-1])} for these inputs, "
                    f"got {targets.dtype} of shape {tuple(targets.shape)}"
                )
            loss += cross_entropy(logits, targets, reduction="none").sum(dtype=torch.float64)
            hits += (logits.argmax(-1) == targets).sum()
    for module, training in modes:
        module.training = training
    return Evaluation(loss.item() / len(inputs), hits.item() / labels.numel())
