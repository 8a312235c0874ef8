"""How float32 products are computed: by oneDNN on AMD processors; in measures, in full on a GPU.

MKL leaves half of an AMD processor unused. PyTorch hands float32 products to it, and it takes no 512-bit instructions
on processors of others than Intel: 100 GFLOP/s on a core of an AMD EPYC (Zen 5), where oneDNN makes 200 to 220. PyTorch
takes oneDNN where the precision of its float32 products is "bf16", which permits rounding to bfloat16. On x86 oneDNN
does so where there are AMX registers, and AMD has none: products are of float32 numbers, summed in float32, which is
looked at before the first one. A product costs some 15 us more to begin, so only networks and batches whose products
are large go there. Measured, one thread, examples a second of training F1: 1.2 times as many at batch 16, 1.6 at 64,
1.8 at 256. Convolutions are oneDNN's in any case; float64 it does not have.

On a GPU PyTorch lets cuDNN round the inputs of float32 convolutions to TF32, of 11 significant bits, which training can
bear and differences of losses cannot.

Traps: while a context lasts, `torch.get_float32_matmul_precision()` or `torch.backends.cudnn.allow_tf32` raises, as
PyTorch will not name precisions set one by one by its older calls; and what is set inside is put back at its end.
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

_mkldnn: Any = torch.backends.mkldnn  # their types do not know all that they have
_cudnn: Any = torch.backends.cudnn


class _Precision:
    """A context with this precision of some operations in float32, one for all threads, while any is inside."""

    def __init__(self, name: str, precision: str, *operations: Any) -> None:
        self._name = name
        self._precision = precision
        self._operations = operations
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[str] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = [operation.fp32_precision for operation in self._operations]
                self._set([self._precision] * len(self._operations))
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._set(self._before)

    def _set(self, precisions: list[str]) -> None:
        for operation, precision in zip(self._operations, precisions, strict=True):
            operation.fp32_precision = precision

    def __reduce__(self) -> str:
        return self._name  # a copy is the same


_by_onednn = _Precision("_by_onednn", "bf16", _mkldnn.matmul)
_in_full = _Precision("_in_full", "ieee", _cudnn.conv, _cudnn.rnn, torch.backends.cuda.matmul)


def large_products(weights: Iterable[Tensor], examples: int) -> AbstractContextManager[None]:
    """A context in which products of `examples` inputs at once and the matrices of `weights` are oneDNN's if that pays.

    With small products, on another processor or device, and in another precision it changes nothing. Reentrant.
    """
    matrices = [w for w in weights if w.ndim == 2 and w.dtype == torch.float32 and w.device.type == "cpu"]
    largest = max((matrix.numel() for matrix in matrices), default=0)
    return _by_onednn if examples * largest >= LEAST_PRODUCT and _keeps_float32() else contextlib.nullcontext()


def exact_products(weights: Iterable[Tensor], examples: int) -> AbstractContextManager[None]:
    """For measures: `large_products`, and without TF32 where weights in float32 are on a GPU."""
    weights = list(weights)
    if any(weight.dtype == torch.float32 and weight.device.type != "cpu" for weight in weights):
        return _in_full
    return large_products(weights, examples)


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
    with _by_onednn, torch.autocast("cpu", enabled=False):
        return torch.equal(numbers @ one, numbers)
