"""Deterministic full-batch optimizers: gradient descent with a line search, and L-BFGS.

They ask whether large batches fail to optimize: with the whole training set in every step and a line search that
accepts only what lowers the loss, low training loss with bad test accuracy is no optimization issue.

Both take `step(closure)`, where closure() computes loss and gradients at the current weights. In one step it must be
one function: with dropout or batch norm pass it through trainables.training.one_loss. They know no weight decay.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from trainables.training.optimizers.plain import PlainOptimizer

SUFFICIENT_DECREASE = 1e-4  # Nocedal and Wright 2006, section 3.1
MAX_EVALUATIONS = 40


class GradientDescent(PlainOptimizer):
    """x <- x - t g, t by Armijo's rule: f(x - t g) <= f(x) - 1e-4 t ||g||^2 (Nocedal and Wright 2006, algorithm 3.1).

    The first step tries t = `lr`, a later one the t before it, or twice that where the first trial was accepted at
    once; t is halved until the rule holds. After 40 trials, and at a loss that is not finite, the weights stay. So `lr`
    matters to the first step alone.
    """

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, lr=lr)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """One step; returns the loss before it."""
        evaluate = torch.enable_grad()(closure)
        loss = evaluate().detach()
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return loss
        gradients = [p.grad.clone() for p in parameters if p.grad is not None]
        slope = float(torch.stack(torch._foreach_norm(gradients)).double().square().sum())
        before = loss.item()
        if not math.isfinite(before) or not 0 < slope < math.inf:
            return loss
        start = [parameter.clone() for parameter in parameters]
        state = self.state[self.param_groups[0]["params"][0]]  # of the whole, kept where state_dict finds it
        first = size = state.get("step_size", self.param_groups[0]["lr"])
        for _ in range(MAX_EVALUATIONS):
            torch._foreach_copy_(parameters, torch._foreach_sub(start, gradients, alpha=size))
            if evaluate().item() <= before - SUFFICIENT_DECREASE * size * slope:
                state["step_size"] = 2 * size if size == first else size
                return loss
            size /= 2
        torch._foreach_copy_(parameters, start)
        return loss


def full_batch_lbfgs(parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.LBFGS:
    """PyTorch's L-BFGS with a strong Wolfe line search; one `step` is one iteration, its memory of 10 pairs goes on.

    `learning_rate` is the step that the line search tries first; 1 is natural to a quasi-Newton method. No tolerance
    stops it: how long to train is the caller's to say.
    """
    return torch.optim.LBFGS(
        parameters,
        lr=learning_rate,
        max_iter=1,
        max_eval=MAX_EVALUATIONS,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
