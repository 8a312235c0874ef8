"""Several workers on one trial: what they sum, and which share is whose. The one file that knows torch.distributed.

Every worker holds all of the data and the same weights, draws the same random numbers, and does its share of every
batch, evaluation and measure. What has to be known of the whole is summed over the workers, by gloo on CPUs and nccl
on GPUs. A sum has the same bits on every worker, so all take the same steps and decisions; nothing else is exchanged.

Traps: a decision that rests on a clock must be one worker's (`agreed`). Workers of different hardware round
differently, so their weights drift apart: give a trial machines of one kind.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainables.data.rows import Examples
from trainables.tasks.by_name import load_task
from trainables.tasks.metrics import Kept, Metric, Sums
from trainables.tasks.task import Task
from trainables.training.evaluate import Evaluation, Totals, totals

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Workers:
    """The workers of a trial, seen from the one of number `rank`; by default it is alone, and every sum its own."""

    rank: int = 0
    count: int = 1
    device: torch.device = CPU

    @classmethod
    def of_process_group(cls, device: torch.device) -> "Workers":
        """Those of torch.distributed's default process group, which has been set up."""
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def share(self, count: int) -> slice:
        """This worker's part of `count` things in a row; none where there are fewer things than workers."""
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every worker's `tensor`; differentiable, for a loss that is itself a sum over the workers."""
        return tensor if self.count == 1 else _Sum.apply(tensor)

    def joined(self, rows: Tensor) -> Tensor:
        """Every worker's `rows` (n, ...), those of the first worker first; the others' n may differ."""
        if self.count == 1:
            return rows
        sizes = torch.zeros(self.count, dtype=torch.int64, device=rows.device)
        sizes[self.rank] = len(rows)
        counts = self.sum(sizes).tolist()
        whole = rows.new_zeros(sum(counts), *rows.shape[1:])
        first = sum(counts[: self.rank])
        whole[first : first + len(rows)] = rows
        return self.sum(whole)

    def agreed(self, decision: bool) -> bool:
        """The first worker's `decision`."""
        if self.count == 1:
            return decision
        mine = torch.tensor(float(decision and self.rank == 0), device=self.device)
        return bool(self.sum(mine))

    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        """Replaces every gradient by its sum over the workers, and returns the sum of `loss`: one message for all."""
        if self.count == 1:
            return loss
        gradients = [p.grad for p in parameters if p.grad is not None]
        total = self.sum(torch.cat([loss.reshape(1), *(gradient.reshape(-1) for gradient in gradients)]))
        pieces = total[1:].split([gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))
        return total[0]


class _Sum(torch.autograd.Function):
    """s = sum_w x_w, of which every worker's loss L_w is a function: d(sum_w L_w)/dx_w is the sum of all dL_w/ds."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(gradient)
        return total


def evaluate_together(
    workers: Workers,
    model: nn.Module,
    inputs: Examples,
    labels: Examples,
    micro_batch_size: int | None = None,
    task: Task | None = None,
) -> Evaluation:
    """`evaluate`, every worker on its share of the examples, of which it takes `micro_batch_size` at once."""
    task = task or load_task("classification")
    own = workers.share(len(inputs))
    count = own.stop - own.start
    is_idle = count == 0  # it evaluates one example, for the shapes of what is exchanged, and counts it 0 times
    rows = slice(0, 1) if is_idle else own
    sizes = torch.arange(1 if is_idle else count).split(micro_batch_size or len(inputs))
    cuts = None if micro_batch_size is None else [len(cut) for cut in sizes]
    if workers.count == 1:
        return totals(model, inputs, labels, task, cuts=cuts).result(task)
    found = totals(model, inputs[rows], labels[rows], task, cuts=cuts)
    share = 0.0 if is_idle else 1.0
    both = torch.stack([found.loss, torch.as_tensor(found.weight, dtype=torch.float64, device=inputs.device)])
    loss, weight = workers.sum(share * both)
    metrics = {name: _joined(workers, metric, is_idle) for name, metric in found.metrics.items()}
    return Totals(loss, weight, metrics).result(task)


def _joined(workers: Workers, metric: Metric, is_idle: bool) -> Metric:
    if isinstance(metric, Kept):
        return replace(metric, rows=workers.joined(metric.rows[:0] if is_idle else metric.rows))
    return Sums(workers.sum(torch.zeros_like(metric.sums) if is_idle else metric.sums), metric.of)
