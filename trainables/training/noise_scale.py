"""The gradient noise scale during training, from the per-example gradients of each batch.

A batch's gradient is G_B = sum_i p_i g_i, where g_i is the gradient of example i and p_i its share of the mean loss:
1 / B, or w_i / sum_j w_j if the task weights its examples (sequences with padding). With the mean G and the covariance
Sigma of the g_i, and q = sum_i p_i^2 (1 / B for equal shares),

    E |G_B|^2 = |G|^2 + q tr(Sigma)            S = sum_i p_i |g_i|^2,    E S = |G|^2 + tr(Sigma)

    tr(Sigma) ~ (S - |G_B|^2) / (1 - q)        |G|^2 ~ (|G_B|^2 - q S) / (1 - q)

Both are unbiased at each step. They are the estimates of McCandlish et al. 2018 (arXiv 1812.06162, appendix A.1) with a
small batch of one example, as in Gray et al. 2024 (arXiv 2411.00999). The backward pass yields c_i = p_i g_i, so
S = sum |c_i|^2 / p_i. After the first steps only every third is watched, which is unbiased too and costs a third.
Numerator and denominator are smoothed separately over the watched steps, m <- DECAY m + (1 - DECAY) x, with the bias
correction of Adam. The noise scale is their ratio, in examples. For token models an example is a sequence.

The interval is Fieller's for the ratio of two means (1954, J. R. Statist. Soc. B 16:175), from the variance between
steps. The average has an effective number of 1 / sum w_k^2 steps, where w_k are its weights; this approaches
(1 + DECAY) / (1 - DECAY). The upper end is open if |G|^2 is not significantly above 0.

The norms are those of the training loss: with dropout, augmentation and label smoothing, without weight decay, before
clipping. If an update computes several gradients (SAM, line searches), the first one counts. Batches of one example
have no variance and are skipped.

Traps: with batch norm, single examples have no gradient (refused). If examples have weights, Sigma is assumed to be the
same for short and long ones. Near the end of training |G|^2 is a small difference of large numbers.
"""

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.data import Dataset
from trainables.records.schemas import NOISE_COLUMNS
from trainables.runtime.errors import UserError
from trainables.tasks.task import Task
from trainables.training.one_loss import Closure
from trainables.training.parallel import Workers
from trainables.training.per_example_norms import PerExampleNorms

DECAY = 0.95  # of the averages, per watched step
FIRST, EVERY = 40, 3  # steps that are watched: the first ones, about as many as an average holds, then every third
LEAST_STEPS = 5.0  # effective steps in an average, for an interval


