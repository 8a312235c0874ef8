"""float32 products: as exact as float32 whoever makes them, to the second derivative, and nothing left behind."""

import copy
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import random
from torch import nn

from trainables.runtime.float32 import LEAST_PRODUCT, exact_products, large_products
from trainables.sharpness import ModelLoss

CPUINFO = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
SIZE = 256  # of the matrices below; LEAST_PRODUCT / SIZE^2 examples are enough


def precision() -> str:
    return str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]


@pytest.mark.parametrize("examples", [64, 300, 1000])
def test_as_exact_as_float32(examples: int) -> None:
    """By the sum of absolute terms of each number: 256 roundings of 2^-24 at most, where bfloat16 rounds by 2^-9."""
    inputs, weights = random(0, examples, SIZE).float(), random(1, SIZE, SIZE).float()
    with large_products([weights], 10**9):
        product, transposed = inputs @ weights, inputs @ weights.T
    for found, matrix in ((product, weights), (transposed, weights.T)):
        exact, terms = inputs.double() @ matrix.double(), inputs.double().abs() @ matrix.double().abs()
        assert float(((found - exact).abs() / terms).max()) < SIZE * 2**-24


def test_second_derivatives_are_as_exact() -> None:
    """A product with the Hessian of a network's loss, of 300 inputs, beside the one in float64."""
    network = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.Linear(SIZE, 10))
    for number, weights in enumerate(network.parameters()):
        weights.data = random(number, *weights.shape).float() / SIZE**0.5
    inputs, found = random(9, 300, SIZE).float(), {}
    for dtype in (torch.float32, torch.float64):
        network = network.to(dtype)
        parameters = list(network.parameters())
        with large_products(parameters, 300):
            loss = network(inputs.to(dtype)).logsumexp(-1).mean()
            gradients = torch.autograd.grad(loss, parameters, create_graph=True)
            slopes = [(g * p.detach()).sum() for g, p in zip(gradients, parameters, strict=True)]
            slope = torch.stack(slopes).sum()
            found[dtype] = torch.cat([h.flatten().double() for h in torch.autograd.grad(slope, parameters)])
    error = torch.dist(found[torch.float32], found[torch.float64]) / torch.linalg.vector_norm(found[torch.float64])
    assert float(error) < 1e-5


@pytest.mark.skipif("AuthenticAMD" not in CPUINFO, reason="MKL uses all of other processors")
def test_large_products_go_to_onednn() -> None:
    """Looked at in a fresh process whose defaults are others."""
    code = (
        "import torch; torch.set_default_dtype(torch.float64); from trainables.runtime.float32 import large_products\n"
        "with torch.autocast('cpu', torch.bfloat16), large_products([torch.ones(99, 99).float()], 10**6):\n"
        "    print(torch.backends.mkldnn.matmul.fp32_precision)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "bf16\n"


def test_two_threads_that_overlap() -> None:
    before, entered, left = precision(), threading.Event(), threading.Event()
    large = large_products([random(0, SIZE, SIZE).float()], int(LEAST_PRODUCT))

    def other() -> None:
        with large:
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=other)
    with large:
        thread.start()
        entered.wait(10)
    left.set()
    thread.join()
    assert precision() == before


def test_small_products_and_other_precisions_are_left_alone() -> None:
    before = precision()
    weights = random(0, SIZE, SIZE).float()
    for left_alone, examples in (([weights], 10), ([weights.double()], 10**9), ([weights[0]], 10**9), ([], 10**9)):
        with large_products(left_alone, examples):
            assert precision() == before


def test_measures_on_a_gpu_are_without_tf32() -> None:
    def precisions() -> list[str]:
        cudnn: Any = torch.backends.cudnn
        return [cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision]

    before, weights = precisions(), torch.empty(SIZE, SIZE, device="meta")
    assert before[0] == "tf32"  # PyTorch's default
    with exact_products([weights], 1):
        assert precisions() == ["ieee"] * 3
        with large_products([weights], 10**9):
            assert precisions() == ["ieee"] * 3
    assert precisions() == before
    assert torch.backends.cudnn.allow_tf32
    for others in ([weights.double()], [random(0, SIZE, SIZE).float()], [random(0, SIZE, SIZE)]):
        with exact_products(others, 1):
            assert precisions() == before
    loss = ModelLoss(nn.Linear(4, 2), torch.ones(3, 4), torch.tensor([0, 1, 1]), dtype=torch.float32)
    assert loss.value(loss.params) == copy.deepcopy(loss).value(loss.params)


def test_what_was_set_comes_back() -> None:
    """After an error too, and from one inside of another."""
    before = precision()
    large = large_products([random(0, SIZE, SIZE).float()], int(LEAST_PRODUCT))
    with large:
        inside = precision()
        with large:
            assert precision() == inside
        assert precision() == inside
        with pytest.raises(KeyError), large:
            raise KeyError
        assert precision() == inside
    assert precision() == before
