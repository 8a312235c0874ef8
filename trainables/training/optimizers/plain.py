"""Adam and SGD on a base of our own: the same bits as `torch.optim.Adam` and `SGD` with `fused=True`, at less cost.

`torch.optim.Optimizer` imports PyTorch's compiler when the first one is made, in every process, and its hooks add to
each step. docs/speed.md says what the default sweep loses by that: more than a tenth. So the two optimizers that nearly
every sweep uses call PyTorch's update functions directly; every other optimizer is the class of `torch.optim`.
`test_a_trial_does_not_import_the_compiler` and `test_the_same_bits_as_pytorch` fail where this breaks.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd


class PlainOptimizer:
    """`torch.optim.Optimizer` without its hooks; `update` is what a subclass adds.

    `params` are tensors, or groups of them: dicts with `params` and options that differ from `options`.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], **options: Any) -> None:
        given: list[Any] = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        self.param_groups: list[dict[str, Any]] = [
            {"params": list(group["params"]), **options, **{k: v for k, v in group.items() if k != "params"}}
            for group in groups
        ]
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Changes the `parameters` of `group`, those that have a gradient, by one step."""
        raise NotImplementedError

    def zero_grad(self) -> None:
        for parameter in self._parameters():
            parameter.grad = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; with a closure, from the gradient that it computes."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                with torch.no_grad():
                    self.update(parameters, [p.grad for p in parameters], group)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """As PyTorch's: parameters by their number."""
        numbers = {parameter: number for number, parameter in enumerate(self._parameters())}
        state = {numbers[parameter]: dict(of_one) for parameter, of_one in self.state.items()}
        groups = [{**group, "params": [numbers[p] for p in group["params"]]} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up a state that `state_dict` gave, by copies on the device of the parameters."""
        parameters = self._parameters()
        self.param_groups = [
            {**saved, "params": own["params"]}
            for saved, own in zip(state_dict["param_groups"], self.param_groups, strict=True)
        ]
        self.state.clear()
        for number, of_one in state_dict["state"].items():
            parameter = parameters[number]
            self.state[parameter] = {name: _copied(value, parameter.device) for name, value in of_one.items()}

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


class Adam(PlainOptimizer):
    """Kingma and Ba 2015. `weight_decay` is an L2 term in the gradient."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        states = moments(self.state, parameters)
        adam_step(parameters, gradients, states, group, lr=group["lr"], weight_decay=group["weight_decay"])


class SGD(PlainOptimizer):
    """`lr`, `momentum` and `weight_decay`, an L2 term in the gradient."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        velocities: list[Tensor | None] = [self.state[p].get("momentum_buffer") for p in parameters]
        sgd(
            parameters,
            gradients,
            velocities,
            fused=True,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if group["momentum"]:
            for p, velocity in zip(parameters, velocities, strict=True):
                self.state[p]["momentum_buffer"] = velocity


def moments(state: MutableMapping[Tensor, dict[str, Any]], parameters: list[Tensor]) -> list[dict[str, Tensor]]:
    """The step count and the two moments of each parameter; zeros are left in `state` where there are none yet."""
    for p in parameters:
        if p not in state:
            zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            state[p] = {"step": torch.zeros((), dtype=torch.float32, device=p.device), **zeros}
    return [state[p] for p in parameters]


def adam_step(
    points: list[Tensor],
    gradients: list[Tensor],
    moments: list[dict[str, Tensor]],
    group: dict[str, Any],
    *,
    lr: float,
    weight_decay: float,
) -> None:
    """Moves the `points` and their `moments` by one step of Adam with the `betas` and `eps` of `group`."""
    adam(
        points,
        gradients,
        [of_one["exp_avg"] for of_one in moments],
        [of_one["exp_avg_sq"] for of_one in moments],
        [],
        [of_one["step"] for of_one in moments],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=lr,
        weight_decay=weight_decay,
        eps=group["eps"],
        maximize=False,
    )


def _copied(value: Any, device: torch.device) -> Any:
    return value.to(device, copy=True) if isinstance(value, Tensor) else value
