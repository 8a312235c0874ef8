"""Record an update as a CUDA graph: one launch repeats all its kernels at the same addresses, without Python.

Trap: if a recording fails while it is made, PyTorch's random number generator on the GPU may become unusable (2.11),
and the trial fails. So only networks that are known to be recordable are tried (trainables.training.recording).
"""

import functools
from collections.abc import Callable

import torch


def cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Records `work` on the current GPU, after doing it three times, as PyTorch asks for.

    Raises RuntimeError, before it records, where the memory might not suffice: what `work` takes, once more.
    """
    device = torch.cuda.current_device()
    most = torch.cuda.get_device_properties(device).total_memory * torch.cuda.get_per_process_memory_fraction(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    current, aside = torch.cuda.current_stream(), _stream_aside(device)
    graph = torch.cuda.CUDAGraph()
    aside.wait_stream(current)
    try:
        with torch.cuda.stream(aside):
            for _ in range(3):
                work()
        peak = torch.cuda.max_memory_allocated(device)
        if 2 * peak - before > most:
            raise RuntimeError("too little memory for a recording")
        with torch.cuda.graph(graph, stream=aside):
            work()
    finally:
        torch.cuda.set_stream(current)  # where a recording fails PyTorch leaves the other one
        current.wait_stream(aside)
    return graph.replay


@functools.cache
def _stream_aside(device: int) -> torch.cuda.Stream:
    """One for all recordings: PyTorch keeps memory for products by stream."""
    return torch.cuda.Stream(device)
