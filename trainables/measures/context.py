"""What measures of the optimizer's steps need to know: its step size, momentum and preconditioner.

With the learning rate eta, a step is x <- x - eta P^{-1} v, where v gathers gradients by `form` (see
trainables.sharpness.edge_of_stability) and P = diag(`preconditioner`):

    SGD        P = 1; dampening d shortens the step, eta (1 - d); `nesterov` is a form of its own
    Adam(W)    P = sqrt(v_hat) + eps, averaged; v_hat the largest so far with amsgrad
    RMSprop    P = sqrt(v) + eps (centered: of v - m^2), heavy ball
    Adagrad    P = (sqrt(sum of g^2) + eps) (1 + (t - 1) lr_decay)
    Adamax     P = the infinity norm of the gradients, averaged

A group of parameters with r times the learning rate has P / r. The bias correction of a mean is taken as 1, as it is
after some tens of steps. Decoupled weight decay is no part of P.

Other optimizers (Muon, NAdam, a user's own, ...) do not step by a diagonal of this kind: their measures have no value,
with the reason.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables.optimizer_settings import FULL_BATCH_OPTIMIZERS
from trainables.runtime.errors import UserError
from trainables.sharpness.edge_of_stability import Form
from trainables.training.optimizers.full_batch import GradientDescent
from trainables.training.optimizers.groups import LR_RATIO
from trainables.training.optimizers.lamb import LAMB
from trainables.training.optimizers.lars import LARS
from trainables.training.optimizers.optimizer import Optimizer
from trainables.training.optimizers.plain import SGD, Adam

KNOWN = ("adam", "adamw", "adamax", "adagrad", "rmsprop", "sgd", *FULL_BATCH_OPTIMIZERS)
_RATE_ALONE = (LAMB, LARS, GradientDescent, torch.optim.LBFGS)


@dataclass(frozen=True)
class Context:
    """The learning rate in force, the batch size and the training examples, and how the optimizer steps.

    `momentum` is that of heavy-ball SGD, or the first moment's of Adam; with Adam `preconditioner` is sqrt(v_hat) +
    eps, (n,), in the order of the loss's parameters. `rows` names the rows that are about this preconditioner.
    """

    learning_rate: float
    batch_size: int | None = None
    train_size: int | None = None
    momentum: float = 0.0
    preconditioner: Tensor | None = None
    form: Form | None = None  # None: averaged with a preconditioner, else heavy_ball
    rows: str = "adam"
    unknown: str | None = None  # the optimizer whose steps are none of the forms above

    @classmethod
    def of(
        cls, optimizer: Optimizer, parameters: Iterable[Tensor], batch_size: int | None, train_size: int | None
    ) -> "Context":
        """From an optimizer after its last step; `parameters` are those of the network, in its order."""
        groups = optimizer.param_groups
        ratio = groups[0].get(LR_RATIO, 1.0)
        rate = float(groups[0]["lr"]) / ratio
        name = type(optimizer).__name__.lower()
        if isinstance(optimizer, _RATE_ALONE):
            return cls(rate, batch_size, train_size)
        steps = _STEPS.get(type(optimizer))
        if steps is None:
            return cls(rate, batch_size, train_size, unknown="muon" if hasattr(optimizer, "parts") else name)
        group_of = {parameter: group for group in groups for parameter in group["params"]}
        own = [parameter for parameter in parameters if parameter.requires_grad]
        ways = {steps.way(group_of[parameter]) for parameter in own}
        if len(ways) > 1:
            return cls(rate, batch_size, train_size, unknown=f"{name} with different momenta")
        ((momentum, form, share),) = ways
        states = [optimizer.state.get(parameter, {}) for parameter in own]
        if steps.needs and not all(steps.needs in state for state in states):  # not one step is done
            return cls(rate * share, batch_size, train_size)
        ratios = {float(group_of[parameter].get(LR_RATIO, 1.0)) for parameter in own}
        if not steps.needs and ratios == {1.0}:
            return cls(rate * share, batch_size, train_size, momentum, form=form)
        scales = [
            steps.scale(parameter, state, group_of[parameter]) / group_of[parameter].get(LR_RATIO, 1.0)
            for parameter, state in zip(own, states, strict=True)
        ]
        return cls(rate * share, batch_size, train_size, momentum, torch.cat(scales), form, name)

    @property
    def gathers(self) -> Form:
        """How v gathers gradients."""
        return self.form or ("heavy_ball" if self.preconditioner is None else "averaged")

    def require_known(self, measure: str) -> None:
        """Raises UserError where the steps are of no form that `measure` is defined for."""
        if self.unknown is not None:
            raise UserError(f"`{measure}` is not defined for the steps of {self.unknown}")


@dataclass(frozen=True)
class _Steps:
    """Of an optimizer: (momentum, form, share of the learning rate) of a group; the diagonal of P of a parameter, (n,);
    and what its state holds after a step.
    """

    way: Callable[[Mapping[str, Any]], tuple[float, Form, float]]
    scale: Callable[[Tensor, Mapping[str, Any], Mapping[str, Any]], Tensor]
    needs: str | None = None


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().double().reshape(-1)


def _way_of_sgd(group: Mapping[str, Any]) -> tuple[float, Form, float]:
    momentum = float(group["momentum"])
    form: Form = "nesterov" if group.get("nesterov") else "heavy_ball"
    return momentum, form, 1.0 - float(group.get("dampening", 0.0)) * (momentum > 0)


def _averaged(group: Mapping[str, Any]) -> tuple[float, Form, float]:
    return float(group["betas"][0]), "averaged", 1.0


def _scale_of_adam(_: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    square = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    return _flat(square / (1 - group["betas"][1] ** float(state["step"]))).sqrt() + float(group["eps"])


def _scale_of_rmsprop(_: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    square = _flat(state["square_avg"])
    if group["centered"]:
        square = (square - _flat(state["grad_avg"]).square()).clamp(min=0)
    return square.sqrt() + float(group["eps"])


def _scale_of_adagrad(_: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    return (_flat(state["sum"]).sqrt() + float(group["eps"])) * (
        1 + (float(state["step"]) - 1) * float(group["lr_decay"])
    )


def _of_adam() -> _Steps:
    return _Steps(_averaged, _scale_of_adam, "exp_avg_sq")


def _of_sgd() -> _Steps:
    return _Steps(_way_of_sgd, lambda parameter, _, __: torch.ones_like(_flat(parameter)))


_STEPS: dict[type, _Steps] = {
    SGD: _of_sgd(),
    torch.optim.SGD: _of_sgd(),
    Adam: _of_adam(),
    torch.optim.Adam: _of_adam(),
    torch.optim.AdamW: _of_adam(),
    torch.optim.RMSprop: _Steps(
        lambda group: (float(group["momentum"]), "heavy_ball", 1.0), _scale_of_rmsprop, "square_avg"
    ),
    torch.optim.Adagrad: _Steps(lambda _: (0.0, "heavy_ball", 1.0), _scale_of_adagrad, "sum"),
    torch.optim.Adamax: _Steps(_averaged, lambda _, state, __: _flat(state["exp_inf"]), "exp_inf"),
}
