"""What a trial needs of an optimizer: the interface of `torch.optim.Optimizer`."""

from collections.abc import Callable
from typing import Any, Protocol


class Optimizer(Protocol):
    """Options by group of parameters, and a state by parameter."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...
    @property
    def state(self) -> Any: ...
    @property
    def step(self) -> Callable[..., Any]: ...  # of a closure, which some need
    def zero_grad(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...
