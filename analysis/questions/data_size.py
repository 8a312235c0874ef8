"""How do the critical batch size, the steps and the examples to a loss grow with the training set?

At each training-set size they are those of analysis.questions.critical_batch, all to one training loss. Where at least
four sizes determine one of them, a power law is fitted (analysis.stats.power_law). It is extrapolated only with its
95 % prediction interval, for what a sweep of the same kind would measure at that size, and only where the law predicts
each size from the others.

Trap: a power law that holds over one decade need not hold over the next; no check on the sizes measured can show it.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.data.load import Sweep
from analysis.data.replicates import LEAST_REPLICATES, Estimate
from analysis.questions.critical_batch import CriticalBatch, critical_batch, shown
from analysis.stats.pairs import Floats
from analysis.stats.power_law import LEAST_POINTS, PowerLaw, fit_power_law
from analysis.stats.wording import fixed, plain_number
from trainables.runtime.errors import UserError

QUANTITIES = {"b_crit": "critical batch size", "s_min": "least number of steps", "e_min": "least number of examples"}
SAME = ("dataset", "model", "model_options", "optimizer")


@dataclass(frozen=True)
class Scaling:
    """One of QUANTITIES by training-set size, where it is determined; `law` is None below LEAST_POINTS sizes."""

    name: str
    sizes: tuple[int, ...]
    values: tuple[float, ...]
    law: PowerLaw | None

    @property
    def refusal(self) -> str | None:
        """Why the law is not extrapolated; None where it may be."""
        if self.law is None:
            found = f"{len(self.sizes)} ({', '.join(map(str, self.sizes))})" if self.sizes else "none"
            return f"it needs {LEAST_POINTS} training-set sizes that determine it, got {found}"
        if (place := self.law.outlier) is not None:
            miss = plain_number(self.law.misses[place])
            return (
                f"the law of the other sizes misses the one of {self.sizes[place]} examples, which is {miss} times "
                "what it predicts"
            )
        if not self.law.beats_mean:
            return "the law predicts a size that is left out no better than the mean of the others"
        return None


@dataclass(frozen=True)
class DataSizes:
    """The critical batch by training-set size to one `loss`, the sizes without one, and how each quantity scales."""

    loss: float
    found: dict[int, CriticalBatch]
    without: tuple[int, ...]
    scalings: tuple[Scaling, ...]


def data_sizes(sweeps: Sequence[Sweep], loss: float | None = None) -> DataSizes:
    """The trials of all `sweeps` by training-set size. `loss` None: the largest of the losses of each size.

    Raises UserError where the sweeps train something else, or share a size, or no size has a critical batch.
    """
    parts = _by_size(sweeps)
    if loss is None:
        loss = max((one.target_loss for _, one in _critical(parts, None)), default=None)
    found = {} if loss is None else dict(_critical(parts, loss))
    if not found or loss is None:
        raise UserError("`results` must hold a training-set size with a critical batch size, got none in the folders")
    without = tuple(size for size in parts if size not in found)
    return DataSizes(loss, found, without, tuple(_scaling(name, found) for name in QUANTITIES))


def _by_size(sweeps: Sequence[Sweep]) -> dict[int, Sweep]:
    parts: dict[int, Sweep] = {}
    for sweep in sweeps:
        for size, trials in sweep.trials.groupby("train_size"):
            if int(size) in parts:
                raise UserError(f"`results` must hold each training-set size in one folder, got {size} in two")
            parts[int(size)] = dataclasses.replace(sweep, trials=trials)
    for name in SAME:
        values = sorted({str(value) for part in parts.values() for value in part.trials[name].unique()})
        if len(values) > 1:
            raise UserError(f"`results` must have one {name.replace('_', ' ')}, got {', '.join(values)}")
    return dict(sorted(parts.items()))


def _critical(parts: dict[int, Sweep], loss: float | None) -> Iterator[tuple[int, CriticalBatch]]:
    for size, part in parts.items():
        try:
            yield size, critical_batch(part, loss)
        except UserError:  # too few of its batch sizes reach the loss
            continue


def _scaling(name: str, found: dict[int, CriticalBatch]) -> Scaling:
    known = {size: getattr(one, name) for size, one in found.items() if _is_determined(getattr(one, name))}
    sizes, values = tuple(known), tuple(estimate.value for estimate in known.values())
    law = fit_power_law(np.array(sizes, dtype=float), np.array(values)) if len(known) >= LEAST_POINTS else None
    return Scaling(name, sizes, values, law)


def _is_determined(estimate: Estimate) -> bool:
    if estimate.interval is None:
        return estimate.replicates < LEAST_REPLICATES
    return estimate.interval.low > 0 and bool(np.isfinite(estimate.interval.high))


def lines(found: DataSizes, wanted: Sequence[int] = ()) -> list[str]:
    """The answer in words, with what each law says at the `wanted` numbers of training examples."""
    text = [f"To a training loss of {found.loss:g}:"]
    for size, one in found.found.items():
        values = ", ".join(f"{words} {shown(getattr(one, name))}" for name, words in QUANTITIES.items())
        text.append(f"  {size} training examples: {values}")
    if found.without:
        text.append(f"  without a critical batch size to this loss: {', '.join(map(str, found.without))}")
    for scaling in found.scalings:
        text += _law_lines(scaling, wanted)
    return text


def _law_lines(scaling: Scaling, wanted: Sequence[int]) -> list[str]:
    words, law = QUANTITIES[scaling.name], scaling.law
    if law is None:
        return [f"No power law of the {words}: {scaling.refusal}."]
    low, high = law.exponent_interval.low, law.exponent_interval.high
    typical, worst = (np.exp(f(np.abs(np.log(law.misses)))) for f in (_root_mean_square, np.max))
    shown = "significant" if low > 0 or high < 0 else "not significant"
    text = [
        f"The {words} changes as (training examples)^{fixed(law.exponent)} (95 % CI {fixed(low)} to "
        f"{fixed(high)}: {shown}; {law.points} sizes). A size that is left out is missed by a factor of "
        f"{typical:.2f} on average, at most {worst:.2f}."
    ]
    for size in wanted:
        if scaling.refusal is not None:
            text.append(f"  at {size} examples: withheld, as {scaling.refusal}")
            continue
        ends = law.interval(size)
        far = ""
        if size > max(scaling.sizes):
            far = f"; {plain_number(size / max(scaling.sizes))} times the largest size"
        elif size < min(scaling.sizes):
            far = f"; {plain_number(size / min(scaling.sizes))} times the smallest size"
        text.append(
            f"  at {size} examples: {plain_number(law.at(size))} (95 % prediction interval "
            f"{plain_number(ends.low)} to {plain_number(ends.high)}{far})"
        )
    return text


def _root_mean_square(values: Floats) -> float:
    return float(np.sqrt((values**2).mean()))
