"""What a trial needs of an optimizer: the interface of `torch.optim.Optimizer`."""

from collections.abc import Callable
from typing import Any, Protocol, TypeGuard


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


class ScheduleFree(Optimizer, Protocol):
    """An optimizer that trains at other weights than it is judged at (Defazio et al. 2024, arXiv 2405.15682).

    `train()` and `eval()` move the parameters from the ones to the others and back; `train_mode` of a group says where
    they are. The packages schedulefree and pytorch-optimizer have such classes.
    """

    def train(self) -> None: ...
    def eval(self) -> None: ...


def is_schedule_free(optimizer: Optimizer) -> TypeGuard[ScheduleFree]:
    """Whether `optimizer` has what a `ScheduleFree` has."""
    has_modes = all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))
    return has_modes and "train_mode" in optimizer.param_groups[0]
