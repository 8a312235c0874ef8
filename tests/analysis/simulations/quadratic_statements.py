"""What a report says of sweeps of the noisy quadratic, against their truth; see quadratic_sweeps.py."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.load import BOX_STRONG, Sweep, comparable
from analysis.data.runs import Runs, read_results
from analysis.questions.association import GAP, beats_batch_size, matched_correlation
from analysis.questions.critical_batch import CriticalBatch, critical_batch
from analysis.questions.equal_examples import equal_examples
from analysis.questions.free_batch import Comparison, free_batch
from analysis.questions.importance import importance
from analysis.questions.remedies import remedies
from analysis.questions.steps_to_result import OVERHEAD, StepsToResult, steps_to_result
from analysis.questions.threshold_batch import ThresholdBatch, fit_threshold, threshold_batch
from analysis.reporting.gap_answer import BatchSizeRow, by_batch_size, named_remedy
from analysis.stats.kendall import kendall_correlation
from analysis.stats.means import Interval, Mean
from analysis.stats.rank_correlation import Correlation, rank_correlation
from simulations import Design, Statement
from simulations.quadratic_sweeps import (
    DESIGNS,
    EVEN,
    PLAIN,
    QuadraticDesign,
    as_truth,
    of_size,
    population,
    true_factor,
    true_frame,
    true_gap,
    true_law,
    true_losses,
    true_steps,
)
from trainables.runtime.errors import UserError

Of = Callable[[pd.DataFrame], Correlation]


@lru_cache(maxsize=64)
def true_correlation(design: QuadraticDesign, of: Of) -> float | None:
    return of(true_frame(design)).value


def _matched(frame: pd.DataFrame) -> Correlation:
    return matched_correlation(frame, BOX_STRONG.column)


def _tau(frame: pd.DataFrame) -> Correlation:
    columns = (frame[name] for name in (BOX_STRONG.column, GAP, "replicate"))
    return kendall_correlation(*columns, strata=frame["matched_set"])


def _pooled(frame: pd.DataFrame) -> Correlation:
    rows = frame[~frame["is_reference"]]
    return rank_correlation(rows[BOX_STRONG.column], rows[GAP], rows["replicate"])


def _beats(frame: pd.DataFrame) -> Correlation:
    return beats_batch_size(frame, BOX_STRONG.column)


def _correlates(sweep: Sweep, design: Design, of: Of) -> bool | None:
    interval, true = of(comparable(sweep)).interval, true_correlation(as_truth(design), of)
    return None if interval is None or true is None else interval.holds(true)


def _holds(interval: Interval | None, true: float) -> bool | None:
    return None if interval is None else interval.holds(true)


def _loses(sweep: Sweep, design: Design, comparison: Comparison) -> bool | None:
    found = free_batch(sweep, comparison)
    last = None if found is None else found.rows[-1].lost
    return None if last is None else _holds(last.interval, true_gap(as_truth(design), comparison))


def _not_free(sweep: Sweep, design: Design, comparison: Comparison) -> bool | None:
    margin = true_gap(as_truth(design), comparison)
    found = free_batch(sweep, comparison, margin) if margin > 0 else None
    return None if found is None else found.largest_noninferior_batch < design.batch_sizes[-1]


def _not_worse(sweep: Sweep, design: Design) -> bool | None:
    found = free_batch(sweep)
    last = None if found is None else found.rows[-1].lost
    return None if last is None or last.interval is None else last.interval.low <= 0


def _not_important(sweep: Sweep, design: Design) -> bool:
    rows = importance(sweep).rows
    p = next(row.corrected_p for row in rows if row.hyperparameter == "batch size")
    return p is None or p >= 0.05


@lru_cache(maxsize=2)
def _by_batch_size(sweep: Sweep) -> list[BatchSizeRow]:
    return by_batch_size(sweep)


def _level(sweep: Sweep, design: Design, size: int) -> bool | None:
    quadratic = as_truth(design)
    mean = next(row.level for row in _by_batch_size(sweep) if row.batch_size == size)
    true = float(true_losses(quadratic)[of_size(quadratic, size)].mean())
    return None if mean is None else _holds(mean.interval, true)


def _sharpness(sweep: Sweep, design: Design) -> bool | None:
    quadratic, size = as_truth(design), design.batch_sizes[-1]
    mean = next(row.box_sharpness for row in _by_batch_size(sweep) if row.batch_size == size)
    true = float(np.exp(np.log(population(quadratic).sharpness[:, of_size(quadratic, size)]).mean()))
    return None if mean is None else _holds(mean.interval, true)


@lru_cache(maxsize=2)
def _critical(sweep: Sweep, goal: float) -> CriticalBatch | None:
    try:
        return critical_batch(sweep, goal)
    except UserError:
        return None


def _law(sweep: Sweep, design: Design, place: int) -> bool | None:
    quadratic = as_truth(design)
    found = _critical(sweep, quadratic.goal)
    if found is None:
        return None
    return _holds((found.b_crit, found.s_min, found.e_min)[place].interval, true_law(quadratic)[place])


def _factor(sweep: Sweep, design: Design) -> bool | None:
    quadratic = as_truth(design)
    found = _critical(sweep, quadratic.goal)
    if found is None or found.noise_factor is None:
        return None
    return _holds(found.noise_factor.interval, true_factor(quadratic))


@lru_cache(maxsize=2)
def _runs(sweep: Sweep) -> Runs:
    return read_results(sweep, "test_loss", "lower")


@lru_cache(maxsize=2)
def _steps(sweep: Sweep, goal: float) -> StepsToResult | None:
    try:
        return steps_to_result(_runs(sweep), goal)
    except UserError:
        return None


def _each_steps(sweep: Sweep, design: Design, size: int) -> bool | None:
    quadratic = as_truth(design)
    found = _steps(sweep, quadratic.goal)
    mean = None if found is None else next(row.steps for row in found.rows if row.batch_size == size)
    return None if mean is None else _holds(mean.interval, true_steps(quadratic, "linear")[size][1])


def _overheads(design: QuadraticDesign) -> dict[int, float]:
    steps = true_steps(design, "linear")
    first = design.batch_sizes[0] * steps[design.batch_sizes[0]][1]
    return {size: size * mean / first for size, (_, mean) in steps.items()}


def _overhead(sweep: Sweep, design: Design) -> bool | None:
    quadratic, size = as_truth(design), design.batch_sizes[-1]
    found = _steps(sweep, quadratic.goal)
    mean = None if found is None else next(row.overhead for row in found.rows if row.batch_size == size)
    return None if mean is None else _holds(mean.interval, _overheads(quadratic)[size])


def _overhead_claims(sweep: Sweep, design: Design) -> bool | None:
    """Neither a wrong "shown up to" nor a wrong "beyond it from"."""
    quadratic = as_truth(design)
    found, true = _steps(sweep, quadratic.goal), _overheads(quadratic)
    if found is None:
        return None
    within, beyond = found.overhead.within, found.overhead.beyond
    return (within is None or true[within] < OVERHEAD) and (beyond is None or true[beyond] > OVERHEAD)


def _law_of_steps(sweep: Sweep, design: Design) -> bool | None:
    quadratic = as_truth(design)
    found = _steps(sweep, quadratic.goal)
    critical = None if found is None else found.critical
    return None if critical is None else _holds(critical.interval, true_law(quadratic, "linear")[0])


def _equal_examples(sweep: Sweep, design: Design) -> bool | None:
    found = equal_examples(_runs(sweep), 1.0)
    worse: Mean | None = found.rows[-1][2]
    return None if worse is None else _holds(worse.interval, true_gap(as_truth(design), "tuned"))


@lru_cache(maxsize=2)
def _threshold(sweep: Sweep) -> ThresholdBatch:
    return threshold_batch(sweep)


def _threshold_holds(sweep: Sweep, design: Design) -> bool | None:
    found, quadratic = _threshold(sweep), as_truth(design)
    if found.threshold is None or not found.is_located:
        return None
    losses = true_losses(quadratic)
    scores = np.array([-losses[of_size(quadratic, size)].mean() for size in design.batch_sizes])
    return _holds(found.threshold.interval, fit_threshold(np.array(design.batch_sizes, dtype=float), scores)[0])


def _true_gain(design: QuadraticDesign, name: str) -> tuple[float, float]:
    """What a start at a smaller batch wins at the largest, and what the largest loses to the smallest."""
    losses, start = true_losses(design), int(name.split()[1])
    switched = [i for i, cell in enumerate(design.cells) if cell[0] == start and cell[3] is not None]
    alone = losses[of_size(design, design.batch_sizes[-1])].mean()
    return float(alone - losses[switched].mean()), true_gap(design)


def _remedy(sweep: Sweep, design: Design, of: str) -> bool | None:
    found = remedies(sweep)
    best = named_remedy(found) if found else None
    if best is None:
        return None
    gain, gap = _true_gain(as_truth(design), best.name)
    if of == "gain":
        return _holds(best.gain.interval, gain)
    return None if best.share is None else _holds(best.share.interval, gain / gap)


def _statements() -> Iterator[Statement]:
    def of(name: str, holds: Any, designs: Any = DESIGNS, kind: Any = "coverage", **options: Any) -> Statement:
        return Statement(name, "noisy quadratic", kind, designs, partial(holds, **options) if options else holds)

    both, first, last = (*DESIGNS, EVEN), PLAIN.batch_sizes[0], PLAIN.batch_sizes[-1]
    yield of("loss of the smallest batch", _level, both, size=first)
    yield of("loss of the largest", _level, both, size=last)
    yield of("its sharpness", _sharpness)
    yield of("gap, same settings", _loses, both, comparison="matched")
    yield of("gap, tuned separately", _loses, both, comparison="tuned")
    yield of("not falsely free, same settings", _not_free, kind="false positive", comparison="matched")
    yield of("not falsely free, tuned separately", _not_free, kind="false positive", comparison="tuned")
    yield of("not falsely worse", _not_worse, (EVEN,), "false positive")
    yield of("batch size not falsely important", _not_important, (EVEN,), "false positive")
    yield of("threshold batch", _threshold_holds)
    yield of("gain of the named switch", _remedy, of="gain")
    yield of("share of the gap", _remedy, of="share")
    for place, name in enumerate(("critical batch size", "fewest steps", "fewest examples")):
        yield of(name, _law, place=place)
    yield of("critical batch over noise scale", _factor)
    yield of("steps at the smallest batch", _each_steps, size=first)
    yield of("steps at the largest", _each_steps, size=last)
    yield of("examples, relative to the smallest", _overhead)
    yield of("20 % more examples: no false claim", _overhead_claims, kind="false positive")
    yield of("critical batch of steps_to_result", _law_of_steps)
    yield of("worse after equal examples", _equal_examples)
    for name, correlation in (("matched", _matched), ("tau", _tau), ("pooled", _pooled), ("less batch size", _beats)):
        yield of(f"sharpness and gap, {name}", _correlates, of=correlation)


STATEMENTS = tuple(_statements())
