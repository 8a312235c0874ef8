"""What a trial needs of an optimizer: PyTorch's interface, and a base for optimizers without PyTorch's own base.

`torch.optim.Optimizer` imports PyTorch's compiler when the first one is made, which takes every process, driver and
workers alike, 1.3 s and 150 MiB, and its hooks cost each step of a small network a tenth of its time. PyTorch's update
functions need none of it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """`torch.optim.Optimizer` has this form too: options by group of parameters, and a state by parameter."""

    param_groups: list[dict[str, Any]]
    state: Any

    @property
    def step(self) -> Callable[..., Any]: ...  # of a closure, which some need
    def zero_grad(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class PlainOptimizer:
    """The `params` are one group, with `options`; `update` is what a subclass adds."""

    def __init__(self, params: Iterable[Tensor], **options: Any) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(params), **options}]
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Changes the `parameters`, those that have a gradient, by one step."""
        raise NotImplementedError

    def zero_grad(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; with a closure, from the gradient that it computes."""
        loss = None if closure is None else closure()
        group = self.param_groups[0]
        parameters = [p for p in group["params"] if p.grad is not None]
        if parameters:
            with torch.no_grad():
                self.update(parameters, [p.grad for p in parameters], group)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """As PyTorch's: parameters by their number."""
        group = self.param_groups[0]
        numbers = {parameter: number for number, parameter in enumerate(group["params"])}
        state = {numbers[parameter]: dict(of_one) for parameter, of_one in self.state.items()}
        return {"state": state, "param_groups": [{**group, "params": list(numbers.values())}]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up a state that `state_dict` gave, by copies on the device of the parameters."""
        parameters = self.param_groups[0]["params"]
        self.param_groups = [{**state_dict["param_groups"][0], "params": parameters}]
        self.state.clear()
        for number, of_one in state_dict["state"].items():
            parameter = parameters[number]
            self.state[parameter] = {name: _copied(value, parameter.device) for name, value in of_one.items()}


def _copied(value: Any, device: torch.device) -> Any:
    return value.to(device, copy=True) if isinstance(value, Tensor) else value
