"""How a process that trains is set, whoever started it: threads, kernels, memory."""

import os
from typing import Any

import torch

from trainables.runtime.memory import keep_freed_memory


def prepare_process(cpus: float) -> None:
    """As many threads as the trial has CPUs, and reproducible kernels: numbers must not depend on the neighbours.

    Besides, what the process frees is kept. To be called before PyTorch makes a tensor.
    """
    keep_freed_memory()
    torch.set_num_threads(max(1, int(cpus)))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("warn")  # `use_deterministic_algorithms` imports the compiler: 2.4 s
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # by default then with NaN: 2 to 8 % of a trial's time
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_cudnn_sdp(False)  # its attention has no deterministic gradient
