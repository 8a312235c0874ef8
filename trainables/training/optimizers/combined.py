"""Several optimizers as one, each with parameters of its own: Muon for matrices beside AdamW for the rest."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from trainables.training.optimizers.optimizer import Optimizer


class CombinedOptimizer:
    """`parts` take their steps one after another, each as it would alone; their groups and states are joined."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = tuple(parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        return {parameter: of_one for part in self.parts for parameter, of_one in part.state.items()}

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each; with a closure, from the gradient that it computes once."""
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
