"""Language modelling: the next token at every position; nats per token, perplexity.

The loss is the mean of -log softmax(z)_y over the tokens that have a label. A label of -100 is padding, as in PyTorch:
the position has weight 0 in every mean. Two sequences with T1 and T2 tokens together weigh T1 + T2, however they are
cut into batches.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from trainables.tasks.classification import Classification
from trainables.tasks.metrics import Value
from trainables.tasks.names import PADDED

LARGEST = 700.0  # nats, whose exp is a number


class Language(Classification):
    """Labels (N, T) for logits (N, T, K): the number of each token's successor, or -100."""

    name = "language"
    metric = "nats"
    unit = "nats per token"
    direction = "lower"
    ignored = PADDED
    _way_out = "-100 marks padding"

    def __init__(self) -> None:
        self._is_padded = True

    def prepare(self, labels: Iterable[Tensor]) -> None:
        self._is_padded = any(bool((chunk == PADDED).any()) for chunk in labels)

    def weights(self, labels: Tensor) -> Tensor | None:
        """0 at padding, else 1."""
        return (labels != PADDED).to(torch.float32) if self._is_padded and not labels.is_floating_point() else None

    def metrics_of_loss(self, loss: float) -> dict[str, Value]:
        return {"nats": loss, "perplexity": math.exp(min(loss, LARGEST))}
