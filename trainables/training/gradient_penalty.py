"""The gradient with a penalty on the norms of the gradients of small groups of the batch.

Small-batch SGD follows, to the first order in its learning rate, a loss with a penalty on the squared gradient norms
of its batches (Smith et al. 2021, arXiv 2101.12176). A large batch can have that penalty explicitly: with its groups of
`penalty_batch_size` examples, L_k their mean losses and s_k their shares in the batch,

    L = sum_k s_k (L_k + lambda ||grad L_k||_2^2)        grad L = sum_k s_k (g_k + 2 lambda H_k g_k)

(Novack et al. 2023, arXiv 2211.15853; with all examples in one batch it is the explicit regularization of Geiping et
al. 2022, arXiv 2109.14119). H_k g_k is exact, by a second backward pass; so an update costs two to three times as much.

Batch norm normalizes over each group, as it would in the small batch. The groups are consecutive examples of the
batch, in its random order; the last may be smaller.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.training.parts import Part


def penalized_gradient(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    count: int,
    weights: Tensor | None,
    *,
    penalty: float,
    group_size: int,
) -> Tensor:
    """Leaves in `.grad`, which is empty before, the gradient of L; returns sum_k s_k L_k.

    `loss(rows)` is the mean loss over these of the `count` examples, `weights` (count,) what each weighs in the batch.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = torch.zeros((), device=parameters[0].device)
    with sdpa_kernel(SDPBackend.MATH):  # of the attention kernels only this one has second derivatives
        for rows in torch.arange(count, device=parameters[0].device).split(group_size):
            part = Part(rows, len(rows) / count)
            mean = loss(rows)
            gradients = torch.autograd.grad(mean, parameters, create_graph=True, allow_unused=True)
            squared = torch.stack([(g * g).sum() for g in gradients if g is not None]).sum()
            part.of_mean(mean + penalty * squared, weights).backward()
            total = total + part.of_mean(mean.detach(), weights)
    return total
