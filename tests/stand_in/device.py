"""A device that is none: PyTorch takes it for an accelerator, and the CPU does its work (see device.cpp).

It must be made before the first gradient of a process, when PyTorch counts the devices, and stays to its end.
"""

import functools
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch.utils.backend_registration import generate_methods_for_privateuse1_backend, rename_privateuse1_backend

NAME = "stand_in"
COMPILER = shutil.which("g++")


class Crossings(NamedTuple):
    """Between host and device, since the process began."""

    waits: int
    copies: int


@functools.cache
def stand_in(folder: Path) -> torch.device:
    """The device; it is compiled into `folder`, which takes half a minute."""
    from torch.utils.cpp_extension import include_paths, library_paths  # which looks for CUDA, and says so

    library = folder / "stand_in.so"
    assert COMPILER is not None
    subprocess.run(
        [
            *(COMPILER, "-std=c++20", "-shared", "-fPIC", str(Path(__file__).with_suffix(".cpp")), "-o", str(library)),
            *(f"-I{path}" for path in include_paths()),
            *(f"-L{path}" for path in library_paths()),
            *(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", "-ltorch", "-ltorch_cpu", "-lc10"),
        ],
        check=True,
    )
    torch.ops.load_library(library)
    module = ModuleType(NAME)
    module.__dict__.update(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        device=lambda _: nullcontext(),
        _is_in_bad_fork=lambda: False,
        manual_seed_all=lambda seed: None,  # random numbers are the CPU's
    )
    rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, module)
    generate_methods_for_privateuse1_backend(for_storage=True)
    return torch.device(NAME, 0)


def crossings() -> Crossings:
    return Crossings(torch.ops.stand_in.waits(), torch.ops.stand_in.copies())
