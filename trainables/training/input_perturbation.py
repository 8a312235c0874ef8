"""Adversarial inputs by the fast gradient sign (Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572, section 4).

    x_adv = x + epsilon * sign(dloss / dx)        kept in the data's range [0, 1]

Keskar et al. 2017 (section 4) tried adversarial training against the large-batch gap; it did not help. An input number
outside [0, 1] is moved no further out.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainables.runtime.errors import UserError
from trainables.training.one_loss import running_statistics_kept


def adversarial_inputs(
    model: nn.Module, inputs: Tensor, labels: Tensor, loss: Callable[[Any, Tensor], Tensor], *, epsilon: float
) -> Tensor:
    """The inputs, each number moved by at most `epsilon` so that `loss(model(inputs), labels)` grows.

    The parameters' gradients, batch norm's running statistics and `inputs` itself stay as they are. Raises UserError
    for inputs that are not floating point, such as tokens.
    """
    if not inputs.is_floating_point():
        raise UserError(
            f"`input_adversary` needs inputs that are real numbers, got {inputs.dtype}; "
            "`weight_adversary` works for any"
        )
    moved = inputs.detach().requires_grad_()
    with torch.enable_grad(), running_statistics_kept(model):
        (gradient,) = torch.autograd.grad(loss(model(moved), labels), moved)
    inputs = inputs.detach()
    return torch.clamp(inputs + epsilon * gradient.sign(), inputs.clamp(max=0.0), inputs.clamp(min=1.0))
