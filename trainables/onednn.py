"""float32 matrix products by oneDNN on AMD processors, where MKL leaves half of the hardware unused.

PyTorch hands float32 products to MKL, which takes no 512-bit instructions on processors of others than Intel: 100
GFLOP/s on a core of an AMD EPYC (Zen 5), where oneDNN makes 200 to 220. PyTorch takes oneDNN where the precision of its
float32 products is "bf16", which permits rounding to bfloat16. On x86 oneDNN does so where there are AMX registers, and
AMD has none: products are of float32 numbers, summed in float32, which is looked at before the first one.

A product costs some 15 us more to begin, so only networks and batches whose products are large go there. Measured, one
thread, examples a second of training F1: 1.2 times as many at batch 16, 1.6 at 64, 1.8 at 256. Convolutions are
oneDNN's in any case; float64 it does not have.

Traps: while the context lasts, `torch.get_float32_matmul_precision()` raises, as PyTorch will not name a precision set
for one library by its older call; and a precision of oneDNN's products set inside is put back at its end.
"""

import contextlib
import functools
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LEAST_PRODUCT = 4e6  # multiplications: of 128 x 128 weights and a batch of 256

_mkldnn: Any = torch.backends.mkldnn  # its type does not know all that it has


class _Permission:
    """A context in which float32 products are oneDNN's: their precision, one for all threads, while any is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = ""

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = _mkldnn.matmul.fp32_precision
                _mkldnn.matmul.fp32_precision = "bf16"
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _mkldnn.matmul.fp32_precision = self._before

    def __reduce__(self) -> str:
        return "_permission"  # a copy is the same


_permission = _Permission()


def large_products(weights: Iterable[Tensor], examples: int) -> AbstractContextManager[None]:
    """A context in which products of `examples` inputs at once and the matrices of `weights` are oneDNN's if that pays.

    With small products, on another processor or device, and in another precision it changes nothing. Reentrant.
    """
    matrices = [w for w in weights if w.ndim == 2 and w.dtype == torch.float32 and w.device.type == "cpu"]
    largest = max((matrix.numel() for matrix in matrices), default=0)
    return _permission if examples * largest >= LEAST_PRODUCT and _keeps_float32() else contextlib.nullcontext()


@functools.cache
def _keeps_float32() -> bool:
    """Whether the processor is AMD's and oneDNN's products with the identity give back every bit."""
    try:
        is_amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return is_amd and _mkldnn.is_available() and all(_is_exact(rows) for rows in (16, 512))


def _is_exact(rows: int) -> bool:
    one = torch.eye(512, dtype=torch.float32, device="cpu")  # whatever the defaults
    numbers = 1 + torch.arange(rows * 512).to(one).view(rows, 512) * 2**-23  # of 24 significant bits
    with _permission, torch.autocast("cpu", enabled=False):
        return torch.equal(numbers @ one, numbers)
