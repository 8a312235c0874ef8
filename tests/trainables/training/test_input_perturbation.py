"""Adversarial inputs: the sign of the gradient on a linear network, the data's range, and what stays as it was."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.runtime.errors import UserError
from trainables.training.input_perturbation import adversarial_inputs


def test_sign_of_the_gradient_inside_the_range() -> None:
    model = nn.Linear(4, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    inputs = torch.tensor([[0.5, 0.5, 0.02, 0.5], [0.97, 1.5, -0.3, 0.5]], dtype=torch.float64)
    found = adversarial_inputs(model, inputs, torch.tensor([0, 1]), cross_entropy, epsilon=0.1)
    # The loss of class 0 falls with the first row's product, that of class 1 rises with it; 1.5 and -0.3 lie outside.
    expected = torch.tensor([[0.4, 0.6, 0.0, 0.5], [1.0, 1.4, -0.2, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)
    assert not found.requires_grad


def test_loss_grows_and_model_stays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double()
    inputs, labels = torch.rand(8, 1, 8, 8, dtype=torch.float64), torch.arange(8) % 3
    kept = inputs.clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    found = adversarial_inputs(model, inputs, labels, cross_entropy, epsilon=0.05)
    assert torch.equal(inputs, kept)
    assert not inputs.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is not None and bool((p.grad == 7.0).all()) for p in model.parameters())
    assert (found - inputs).abs().max() <= 0.05 + 1e-12
    assert found.min() >= 0
    assert found.max() <= 1
    assert cross_entropy(model(found), labels) > cross_entropy(model(inputs), labels) + 0.01


def test_refuses_tokens() -> None:
    def unused(logits: Tensor, labels: Tensor) -> Tensor:
        raise AssertionError

    tokens = torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(UserError, match="`input_adversary` needs inputs that are real numbers, got"):
        adversarial_inputs(nn.Embedding(3, 4), tokens, tokens, unused, epsilon=0.1)
