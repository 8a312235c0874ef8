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
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def layers():
    return [torch.ones(2**22) for _ in range(8)]  # 16 MiB each
for _ in range(5):
    layers()
before = faults()
for _ in range(5):
    layers()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_what_is_freed_is_not_asked_of_the_kernel_again() -> None:
    """128 MiB, five times: 160 000 pages of 4 KiB where they are given back and taken again."""

    def run(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    given_back, kept = run("as it is"), run("keep")
    assert kept < given_back / 5
