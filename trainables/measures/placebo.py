"""A change of a network that no prediction depends on, as the placebo of experiments on sharpness.

In each pair of layers with nothing but ReLU and the like between them, the first is multiplied by a and the next
divided by a. The function stays the same, but measures in the weights' own units change (Dinh et al. 2017, arXiv
1703.04933). With a power of two as a, multiplying rounds nothing, so the outputs are the same to the last bit.
"""

import copy

import torch
from torch import Tensor, nn

from trainables.runtime.errors import UserError
from trainables.sharpness.invariance import rescalable_pairs, rescale


def rescaled_network(model: nn.Module, factor: float, inputs: Tensor) -> nn.Module:
    """A copy of `model` in evaluation mode with rescaled layers, whose outputs on `inputs` (N, ...) are the same.

    Raises UserError for a network that cannot be rescaled, or whose outputs change.
    """
    try:
        pairs = rescalable_pairs(model)
    except ValueError as error:
        raise UserError(f"`--rescalings` must be none for this network: {error}") from error
    rescaled = rescale(model, [factor] * len(pairs)).eval()
    with torch.no_grad():
        before, after = copy.deepcopy(model).eval()(inputs), rescaled(inputs)
    if not torch.equal(before, after):
        raise UserError(
            f"`rescaling` must leave the outputs as they are, got {factor:g}, which changes them by up to "
            f"{float((before - after).abs().max()):.1e}; take one nearer to 1"
        )
    return rescaled
