"""Progressive-batching L-BFGS: a stochastic quasi-Newton method that enlarges its batch when the gradient is too noisy.

Bollapragada, Mudigere, Nocedal, Shi and Tang 2018, "A Progressive Batching L-BFGS Method for Machine Learning" (arXiv
1802.05374), with full overlap. F_S is the mean loss of a batch S, g_i the gradients of its examples, g their mean, and
H the inverse Hessian that L-BFGS keeps. One step:

    test        Var_i(g_i' H^2 g) / |S| <= theta^2 |H g|^4, the inner-product quasi-Newton (IPQN) test; where it fails
                S grows once, to the size that meets it: |S| = ceil(Var_i(g_i' H^2 g) / (theta^2 |H g|^4))
    step        w <- w - t H g with t = lr / (1 + Var(g_i) / (|S| |g|^2)), halved until
                F_S(w - t H g) <= F_S(w) - 1e-4 t g' H g on the same S
    pair        s = -t H g and y = the difference of the gradients of F_S at both ends, the same S; the pair is
                kept where y' s > eps |s|^2, so H stays positive definite

Variances of a sample have the divisor |S| - 1; Var(g_i) is the sum of the variances of all components. The next batch
begins at the size of this one, so batches never shrink. A batch that is the whole training set has no sampling noise:
there is no test, and the first t is lr. Without pairs H is 1. lr is 1 in the paper.

After 20 trials, and at a loss or gradient that is not finite, the weights stay.

Traps: theta = 0.9 is the paper's for logistic regression. Where the gradient is mostly noise, a single step can ask
for the whole training set. In the flat directions of a large network few pairs pass the paper's eps of 0.01.
"""

import math
import sys
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from trainables.training.optimizers.full_batch import SUFFICIENT_DECREASE
from trainables.training.optimizers.plain import PlainOptimizer

MOST_TRIALS = 20  # of a line search


class Batch(Protocol):
    """What a step asks of its batch S, at the weights of now. Gradients are (p,), of all trained parameters."""

    @property
    def size(self) -> int: ...
    @property
    def is_whole(self) -> bool:
        """Whether S is all of the training set."""

    def grow(self, size: int) -> None:
        """Adds examples up to `size`, or up to the whole training set."""

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """F_S and g."""

    def inner_products(self, vector: Tensor) -> Tensor:
        """(|S|,): g_i' `vector`."""

    def relative_variance(self) -> float:
        """Var(g_i) / |g|^2, at the weights of the first gradient of this S."""


class ProgressiveLBFGS(PlainOptimizer):
    """Steps by `step(batch)`. `memory`: pairs that H is made of. `theta`: noise that is allowed. `eps`: see above.

    Raises ValueError for options out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        memory: int = 10,
        theta: float = 0.9,
        eps: float = 0.01,
    ) -> None:
        for name, value, rule, holds in (
            ("memory", memory, "a whole number of 1 or more", isinstance(memory, int) and memory >= 1),
            ("theta", theta, "a number above 0", theta > 0),
            ("eps", eps, "a number of 0 or more", eps >= 0),
        ):
            if not holds:
                raise ValueError(f"{name} must be {rule}, got {value}")
        super().__init__(params, lr=lr, memory=memory, theta=theta, eps=eps)

    @property
    def batch_size(self) -> int | None:
        """The size of the last batch, at which the next one begins; None before the first step."""
        return self._whole_state.get("batch_size")

    @property
    def _whole_state(self) -> dict[str, Any]:
        """What is kept of all parameters together, where state_dict finds it."""
        return self.state[self._parameters()[0]]

    @torch.no_grad()
    def step(self, batch: Batch) -> None:  # type: ignore[override]
        """One step of the algorithm."""
        group, state = self.param_groups[0], self._whole_state
        loss, gradient = batch.loss_and_gradient()
        direction = self._times_inverse(gradient)
        if _is_usable(loss, gradient, direction) and not batch.is_whole:
            products = batch.inner_products(self._times_inverse(direction))
            needed = size_needed(products, direction, group["theta"])
            if needed > batch.size:
                batch.grow(needed)
                loss, gradient = batch.loss_and_gradient()
                direction = self._times_inverse(gradient)
        state["batch_size"] = batch.size
        if not _is_usable(loss, gradient, direction):
            return
        size = group["lr"] / (1.0 if batch.is_whole else 1 + batch.relative_variance() / batch.size)
        slope = float(gradient @ direction)
        trained = [parameter for parameter in self._parameters() if parameter.requires_grad]
        start = [weights.clone() for weights in trained]
        moves = direction.split([parameter.numel() for parameter in trained])
        for _ in range(MOST_TRIALS):
            for parameter, before, move in zip(trained, start, moves, strict=True):
                parameter.copy_(before - size * move.view_as(before))
            found, there = batch.loss_and_gradient()
            if found <= loss - SUFFICIENT_DECREASE * size * slope:
                self._remember(-size * direction, there - gradient)
                return
            size /= 2
        torch._foreach_copy_(trained, start)

    def _times_inverse(self, vector: Tensor) -> Tensor:
        pairs = [self._whole_state.get(name, vector.new_empty(0, len(vector))) for name in ("s", "y")]
        return two_loop(vector, *pairs)

    def _remember(self, s: Tensor, y: Tensor) -> None:
        """Keeps the pair where it has enough curvature, in place of the oldest where there are `memory` of them."""
        group, state = self.param_groups[0], self._whole_state
        if not float(y @ s) > group["eps"] * float(s @ s):
            return
        for name, new in (("s", s), ("y", y)):
            kept = state.get(name, new.new_empty(0, len(new)))
            state[name] = torch.cat([kept, new[None]])[-group["memory"] :]


def two_loop(vector: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """H `vector`, (p,), with the pairs `s` and `y`, (m, p) each, the newest last; `vector` itself without pairs.

    H is BFGS's after updates by all m pairs in order, from (s_m' y_m / y_m' y_m) times the identity (Nocedal and
    Wright 2006, algorithm 7.4 and equation 7.20).
    """
    if not len(s):
        return vector
    rho = 1 / (s * y).sum(1)
    alphas: list[Tensor] = []
    for k in reversed(range(len(s))):
        alphas.append(rho[k] * (s[k] @ vector))
        vector = vector - alphas[-1] * y[k]
    vector = vector * ((s[-1] @ y[-1]) / (y[-1] @ y[-1]))
    for k in range(len(s)):
        vector = vector + (alphas.pop() - rho[k] * (y[k] @ vector)) * s[k]
    return vector


def size_needed(products: Tensor, direction: Tensor, theta: float) -> int:
    """The examples with which the IPQN test holds: ceil(Var_i(g_i' H^2 g) / (theta^2 |H g|^4)), 1 at least.

    `products` are g_i' H^2 g, (n,) with n >= 2; `direction` is H g, (p,), not 0. The test of these n examples fails
    exactly where this is more than n. 1 where some product is not finite.
    """
    allowed = max(theta * float(direction.double().square().sum()), sys.float_info.min)
    ratio = float(products.double().var()) / allowed / allowed
    return 1 if math.isnan(ratio) else max(1, math.ceil(min(ratio, sys.maxsize)))


def _is_usable(loss: float, gradient: Tensor, direction: Tensor) -> bool:
    """Whether all is finite, and `direction` one of descent."""
    return math.isfinite(loss) and 0 < float(gradient @ direction) < math.inf
