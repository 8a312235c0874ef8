"""Loss and accuracy of a network on clean data: eval mode, no augmentation, no weight decay."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CHUNK_NUMBERS = 2**20  # input numbers in a chunk: fixed, so that a value never depends on the free memory


@dataclass(frozen=True)
class Evaluation:
    """`loss` in nats per example, `accuracy` in [0, 1]."""

    loss: float
    accuracy: float


def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor) -> Evaluation:
    """Mean cross-entropy (each example's in the model's precision, summed in float64) and share of hits.

    `inputs` (N, ...), `labels` (N,); each module's own training mode is put back afterwards.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=inputs.device)
    hits = torch.zeros((), dtype=torch.int64, device=inputs.device)
    chunk = max(1, CHUNK_NUMBERS // max(1, inputs[0].numel()))
    with torch.inference_mode():
        for part, targets in zip(inputs.split(chunk), labels.split(chunk), strict=True):
            logits = model(part)
            loss += cross_entropy(logits, targets, reduction="none").sum(dtype=torch.float64)
            hits += (logits.argmax(1) == targets).sum()
    for module, training in modes:
        module.training = training
    return Evaluation(loss.item() / len(inputs), hits.item() / len(inputs))
