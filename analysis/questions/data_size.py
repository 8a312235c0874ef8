"""How do the critical batch size, the steps and the examples to a loss grow with the training set?

At each training-set size they are those of analysis.questions.critical_batch, all to one training loss. Where at least
four sizes determine one of them, a power law is fitted (analysis.stats.power_law). It is extrapolated only with its
95 % prediction interval, for what a sweep of the same kind would measure at that size, and only where the law predicts
each size from the others.

Trap: a power law that holds over one decade need not hold over the next; no check on the sizes measured can show it.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.data.batch_unit import EXAMPLES, BatchUnit
from analysis.data.load import Sweep
from analysis.data.replicates import LEAST_REPLICATES, Estimate
from analysis.questions.critical_batch import OUTSIDE, CriticalBatch, batch_shown, critical_batch, shown
from analysis.stats.pairs import Floats
from analysis.stats.power_law import LEAST_POINTS, PowerLaw, fit_power_law
from analysis.stats.wording import exact_number, fixed, plain_number
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
    batch_unit: BatchUnit


def data_sizes(sweeps: Sequence[Sweep], loss: float | None = None) -> DataSizes:
    """The trials of all `sweeps` by training-set size. `loss` None: the largest of the losses of each size.

    Raises UserError where the sweeps train something else, or share a size, or no size has a critical batch.
    """
    parts = _by_size(sweeps)
    if loss is None:
        loss = max(one.target_loss for one in _critical(parts, None).values())
    found = _critical(parts, loss)
    without = tuple(size for size in parts if size not in found)
    units = {part.batch_unit for part in parts.values()}
    unit = units.pop() if len(units) == 1 else EXAMPLES
    return DataSizes(loss, found, without, tuple(_scaling(name, found) for name in QUANTITIES), unit)


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


def _critical(parts: dict[int, Sweep], loss: float | None) -> dict[int, CriticalBatch]:
    """The critical batch of each size that has one. Raises the error of the smallest size where none has."""
    found, errors = {}, []
    for size, part in parts.items():
        try:
            found[size] = critical_batch(part, loss)
        except UserError as error:  # such as too few batch sizes that reach the loss
            errors.append(error)
    if not found:
        raise errors[0]
    return found


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
    text, unit = [f"To a training loss of {exact_number(found.loss)}:"], found.batch_unit
    for size, one in found.found.items():
        values = (
            f"critical batch size {batch_shown(one.b_crit, unit)}",
            f"{QUANTITIES['s_min']} {shown(one.s_min)}",
            f"{_in_tokens('e_min', unit)} {shown(one.e_min.times(unit.per_example))}",
        )
        doubts = f"; the critical batch size is {OUTSIDE}" if one.extrapolated else ""
        doubts += "; steps are upper bounds" if any(row.is_bound for row in one.rows) else ""
        text.append(f"  {size} training {unit.examples}: {', '.join(values)}{doubts}")
    if found.without:
        text.append(f"  without a critical batch size to this loss: {', '.join(map(str, found.without))}")
    for scaling in found.scalings:
        text += _law_lines(scaling, wanted, unit)
    return text


def _law_lines(scaling: Scaling, wanted: Sequence[int], unit: BatchUnit) -> list[str]:
    words, law = _in_tokens(scaling.name, unit), scaling.law
    factor = unit.per_example if scaling.name == "e_min" else 1
    example = unit.examples.split()[0]  # `examples` or `sequences`
    if law is None:
        return [f"No power law of the {words}: {scaling.refusal}."]
    low, high = law.exponent_interval.low, law.exponent_interval.high
    typical, worst = (np.exp(f(np.abs(np.log(law.misses)))) for f in (_root_mean_square, np.max))
    shown = "significant" if low > 0 or high < 0 else "not significant"
    text = [
        f"The {words} changes as (training {example})^{fixed(law.exponent)} (95 % CI {fixed(low)} to "
        f"{fixed(high)}: {shown}; {law.points} sizes). A size that is left out is missed by a factor of "
        f"{typical:.2f} on average, at most {worst:.2f}."
    ]
    for size in wanted:
        if scaling.refusal is not None:
            text.append(f"  at {size} {example}: withheld, as {scaling.refusal}")
            continue
        ends = law.interval(size)
        far = ""
        if size > max(scaling.sizes):
            far = f"; {plain_number(size / max(scaling.sizes))} times the largest size"
        elif size < min(scaling.sizes):
            far = f"; {plain_number(size / min(scaling.sizes))} times the smallest size"
        value, *bounds = (plain_number(factor * one) for one in (law.at(size), ends.low, ends.high))
        if scaling.name == "b_crit" and unit.tokens is not None:
            value += f" sequences, {plain_number(unit.tokens * law.at(size))} tokens"
        text.append(f"  at {size} {example}: {value} (95 % prediction interval {' to '.join(bounds)}{far})")
    return text


def _in_tokens(name: str, unit: BatchUnit) -> str:
    """The words of a quantity, with amounts of data in tokens where they are known."""
    return QUANTITIES[name].replace("examples", unit.of_data)


def _root_mean_square(values: Floats) -> float:
    return float(np.sqrt((values**2).mean()))
