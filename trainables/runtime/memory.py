"""The memory limit of a trial, how running out of memory is recognized, and which freed memory is kept.

On a GPU it is PyTorch's allocator that refuses, beyond a share of the device; the CUDA context, about half a GiB,
comes on top. On Linux CPUs it is the kernel: `RLIMIT_DATA`, the private writable memory of the process beyond what it
has when the limit is set, so neither code nor Ray's shared object store counts. Elsewhere there is no such limit.
PyTorch then raises an error and the process lives on; a library that cannot cope ends it, and the trial goes on from
its checkpoint.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.runtime.errors import text_of

if TYPE_CHECKING:
    import torch

GIB = 2**30
SMALLER = 8  # times: a trial is tried again once only
TRIM_ABOVE = GIB  # of a process in all
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_MESSAGES = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "alloc_failed", "bad_alloc",
    "could not create a memory", "could not create a primitive",
)  # fmt: skip


def keep_freed_memory() -> None:
    """Has this process keep what it frees, in huge pages, where Linux and glibc let it; `give_back` gives it back.

    They would give activations of some MiB back at once, and take them again page by page: half of the time of a step
    of C1 at batch 1000, and a third at 256. The most that a trial takes grows by a quarter to two fifths, for holes.
    To be called before PyTorch makes its first tensor, which is when it reads the environment.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _mallopt({_M_TRIM_THRESHOLD: -1, _M_MMAP_MAX: 0})


def give_back() -> None:
    """Gives back what this process keeps of the memory that it freed, if it has more than TRIM_ABOVE."""
    with contextlib.suppress(OSError):  # no Linux
        if int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") > TRIM_ABOVE:
            _trim()


def limit_memory(device: torch.device, *, gib: float | None, gpu_share: float = 1.0) -> None:
    """Lets this process take `gib` GiB more on a CPU; on a GPU `gib` in all, and no more than `gpu_share` of it."""
    import torch

    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(gpu_share, 1.0, gib * GIB / total if gib else 1.0), device)
    elif gib is not None and (taken := _private_bytes()) is not None:
        import resource  # absent on Windows

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = taken + round(gib * GIB)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
        # What is kept counts too, holes and all; so under a limit the largest blocks, those of a 32nd of it, come from
        # the kernel one by one; glibc takes a threshold of 32 MiB at most.
        _mallopt({_M_TRIM_THRESHOLD: GIB, _M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: round(min(1.0, gib) * GIB) // 32})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is what PyTorch, Python or a library of theirs raises where memory is refused."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in text_of(error).lower() for message in _MESSAGES)


def free_memory() -> None:
    """Gives back what nothing refers to any more."""
    import torch

    gc.collect()
    _trim()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _mallopt(settings: dict[int, int]) -> None:
    with contextlib.suppress(AttributeError):  # no glibc
        for parameter, value in settings.items():
            ctypes.CDLL(None).mallopt(parameter, value)


def _trim() -> None:
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _private_bytes() -> int | None:
    """The private writable memory of this process, None where Linux's /proc is not there."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), None)
