"""What a process keeps of the memory that it frees."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from trainables.runtime.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import torch
from torch import nn
torch.set_num_threads(1)
network = nn.Sequential(*(nn.Sequential(nn.Conv2d(c, 16, 5), nn.ReLU(), nn.MaxPool2d(2)) for c in (3, 16)))
images = torch.ones(800, 3, 32, 32)
def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        network(images).square().sum().backward()
        network.zero_grad()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3)
print(faults(5))
"""


KEPT = """
from pathlib import Path
from trainables.runtime.memory import give_back, keep_freed_memory
keep_freed_memory()
import torch
def resident():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)
held = [torch.ones(10 * 2**20) for _ in range(20)]
del held
before = resident()
give_back()
print(before, resident())
"""

AFTER_A_REFUSAL = """
from trainables.runtime.memory import free_memory, is_out_of_memory, keep_freed_memory, limit_memory
keep_freed_memory()
import torch
limit_memory(torch.device("cpu"), gib=1)
held = []
try:
    while True:
        held += [torch.ones(size * 2**18) for size in (1, 7, 40, 60)]
except RuntimeError as error:
    assert is_out_of_memory(error)
del held
free_memory()
print(torch.ones(800 * 2**18).numel())
"""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")


def printed(code: str, *arguments: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.slow
@needs_glibc
def test_what_is_freed_is_not_asked_of_the_kernel_again() -> None:
    """Page faults of five steps of two convolutions, activations of 40 MiB: 300 000 where it is."""
    (given_back,), (kept,) = printed(FAULTS, "as it is"), printed(FAULTS, "keep")
    assert kept < given_back / 5


@pytest.mark.slow
@needs_glibc
def test_much_is_given_back_when_asked_for() -> None:
    """0.8 GiB that were freed, in KiB."""
    before, after = printed(KEPT)
    assert before > 0.75 * 2**20
    assert after < before - 0.75 * 2**20


@pytest.mark.slow
@needs_glibc
def test_what_is_kept_does_not_count_against_a_limit() -> None:
    """Four fifths of a GiB in one piece, after a GiB in pieces of up to 60 MiB."""
    assert printed(AFTER_A_REFUSAL) == [800 * 2**18]
