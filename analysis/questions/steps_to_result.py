"""Steps to a result: the fewest steps to a goal at each batch size, and the three largest useful batch sizes of it.

Shallue et al. 2019, "Measuring the Effects of Data Parallelism on Neural Network Training" (arXiv 1811.03600): S(B) is
the fewest steps, over all that was tried at batch size B, after which the metric first is at the goal. On logarithmic
axes the curve begins along the perfect-scaling line S B = constant, bends, and ends at a floor. E(B) are the examples
to the goal, as trials of this project count them: S B, less where the last batch of an epoch is small, and more where a
batch grows. Of runs from elsewhere they are S B.

The step of a run is where its metric first is at the goal, on a line between the evaluation before and this one; a run
that is there at its first evaluation gives an upper bound. A setting counts where every replicate reaches the goal, and
those with the fewest steps (geometric mean) make S(B). Where the same runs chose among several, intervals are wider
(analysis/questions/best_setting.py).

Papers call three things the largest useful batch:

1. law: B_crit of (S / S_min - 1) (E / E_min - 1) = 1 (McCandlish et al. 2018, arXiv 1812.06162), of batches of E / S
   examples, see analysis/questions/critical_batch.py; none for runs whose batch size changes;
2. overhead: the largest B with E(B) <= 1.2 E at the smallest batch size that reaches the goal (Zhang et al. 2024, arXiv
   2410.21676). A batch size is within it where the 95 % interval of E(B) / E(smallest), paired by replicate, ends below
   1.2, and beyond it where the interval begins above 1.2;
3. equal examples: the largest B whose metric is no worse, by `margin` or more, than the smallest batch's after the same
   number of examples, the largest that some setting of every batch size has seen in all replicates (one-sided, 2.5 %;
   each at its best setting).

Where trials of this project have a noise scale (`--noise-scale`), 1 is compared with it by a factor, as in
analysis/questions/critical_batch.py.

2 and 3 are tests in a fixed order that end at the first that fails, so together they keep their level: "within" from
the smallest batch size up, "beyond" from the largest down. The true boundary of 2 lies between the last size within and
the first beyond.

Traps: the goal decides. Under schedules that decay, curves of different batch sizes cross, so look at several goals.
Settings are chosen by the runs that are judged: with many settings and few replicates S(B) is a little too small.
Without replicates there are no intervals, and 2 and 3 say nothing but the best guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.data.batch_unit import BatchUnit
from analysis.data.load import Sweep
from analysis.data.replicates import Estimate, cells, over_replicates, weighted_mean
from analysis.data.runs import Runs
from analysis.questions.best_setting import CHOSEN, at_best_setting
from analysis.questions.critical_batch import LEAST_SIZES, estimate_of_log
from analysis.questions.noise_scales import NoiseScales, noise_scales, noise_words
from analysis.stats.fixed_order import Boundary, boundary, boundary_words
from analysis.stats.means import Interval, Mean, mean_over_replicates, paired_difference
from analysis.stats.pairs import Floats, Integers
from analysis.stats.steps_to_loss import first_at_goal, fit_steps, misfit_intervals, rounded_up
from analysis.stats.wording import counted, exact_number, out_of, plain_number
from trainables.runtime.errors import UserError

OVERHEAD = 1.2


@dataclass(frozen=True)
class StepsAtBatch:
    """A batch size at its best setting; `reached` of its `tried` runs, of all settings, come to the goal.

    Means are geometric, over replicates; None where no setting reaches the goal in every replicate. `is_bound`: some
    run was there at its first evaluation. `judged` is of a search (analysis/questions/tuned_steps.py), where `reached`
    of `tried` are settings: how many runs of the chosen setting come to the goal, and of how many. `noise_scale`: until
    the goal; None where it is not known.
    """

    batch_size: int
    setting: str
    steps: Mean | None
    examples: Mean | None
    overhead: Mean | None
    reached: int
    tried: int
    is_bound: bool
    judged: tuple[int, int] | None = None
    noise_scale: Mean | None = None

    @property
    def counted(self) -> str:
        """What `tried` are."""
        return "runs" if self.judged is None else "settings"


@dataclass(frozen=True)
class StepsToResult:
    """What one `goal` takes. `critical`: B_crit by the law, None where fewer than three batch sizes reach the goal, and
    where the batch size of a run `changes_size`. `is_chosen`: some batch size had several settings to choose from.
    `noise`: None where it was not measured. `noise_factor`: B_crit over the geometric mean of the rows' noise scales,
    None where either is not known."""

    goal: float
    rows: tuple[StepsAtBatch, ...]
    critical: Estimate | None
    overhead: Boundary
    changes_size: bool = False
    is_chosen: bool = False
    noise: NoiseScales | None = None
    noise_factor: Estimate | None = None


def steps_to_result(runs: Runs, goal: float) -> StepsToResult:
    """The steps to `goal` at each batch size.

    Raises UserError where no batch size reaches it, where a run is there before its first step, or it is no number.
    """
    if not np.isfinite(goal):
        raise UserError(f"`goal` must be a finite value of {runs.metric}, got {goal:g}")
    frame = runs.about.copy()
    if early := _there_at_start(runs, goal):
        raise UserError(
            f"`goal` must be harder than what runs have before their first step, got {exact_number(goal)}, which "
            f"{early} of {counted(len(frame), 'runs')} meet at step 0; --goal chooses another"
        )
    reached = first_at(runs, goal, ("step", "examples"))
    frame["log_steps"] = np.log(frame.index.map(reached["step"]).to_numpy(np.float64))
    frame["log_steps"] = frame["log_steps"].fillna(np.inf)
    examples = reached["examples"].reindex(frame.index).clip(lower=frame["batch_size"])
    frame["log_examples"] = np.log(examples.to_numpy(np.float64))
    frame["log_examples"] = frame["log_examples"].fillna(np.inf)
    frame["is_bound"] = frame.index.map(reached["is_bound"]).to_numpy() == True  # noqa: E712  (None: never there)
    noise = None if runs.sweep is None else _noise_until(runs.sweep, reached)
    frame["noise_scale"] = np.nan if noise is None else frame.index.map(noise.scales).astype("float64")
    frame["log_scale"] = np.log(frame["noise_scale"])
    chosen = at_best_setting(frame, "log_steps")
    if chosen.empty:
        near = runs.sign * (runs.sign * runs.curves["value"]).min()
        raise UserError(
            f"`goal` must be reached by every replicate of some setting, got {exact_number(goal)}, which none "
            f"reaches; the best {runs.metric} is {plain_number(near)}"
        )
    chosen = chosen.assign(**{name: np.exp(chosen[f"log_{name}"]) for name in ("steps", "examples")}, matched_set=0)
    smallest = chosen[chosen["batch_size"] == chosen["batch_size"].min()]
    rows = []
    for size, of_size in frame.groupby("batch_size"):
        own = chosen[chosen["batch_size"] == size]
        is_chosen = bool(own[CHOSEN].any())
        steps, examples = (
            mean_over_replicates(own, name, scale="log", chosen=is_chosen) for name in ("steps", "examples")
        )
        is_chosen |= bool(smallest[CHOSEN].any())
        rows.append(
            StepsAtBatch(
                batch_size=int(size),
                setting=own["text"].iloc[0] if len(own) else "",
                steps=steps,
                examples=examples,
                overhead=paired_difference(own, smallest, "examples", scale="log", chosen=is_chosen)
                if len(own)
                else None,
                reached=int(np.isfinite(of_size["log_steps"]).sum()),
                tried=len(of_size),
                is_bound=bool(own["is_bound"].any()),
                noise_scale=mean_over_replicates(own, "noise_scale", scale="log"),
            )
        )
    first = next(row for row in rows if row.steps is not None)
    overheads = [(row.batch_size, _overhead_known(row, first)) for row in rows if row.batch_size > first.batch_size]
    changes_size = bool(frame["changes_size"].any())
    critical, factor = (None, None) if changes_size else _critical(frame)
    found = boundary(overheads, OVERHEAD)
    is_chosen = bool(chosen[CHOSEN].any())
    return StepsToResult(goal, tuple(rows), critical, found, changes_size, is_chosen, noise, factor)


def _overhead_known(row: StepsAtBatch, first: StepsAtBatch) -> Mean | None:
    """The overhead of `row` to `first`, with an interval that is open where the examples are upper bounds."""
    if row.overhead is None or row.overhead.interval is None:
        return row.overhead
    low = 0.0 if row.is_bound else row.overhead.interval.low
    high = np.inf if first.is_bound else row.overhead.interval.high
    return replace(row.overhead, interval=Interval(low, high))


def _noise_until(sweep: Sweep, reached: pd.DataFrame) -> NoiseScales | None:
    """The noise scales of the trials that reach the goal, until then; `reached`: by `first_at`, with `examples`."""
    sizes = sweep.trials.set_index("trial_id")["train_size"]
    return noise_scales(sweep, reached.assign(epoch=reached["examples"] / sizes.reindex(reached.index)))


def default_goal(runs: Runs) -> float:
    """The best value that some setting of every batch size reaches in all of its replicates, after step 0.

    Batch sizes that have none, such as those that diverge before, are left out. The goal has six significant digits and
    is rounded to the easier side, so that every batch size reaches the goal as shown.
    """
    trained = runs.curves[runs.curves["step"] > 0]
    best = (runs.sign * trained.set_index("run")["value"]).groupby(level=0).min()
    frame = runs.about.assign(best=best.reindex(runs.about.index).fillna(np.inf))
    worst = frame.groupby(["batch_size", "setting"])["best"].max().groupby("batch_size").min()
    if not np.isfinite(worst).any():
        raise UserError(
            f"`metric` {runs.metric} must have values after step 0 in every replicate of some setting, got none"
        )
    return runs.sign * rounded_up(float(worst[np.isfinite(worst)].max()))


def lines(runs: Runs, found: StepsToResult) -> list[str]:
    """The answer in words: a line for each batch size, then the three definitions."""
    unit = runs.batch_unit
    chosen = ", at the settings that are best in these runs" if found.is_chosen else ""
    text = [f"Steps to {goal_words(runs, found.goal)}, of {counted(len(runs.about), 'runs')}{chosen}:"]
    replicates = max(row.steps.replicates for row in found.rows if row.steps is not None)
    for row in found.rows:
        share = f"{row.reached} of {row.tried} {row.counted} reach it"
        if row.steps is None:
            text.append(f"  batch {unit.batch(row.batch_size)}: {why_no_steps(row)} ({share})")
            continue
        assert row.examples is not None
        bound = "; at most, as the first evaluation was already there" if row.is_bound else ""
        setting = f" at {row.setting}" if row.setting else ""
        data = counted(mean_words(row.examples.times(unit.per_example)), unit.of_data)
        needed = f"{counted(mean_words(row.steps), 'steps')}, {data}{setting} ({share}{bound})"
        text.append(f"  batch {unit.batch(row.batch_size)}: {needed}{out_of(row.steps, replicates)}")
    text.append(f"Critical batch size by the law of McCandlish et al.: {critical_words(found, unit)}.")
    text += noise_lines(found, unit)
    more = f"{100 * (OVERHEAD - 1):.0f} % more {unit.of_data}"
    if sum(row.steps is not None for row in found.rows) < 2:
        return [*text, "One batch size alone reaches it in every replicate, so none is compared with it."]
    why = why_not_compared({row.batch_size: row.overhead for row in found.rows if row.steps is not None}, unit)
    text.append(
        f"Within {more} than the smallest batch that reaches it: {boundary_words(found.overhead, unit.batch)}{why}."
    )
    return text


def noise_lines(found: StepsToResult, unit: BatchUnit) -> list[str]:
    """The noise scale beside B_crit, where it was measured."""
    if found.noise is None:
        return []
    return [noise_words(found.noise, found.noise_factor, (row.noise_scale for row in found.rows), unit)]


def why_not_compared(compared: Mapping[int, Mean | None], unit: BatchUnit) -> str:
    """Why nothing is shown of some batch sizes against the smallest, which is the first of `compared`."""
    apart = [unit.batch(size) for size, mean in compared.items() if mean is None]
    if apart:
        return f" (not compared, as they share no seed with the smallest batch: {', '.join(apart)})"
    larger = [*compared.items()][1:]
    lacking = {size: mean.replicates for size, mean in larger if mean is not None and mean.interval is None}
    if not lacking:
        return ""
    which = "intervals" if len(lacking) == len(larger) else f"interval at batch {', '.join(map(unit.batch, lacking))}"
    one = all(replicates == 1 for replicates in lacking.values())
    return f" (no {which}: {'one replicate' if one else 'all replicates agree exactly'})"


def goal_words(runs: Runs, goal: float) -> str:
    """`test_loss <= 0.3`."""
    return f"{runs.metric} {'<=' if runs.direction == 'lower' else '>='} {exact_number(goal)}"


def why_no_steps(row: StepsAtBatch) -> str:
    """Why a batch size of `StepsToResult` has no steps."""
    if row.judged is None:
        return "no setting reaches it in every replicate"
    reached, runs = row.judged
    return f"its fastest setting reaches it in {reached} of {runs} replicates" if runs else "no setting reaches it"


def first_at(runs: Runs, goal: float, positions: Sequence[str] = ("step",)) -> pd.DataFrame:
    """The `positions` at which each run that reaches `goal` first is there, and `is_bound`; indexed by run."""
    goal = runs.sign * goal
    rows = runs.curves.assign(value=runs.sign * runs.curves["value"])
    found = first_at_goal(rows, rows["value"] <= goal, goal, "run", positions)
    return found.assign(step=found["step"].clip(lower=1.0))


def _there_at_start(runs: Runs, goal: float) -> int:
    """How many runs are at `goal` at step 0."""
    start = runs.curves[runs.curves["step"] == 0]
    return int((runs.sign * start["value"] <= runs.sign * goal).sum())


def _critical(frame: pd.DataFrame) -> tuple[Estimate | None, Estimate | None]:
    """B_crit of the law, of batches of E / S examples, with the interval of replicates and of the law's misfit; and by
    which factor it exceeds the noise scale."""
    counts = frame.groupby(["batch_size", "setting"])["log_steps"].transform("size")
    most = counts.groupby(frame["batch_size"]).transform("max")
    names = ("log_steps", "log_examples", "log_scale")
    steps, examples, scales = (cells(frame[counts == most], name) for name in names)
    rows = np.arange(len(steps.sizes))

    def at_best(drawn: Integers) -> tuple[Floats, Floats, float]:
        """E / S and S, of the batch sizes that reach the goal, and the mean log noise scale of those that have one."""
        mean = np.nan_to_num(weighted_mean(steps.values, drawn), nan=np.inf, posinf=np.inf)
        best = mean.argmin(axis=1)
        log_steps, log_examples = mean[rows, best], weighted_mean(examples.values[rows, best], drawn)
        known = np.isfinite(log_steps)
        own = weighted_mean(scales.values[rows, best], drawn)[known]
        own = own[np.isfinite(own)]
        scale = float(own.mean()) if own.size else np.nan
        return np.exp(log_examples[known] - log_steps[known]), np.exp(log_steps[known]), scale

    def statistic(drawn: Integers) -> Floats:
        sizes, needed, scale = at_best(drawn)
        if len(sizes) < LEAST_SIZES:
            return np.full(2, np.nan)
        critical = np.log(fit_steps(sizes, needed)[0])
        return np.array([critical, critical - scale])

    count = len(steps.replicates)
    values, half = over_replicates(statistic, count)
    if not np.isfinite(values[0]):
        return None, None
    sizes, needed, _ = at_best(np.ones(count, dtype=np.int64))
    misfit = misfit_intervals(sizes, needed, float(np.exp(values[0])))[0]
    critical, factor = (
        estimate_of_log(value, ends, None if half is None else half[k], count)
        for k, (value, ends) in enumerate(zip(values, (misfit, misfit - values[0] + values[1]), strict=True))
    )
    return critical, factor if np.isfinite(factor.value) else None


def critical_words(found: StepsToResult, unit: BatchUnit) -> str:
    """`B_crit is 72.2 (95 %: 39.2 to 137)`, `B_crit is 12.9 sequences (413 tokens; 95 %: 227 to 707 tokens)`."""
    critical, sizes = found.critical, [row.batch_size for row in found.rows if row.steps is not None]
    if found.changes_size:
        return "there is no B_crit: the batch size changes during the training"
    if critical is None:
        return f"there is no B_crit: fewer than {LEAST_SIZES} batch sizes reach the goal"
    of_data, guess = critical.times(unit.per_example), ""
    interval = of_data.interval
    if sizes and not min(sizes) <= critical.value <= max(sizes):
        guess = ", outside the batch sizes that reach the goal: a rough guess"
    if any(row.is_bound for row in found.rows):
        guess += ", by steps that are upper bounds"
    start, tokens = f"B_crit is {plain_number(critical.value)} (", ""
    if unit.tokens is not None:
        start = f"B_crit is {plain_number(critical.value)} sequences ({plain_number(of_data.value)} tokens; "
        tokens = " tokens"
    if interval is None:
        why = "its replicates and the law leave it open" if critical.replicates >= 3 else "fewer than 3 replicates"
        return f"{start}no interval: {why}){guess}"
    ends = f"{plain_number(interval.low)} to {plain_number(interval.high)}"
    if np.isinf(interval.high):
        ends = f"above {plain_number(interval.low)}"
    return f"{start}95 %: {ends}{tokens}){guess}"


def mean_words(mean: Mean) -> str:
    """`12.3 (10 to 15)`."""
    interval = mean.interval
    ends = f" ({plain_number(interval.low)} to {plain_number(interval.high)})" if interval else ""
    return f"{plain_number(mean.value)}{ends}"
