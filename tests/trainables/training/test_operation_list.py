"""Lists of operations: what they repeat, and what they refuse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.training import operation_list as module
from trainables.training.operation_list import operation_list

ROWS = torch.arange(6, dtype=torch.float64).view(3, 2) + 1

FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "a result at its place": lambda x: x @ x.T,
    "one without a function for Python": lambda x: x[torch.tensor([2, 0])],
    "one without `out`": lambda x: torch.relu(x - 3),
    "several results": lambda x: torch.stack(x.max(dim=0)[:1]),
    "several results, some of them none": lambda x: torch.nn.functional.layer_norm(x, (2,)),
    "a view": lambda x: x.T.reshape(2, 3)[1:],
    "a view that is changed": lambda x: x.clone().view(-1).add_(1).mul_(2),
    "memory that is filled": lambda x: torch.empty_like(x).copy_(x).fill_diagonal_(7),
    "a list of tensors": lambda x: torch.cat([x, 2 * x, x[:1]]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_repeats_an_operation(name: str) -> None:
    """For other numbers at the same place."""
    place, found = ROWS.clone(), list[Tensor]()
    replay = operation_list(lambda: found.append(FUNCTIONS[name](place)))
    place.copy_(ROWS.flip(0) * 3 - 7)
    replay()
    assert torch.equal(found[0], FUNCTIONS[name](place))


def test_it_repeats_a_gradient() -> None:
    weights, gradient = ROWS.clone().requires_grad_(), torch.zeros_like(ROWS)

    def work() -> None:
        weights.grad = None
        torch.nn.functional.cross_entropy(weights.sin() @ ROWS.T, torch.tensor([0, 2, 1])).backward()
        gradient.copy_(torch.as_tensor(weights.grad))

    replay = operation_list(work)
    for _ in range(2):
        with torch.no_grad():
            weights.add_(1)
        replay()
        repeated = gradient.clone()
        work()
        assert torch.equal(gradient, repeated)


def test_it_draws_new_numbers() -> None:
    found: list[Tensor] = []
    replay = operation_list(lambda: found.append(torch.nn.functional.dropout(torch.ones(50))))
    torch.manual_seed(3)
    replay()
    torch.manual_seed(3)
    assert torch.equal(found[0], torch.nn.functional.dropout(torch.ones(50)))


@pytest.mark.parametrize("look", [lambda x: x.sum().item(), lambda x: bool((x > 0).all()), lambda x: torch.equal(x, x)])
def test_what_python_looks_at_is_refused(look: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match="cannot be part of a list of operations"):
        operation_list(lambda: look(ROWS))


def test_large_results_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list[Tensor]()
    monkeypatch.setattr(module, "MEMORY", 2 * ROWS.nbytes)
    operation_list(lambda: found.append((ROWS + 1) + 1))
    with pytest.raises(RuntimeError, match="add cannot be part of a list of operations"):
        operation_list(lambda: found.append(((ROWS + 1) + 1) + 1))
