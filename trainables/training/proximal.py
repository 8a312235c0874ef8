"""Conservative training (Keskar et al. 2017, section 4, after Li et al. 2014): steps on a proximal objective.

    x_{k+1} ~ argmin_x f_B(x) + weight / 2 * ||x - x_k||_2^2

by a few iterations of the optimizer on the same batch B; the paper takes 3 of Adam, and weight 1e-3. The term's
gradient is weight * (x - x_k), which is 0 in the first iteration. The optimizer's moments go on from batch to batch.
All iterations see one function: the same dropout masks, batch norm's running statistics moved by the first alone.
"""

import torch
from torch import Tensor, nn

from trainables.training.one_loss import Closure, one_loss
from trainables.training.optimizers.optimizer import Optimizer

INNER_STEPS = 3


def proximal_step(
    model: nn.Module, optimizer: Optimizer, closure: Closure, *, weight: float, steps: int = INNER_STEPS
) -> Tensor:
    """`steps` updates of `model` by `optimizer` on one batch; returns the batch loss at x_k.

    `closure()` adds the gradient of the batch loss to `.grad` and returns the loss.
    """
    loss_at = one_loss(model, closure)
    optimizer.zero_grad()
    first = loss_at()
    parameters: list[Tensor] = [p for p in model.parameters() if p.grad is not None]
    with torch.no_grad():
        start = [parameter.clone() for parameter in parameters]
    optimizer.step()
    for _ in range(steps - 1):
        optimizer.zero_grad()
        loss_at()
        gradients = [p.grad for p in parameters if p.grad is not None]
        with torch.no_grad():
            torch._foreach_add_(gradients, torch._foreach_sub(parameters, start), alpha=weight)
        optimizer.step()
    return first
