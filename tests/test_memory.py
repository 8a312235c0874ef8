"""What a process keeps of the memory that it frees."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from trainables.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import torch
from torch import nn
torch.set_num_threads(1)
network = nn.Sequential(*(nn.Sequential(nn.Conv2d(c, 64, 5), nn.ReLU(), nn.MaxPool2d(2)) for c in (3, 64)))
images = torch.ones(64, 3, 32, 32)
def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        network(images).square().sum().backward()
        network.zero_grad()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3)
print(faults(5))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_what_is_freed_is_not_asked_of_the_kernel_again() -> None:
    """Page faults of five steps of two convolutions whose activations take 13 MiB: 15 000 and more where it is."""

    def run(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    given_back, kept = run("as it is"), run("keep")
    assert kept < given_back / 5