class NoiseScale:
    """Estimates the noise scale of `model` from updates wrapped in `watched`.

    `which` is one of trainables.measuring.NOISE_SCALES. Raises UserError for a model with batch norm in training mode,
    and for one without any supported layer.
    """

    def __init__(self, model: nn.Module, which: str, data: Dataset, task: Task, workers: Workers) -> None:
        _refuse_batch_norm(model, task)
        only = which == "normalization"
        self._norms = PerExampleNorms.covering(
            model, data.train_inputs, data.train_labels, task, only_normalization=only
        )
        if not self._norms.parameters:
            kinds = "LayerNorm, RMSNorm, GroupNorm" if only else "linear, convolution, embedding, normalization"
            other = "; `all` covers other layers too" if only else ""
            raise UserError(
                f"`noise_scale` {which} needs trainable layers of supported types ({kinds}), got none{other}"
            )
        self._workers = workers
        self._trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
        names = [name.rpartition(".")[0] or "model" for name in self._norms.parameters]
        self.layers = list(dict.fromkeys(names))
        device = data.train_labels.device
        self._layer = torch.tensor([self.layers.index(name) for name in names], device=device)
        self._average = SmoothedRatio(len(self.layers) + 1, device)
        self._steps = 0  # of the training, watched or not
        self._is_watching = False
        self._rows: list[Tensor] = []

    @property
    def parameters(self) -> int:
        """The number of trainable parameters that the estimate covers."""
        return sum(self._trained[name] for name in self._norms.parameters)

    def uncovered(self) -> str:
        """One line on the trainable parameters that are not covered; "" if all are."""
        missing = [name for name in self._trained if name not in self._norms.parameters]
        if not missing:
            return ""
        whole, shown = sum(self._trained.values()), ", ".join(missing[:3])
        more = f" and {len(missing) - 3} more tensors" if len(missing) > 3 else ""
        return (
            f"the noise scale covers {self.parameters:,} of {whole:,} trainable parameters "
            f"({100 * self.parameters / whole:.3g} %), but not {shown}{more}"
        )

    def of_part(self, loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """`loss` of some rows of a batch, wrapped so that the rows are recorded."""

        def told(rows: Tensor) -> Tensor:
            if self._is_watching:
                self._norms.begin(len(rows))
                self._rows.append(rows)
            return loss(rows)

        return told

    def watched(self, closure: Closure, count: int, weights: Tensor | None) -> Closure:
        """`closure` of a step, wrapped so that its first call is watched where the step is; it leaves the gradient of a
        batch in `.grad`.

        `count`: examples in the batch. `weights`: (count,), their weights in the loss.
        """
        is_first = count > 1 and (self._steps < FIRST or self._steps % EVERY == 0)
        self._steps += 1

        def first_watched() -> Tensor:
            nonlocal is_first
            if not is_first:
                return closure()
            is_first, self._is_watching, self._rows = False, True, []
            try:
                with self._norms.watching(count):
                    loss = closure()
            finally:
                self._is_watching = False
            self._note(count, weights)
            return loss

        return first_watched

    @torch.no_grad()
    def _note(self, count: int, weights: Tensor | None) -> None:
        """Add the estimates from a batch of `count` examples to the averages."""
        shares = torch.full((count,), 1 / count, dtype=torch.float64, device=self._layer.device)
        if weights is not None:
            shares = weights.double() / weights.sum(dtype=torch.float64)
        of_rows = shares[torch.cat(self._rows)] if self._rows else shares
        inverse = torch.where(of_rows > 0, 1 / of_rows, 0.0)
        squares = [
            torch.zeros((), device=inverse.device) if p.grad is None else p.grad.double().square().sum()
            for p in self._norms.parameters.values()
        ]
        mean_squares = self._workers.sum(inverse @ self._norms.squared().double())
        zeros = torch.zeros(len(self.layers), dtype=torch.float64, device=inverse.device)
        single, whole = (zeros.index_add(0, self._layer, one.double()) for one in (mean_squares, torch.stack(squares)))
        single, whole = (torch.cat([one.sum()[None], one]) for one in (single, whole))
        q = shares.square().sum()
        self._average.add((single - whole) / (1 - q), (whole - q * single) / (1 - q))

    def columns(self) -> dict[str, Any]:
        """Columns of epochs.parquet: the whole model, and each layer as JSON."""
        whole, *layers = self._average.results()
        by_layer = {name: dict(zip(PARTS, one, strict=True)) for name, one in zip(self.layers, layers, strict=True)}
        known = any(value is not None for value in whole)
        return dict(zip(NOISE_COLUMNS, [*whole, json.dumps(by_layer) if known else None], strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        return {**self._average.state_dict(), "all_steps": torch.tensor(self._steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._average.load_state_dict(state)
        self._steps = int(state.get("all_steps", state["steps"]))


PARTS = ("noise_scale", "low", "high", "trace", "squared_gradient")


class SmoothedRatio:
    """Exponential averages of `size` numerators and denominators, and their ratios with intervals (see above).

    Steps with values that are not finite are skipped.
    """

    def __init__(self, size: int, device: torch.device | None = None) -> None:
        self._sums = torch.zeros(5, size, dtype=torch.float64, device=device)  # of a, b, a^2, b^2, a b
        self._steps = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, numerators: Tensor, denominators: Tensor) -> None:
        """Add the values of one step, (size,) each."""
        a, b = numerators.double(), denominators.double()
        new = torch.stack([a, b, a * a, b * b, a * b])
        is_finite = new.isfinite().all()
        self._sums = torch.where(is_finite, DECAY * self._sums + (1 - DECAY) * new, self._sums)
        self._steps = self._steps + is_finite

    def results(self) -> list[tuple[float | None, ...]]:
        """For each: ratio, 95 % interval, numerator, denominator. None if unknown, or an open end of the interval."""
        steps = float(self._steps)
        if steps == 0:
            return [(None,) * len(PARTS)] * self._sums.shape[1]
        left = DECAY**steps
        q = (1 - DECAY) * (1 + left) / ((1 + DECAY) * (1 - left))  # the sum of the squared weights
        return [self._result(column, q) for column in (self._sums / (1 - left)).T.tolist()]

    def _result(self, means: list[float], q: float) -> tuple[float | None, ...]:
        a, b, aa, bb, ab = means
        low, high = None, None
        if 1 / q >= LEAST_STEPS:
            scale = student_t(1 / q - 1) ** 2 * q / (1 - q)
            low, high = fieller(a, b, scale * (aa - a * a), scale * (bb - b * b), scale * (ab - a * b))
        return a / b if b > 0 else None, low, high, a, b

    def state_dict(self) -> dict[str, Tensor]:
        return {"sums": self._sums, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._sums, self._steps = (state[name].to(self._sums) for name in ("sums", "steps"))


def fieller(a: float, b: float, aa: float, bb: float, ab: float) -> tuple[float | None, float | None]:
    """Fieller's interval for a / b: all r >= 0 with (a - r b)^2 <= aa - 2 r ab + r^2 bb.

    a and b are means; aa, bb and ab are their variances and covariance times t^2. The upper end is None if it is open,
    and both ends are None if every ratio is possible.
    """
    square, half, rest = b * b - bb, a * b - ab, a * a - aa
    root = half * half - square * rest
    if square == 0 or root < 0:
        return None, None
    low, high = sorted(((half - math.sqrt(root)) / square, (half + math.sqrt(root)) / square))
    if square > 0:
        return max(0.0, low), max(0.0, high)
    return (high, None) if low < 0 < high else (None, None)  # ratios below `low` are possible too


def student_t(freedom: float) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy import special  # for trials with a noise scale alone

    return float(special.stdtrit(freedom, 0.975))


def _refuse_batch_norm(model: nn.Module, task: Task) -> None:
    modes = [(module, module.training) for module in model.modules()]
    task.set_mode(model, True)
    mixing = [
        name or type(layer).__name__
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and (layer.training or not layer.track_running_stats)
    ]
    for module, training in modes:
        module.training = training
    if mixing:
        raise UserError(
            f"`noise_scale` needs per-example gradients, and batch norm mixes examples ({mixing[0]}); use a model "
            "without batch norm, or `--measures gradient_noise_scale`, which uses the running statistics"
        )
