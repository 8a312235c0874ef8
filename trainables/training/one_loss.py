"""One loss for an update that asks for it more than once: at perturbed weights, or along a line.

The passes over a batch must see one and the same function of the weights, and count as one pass over the data. So the
calls after the first draw the same random numbers (dropout masks) as the first, and leave batch norm's running
statistics alone: these belong to the weights that the update starts from.

Trap: a custom module that keeps statistics of its own, not by PyTorch's batch norm, updates them in every pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Closure = Callable[[], Tensor]


def one_loss(model: nn.Module, closure: Closure) -> Closure:
    """`closure` whose calls after the first are the same function of the weights of `model`, free of traces.

    The random state is read at the first call. Batch norm uses the batch's statistics in every call. The loss comes
    detached, as a line search wants it: `closure` has called backward itself.
    """
    random: list[Tensor] = []
    cuda = next((p.device for p in model.parameters() if p.device.type == "cuda"), None)

    def repeated() -> Tensor:
        if not random:
            random.append(torch.get_rng_state())
            if cuda is not None:
                random.append(torch.cuda.get_rng_state(cuda))
            return closure().detach()
        torch.set_rng_state(random[0])
        if cuda is not None:
            torch.cuda.set_rng_state(random[1], cuda)
        with running_statistics_kept(model):
            return closure().detach()

    return repeated


@contextmanager
def running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Inside, batch norm in training mode normalizes as ever and leaves its buffers bit-identical."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False  # in training mode this alone decides whether the buffers are updated
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
