"""What ours and other libraries measure: a small network with its dense Hessian, and quadratics as modules."""

from dataclasses import dataclass
from functools import cache

import torch
from oracles import dense_hessian
from torch import Tensor, nn
from torch.func import functional_call

from trainables.sharpness import ModelLoss


@dataclass(frozen=True)
class Network:
    """A trained tanh network in float64, its data, our loss of it, and its Hessian from autograd, (n, n)."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    loss: ModelLoss
    hessian: Tensor
    eigenvalues: Tensor  # ascending


class Quadratic(nn.Module):
    """A module whose output, for any input, is p' H p / 2: with the loss `first`, its Hessian is H."""

    def __init__(self, hessian: Tensor) -> None:
        super().__init__()
        self.hessian = hessian
        self.params = nn.Parameter(torch.ones_like(hessian[0]))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.loss(self.params)

    def loss(self, params: Tensor) -> Tensor:
        return params @ (self.hessian @ params) / 2


def first(output: Tensor, target: Tensor) -> Tensor:
    return output


@cache
def trained_network() -> Network:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(21, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (21,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    model.zero_grad()
    loss = ModelLoss(model, inputs, labels)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def plain(params: Tensor) -> Tensor:
        pieces = params.split([shape.numel() for shape in shapes.values()])
        weights = {name: piece.view(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, weights, (inputs,)), labels)

    hessian = dense_hessian(plain, loss.params)
    return Network(model, inputs, labels, loss, hessian, torch.linalg.eigvalsh(hessian))


@cache
def with_an_outlier() -> Tensor:
    """A diagonal Hessian: 1000, and 199 eigenvalues in [0, 1]. Lanczos without reorthogonalization copies the 1000."""
    return torch.diag(torch.cat([torch.linspace(0, 1, 199), torch.tensor([1000.0])]).double())
