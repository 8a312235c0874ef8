"""The loss that measures work on, shared by the workers of a trial: each has some of the data's chunks.

Values, gradients, Hessian and Gauss-Newton products and recalibrated statistics are sums over chunks; each worker adds
up its own, and the sums are added over the workers. All workers call the same measure with the same arguments, draw the
same random vectors and see the same sums, so they take the same path through it.

What is not worth sharing each worker does by itself: fewer batches than workers, and `recalibrated` batch norm where
all data is one chunk. `of_examples` is of all the data, too.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from trainables.sharpness import ModelLoss
from trainables.training.parallel import Workers


def share(loss: ModelLoss, workers: Workers) -> ModelLoss:
    """`loss`, computed by all of `workers` together; each has to call this with the same loss."""
    return loss if workers.count == 1 else SharedLoss(loss, workers)


class SharedLoss(ModelLoss):
    """`loss`, each of whose sums over examples is shared by `workers`; the model and the data are the same."""

    def __init__(self, loss: ModelLoss, workers: Workers) -> None:
        vars(self).update(vars(loss))
        self.workers = workers
        self._cut()

    def _cut(self) -> None:
        super()._cut()
        sizes = self._cuts if self.batch_size else [1] * self.examples
        is_one_chunk = self.batch_norm == "recalibrated" and not self._in_chunks
        self._is_shared = len(sizes) >= self.workers.count and not is_one_chunk
        self._own = slice(0, self.examples)
        if self._is_shared:
            own = self.workers.share(len(sizes))
            self._own = slice(sum(sizes[: own.start]), sum(sizes[: own.stop]))
            most = -(-len(sizes) // self.workers.count) * max(sizes)
            self._fits = most <= self._chunk  # the same on every worker
            mine = torch.arange(self._own.stop - self._own.start)
            self._cuts = sizes[own] if self.batch_size else [len(cut) for cut in mine.split(self._chunk)]

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = self._inputs[self._own], self._labels[self._own]
        return zip(inputs.split(self._cuts), labels.split(self._cuts), strict=True)

    def _over_all(self, total: Tensor) -> Tensor:
        return self.workers.sum(total) if self._is_shared else total
