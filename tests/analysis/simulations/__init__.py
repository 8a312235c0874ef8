"""Sweeps drawn at random from a known truth, and how often what the analysis says of them holds.

A `Design` is a truth: what the largest batch really loses, how much that differs between replicates, what is missing.
`simulated` draws a sweep from it, in memory. A `Statement` is something that the analysis says with a stated error
rate; `measure` counts how often it holds. The subjects are in gaps.py, correlations.py, critical.py and
quadratic_statements.py, each with STATEMENTS. tests/analysis/questions/test_coverage.py tests all of them with few
runs, benchmarks/coverage.py measures them with many.

The accuracy of a trial at place x (0: the smallest batch, 1: the largest, linear in log B; a switch lies between):

    accuracy = 0.94 + split_r - (gap + luck_r) x - interaction x [rate > first] - tilt |k - (K - 1) x| + gain_remedy
               + residual

rounded to 1 / test_size. r: replicate, k of K: the setting (learning rate, warmup). With a tilt, each batch size has a
best setting of its own, the first for the smallest batch and the last for the largest. The logarithm of sharpness is
2 x + 60 interaction x [rate > first] + noise. With a `b_crit` the training loss falls from 1 to its target of 0.001 in
steps of the logarithm

    log S = log(50 (1 + b_crit / B)) + off_law e_B + step_noise e_rkB + 0.2 e_r + step_luck e'_r (x - 1/2)
            + log(1.5) |k - K // 2|

with all e from N(0, 1): each batch size misses the law by an error that all replicates share.
"""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import pandas as pd
from made_up import record, write
from scipy import stats

from analysis.data import load
from analysis.data.load import Sweep, load_sweep
from analysis.data.metric import Metric
from trainables.records.flag_names import OFF_TARGET

LEAST_STEPS = 50.0  # that any batch size needs, with a b_crit
LEVEL = 0.95  # what every interval and claim is meant to hold in
FAILING = 0.93, 0.001  # a rate fails when a true rate of 93 % would give so low a one in 0.1 % of all tests


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """A truth. Accuracies are fractions; `luck`, `residual` and `split` are standard deviations.

    `gap`: what the largest batch loses. `luck`: how it differs between replicates. `remedies`: the true gain of each
    remedy tried at the largest batch (label smoothing). `missing`, `off_target`: the share of all trials that diverged,
    or missed the target loss, at random. `association`: the correlation of sharpness and accuracy inside a cell.
    `b_crit`: the critical batch size; `off_law`, `step_noise` and `step_luck`: how steps miss the law.
    `interaction`: what the largest batch loses beyond the gap at all learning rates but the first, where it also is
    sharper.
    """

    name: str
    batch_sizes: tuple[int, ...] = (16, 32, 64, 128, 300)
    learning_rates: tuple[float, ...] = (0.003, 0.01)
    warmups: tuple[float, ...] = (0.0, 5.0)
    switches: tuple[int | None, ...] = (None, 5)
    remedies: tuple[float, ...] = ()
    replicates: int = 4
    test_size: int = 1497
    gap: float = 0.0
    luck: float = 0.0
    tilt: float = 0.0
    interaction: float = 0.0
    residual: float = 0.0037
    split: float = 0.006
    missing: float = 0.0
    off_target: float = 0.0
    association: float = 0.0
    b_crit: float | None = None
    off_law: float = 0.0
    step_noise: float = 0.05
    step_luck: float = 0.0

    @property
    def cells(self) -> list[tuple[int, float, float, int | None, int | None]]:
        """(batch size, learning rate, warmup, switch epoch, number of the remedy) of every trial of a replicate."""
        largest, settings = self.batch_sizes[-1], [*itertools.product(self.learning_rates, self.warmups)]
        return [
            *(
                (size, *setting, switch, None)
                for size, setting, switch in itertools.product(self.batch_sizes, settings, self.switches)
                if switch is None or size < largest
            ),
            *((largest, *setting, None, number) for setting in settings for number in range(len(self.remedies))),
        ]

    def sweep(self, random: np.random.Generator) -> Sweep:
        """A sweep drawn from the design; its folder holds nothing."""
        return simulated(self, random)


Holds = Callable[[Sweep, Design], bool | None]


@dataclasses.dataclass(frozen=True)
class Statement:
    """`name`: as a reader would say it. `holds`: whether it is right of a sweep drawn from a design.

    Of an interval ("coverage"): whether it holds the truth, None where none is given. Of a claim ("false positive"):
    False where it is made though it is wrong, so a sweep without the claim counts as right. Either should hold in 95 %.
    """

    name: str
    section: Literal["gap", "remedy", "correlation", "critical batch", "noisy quadratic"]
    kind: Literal["coverage", "false positive"]
    designs: tuple[Design, ...]
    holds: Holds


@dataclasses.dataclass(frozen=True)
class Count:
    """In how many of the sweeps that said something the statement held."""

    held: int = 0
    said: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.held + other.held, self.said + other.said)

    @property
    def rate(self) -> float | None:
        return self.held / self.said if self.said else None

    @property
    def fails(self) -> bool:
        """Whether so few are too few for a rate of 93 % (one-sided binomial test at 0.1 %)."""
        rate, level = FAILING
        return bool(stats.binom.cdf(self.held, self.said, rate) < level)


def simulated(design: Design, random: np.random.Generator) -> Sweep:
    """A sweep drawn from the design; its folder holds nothing."""
    sweep = template(dataclasses.replace(design, name=""))
    accuracy, sharpness, off_target = drawn(design, random)
    diverged = np.isnan(accuracy)
    gaps = accuracy[:, references(design)] - accuracy
    flags = np.select([diverged.ravel(), off_target.ravel()], [1, 2])
    columns = {
        "test_accuracy": accuracy.ravel(),
        "generalization_gap": 1 - accuracy.ravel(),
        "large_batch_gap": gaps.ravel(),
        "box_sharpness": sharpness.ravel(),
        "box_sharpness_paper": sharpness.ravel() / 3,
        "hessian_max_eig": 2 * sharpness.ravel(),
        "status": np.where(diverged.ravel(), "diverged", "completed"),
        "flags": [[[], ["diverged"], ["missed target loss"]][flag] for flag in flags],
    }
    trials = sweep.trials.assign(**columns)
    if design.b_crit is None:
        return dataclasses.replace(sweep, trials=trials)
    x, place, settings = _places(design)
    batches = np.array([float(size) for size, *_ in design.cells])
    index = np.unique(batches, return_inverse=True)[1]
    steps = np.log(LEAST_STEPS * (1 + design.b_crit / batches))
    steps = steps + design.off_law * random.normal(size=len(batches))[index]
    steps = steps + design.step_noise * random.normal(size=accuracy.shape)
    level, slope = (spread * random.normal(size=(len(accuracy), 1)) for spread in (0.2, design.step_luck))
    steps = np.exp(steps + level + slope * (x - 0.5) + np.log(1.5) * np.abs(place - settings // 2))
    return dataclasses.replace(
        sweep, trials=trials, epochs=_epochs(trials, steps.ravel(), np.tile(batches, len(accuracy)))
    )


def _epochs(trials: pd.DataFrame, steps: Any, batch_sizes: Any) -> pd.DataFrame:
    """Two moments of each trial on a line of the logarithm of the loss, which ends at 0.001 after `steps`."""
    moments = [
        {
            "trial_id": trials["trial_id"],
            "epoch": share * steps * batch_sizes / trials["train_size"],
            "step": share * steps,
            "train_loss": 1e-3**share,
            "distance": 1.0,
        }
        for share in (0.5, 1.0)
    ]
    return pd.concat([pd.DataFrame(moment) for moment in moments], ignore_index=True)


def drawn(design: Design, random: np.random.Generator, replicates: int | None = None) -> tuple[Any, Any, Any]:
    """The accuracy and the sharpness of each trial, NaN where it diverged, and whether it is off target.

    All are (replicates, cells), with as many replicates as the design has, or as asked for.
    """
    cells, replicates = design.cells, replicates or design.replicates
    shape = replicates, len(cells)
    x, place, settings = _places(design)
    gain = np.array([0.0 if number is None else design.remedies[number] for *_, number in cells])
    late = x * [rate > design.learning_rates[0] for _, rate, *_ in cells]

    def each(spread: float) -> Any:
        return spread * random.normal(size=(replicates, 1))

    noise = random.normal(size=shape)
    accuracy = 0.94 + each(design.split) - (design.gap + each(design.luck)) * x + gain + design.residual * noise
    accuracy -= design.tilt * np.abs(place - (settings - 1) * x) + design.interaction * late
    accuracy = np.round(np.clip(accuracy, 0, 1) * design.test_size) / design.test_size
    own = np.sqrt(1 - design.association**2) * random.normal(size=shape) - design.association * noise
    sharpness = np.exp(2 * x + each(0.15) * x + 0.18 * own + each(0.2) + 60 * design.interaction * late)
    diverged, off_target = (random.random(shape) < share for share in (design.missing, design.off_target))
    return np.where(diverged, np.nan, accuracy), np.where(diverged, np.nan, sharpness), off_target


def _places(design: Design) -> tuple[Any, Any, int]:
    """The x of each cell, the number of its setting, and how many settings there are."""
    sizes = np.log2([size for size, *_ in design.cells])
    x = (sizes - sizes.min()) / max(1e-9, np.ptp(sizes))
    x = np.where([switch is not None for _, _, _, switch, _ in design.cells], 0.5 * x + 0.35, x)
    settings = [*itertools.product(design.learning_rates, design.warmups)]
    return x, np.array([settings.index((rate, warmup)) for _, rate, warmup, *_ in design.cells]), len(settings)


def measure(statements: Sequence[Statement], design: Design, runs: Iterable[int]) -> list[Count]:
    """How often each statement holds in sweeps drawn from the design; `runs` are their seeds."""
    counts = [Count()] * len(statements)
    for run in runs:
        sweep = design.sweep(np.random.default_rng(run))
        with grouped(design, sweep):
            for place, statement in enumerate(statements):
                held = statement.holds(sweep, design)
                counts[place] += Count(int(bool(held)), int(held is not None))
    return counts


@contextmanager
def grouped(design: Design, sweep: Sweep) -> Iterator[None]:
    """Lets analysis.data.load take the groups of the trials, the same in all sweeps of a design, from its template.

    They are most of the time that it takes to analyse a sweep.
    """
    if design.b_crit is not None:  # the epochs of its trials are in no template
        yield
        return
    frames = []
    for frame in _groups(dataclasses.replace(design, name=""), sweep.metric):
        groups = frame[frame.columns.difference(sweep.trials.columns, sort=False)]
        frames.append(pd.concat([sweep.trials, groups], axis=1)[frame.columns])
        frames[-1]["off_target"] = load.has_flag(sweep.trials, OFF_TARGET)
        if sweep.metric.direction == "lower":
            frames[-1][sweep.metric.score] = -frames[-1][sweep.metric.column]
    attempted, completed = frames
    completed["test_error"] = sweep.metric.errors(completed[sweep.metric.column])
    completed = completed[completed["status"] == "completed"].copy()

    def seen(frame: pd.DataFrame) -> Callable[[Sweep], pd.DataFrame]:
        return lambda sweep: frame if sweep.sequential is None else sweep.sequential.seen(frame)

    with mock.patch.object(load, "_attempted", seen(attempted)), mock.patch.object(load, "_completed", seen(completed)):
        yield


@lru_cache(maxsize=64)
def _groups(design: Design, metric: Metric) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames of attempted and of completed trials, all of which have completed."""
    whole = dataclasses.replace(template(design), metric=metric)
    return load._attempted(whole), load._completed(whole)


def references(design: Design) -> list[int]:
    """The place of each cell's reference: the smallest plain batch at the same setting."""
    cells = design.cells
    smallest = min(size for size, *_ in cells)
    found = {
        (rate, warmup): i
        for i, (size, rate, warmup, *rest) in enumerate(cells)
        if (size, *rest) == (smallest, None, None)
    }
    return [found[rate, warmup] for _, rate, warmup, *_ in cells]


@lru_cache(maxsize=64)
def template(design: Design) -> Sweep:
    """The sweep of a design by the real loader, its trials in the order of (replicate, cell), without measures."""
    records = []
    for replicate, (size, rate, warmup, switch, number) in itertools.product(range(design.replicates), design.cells):
        config: dict[str, Any] = {
            "batch_size": size,
            "learning_rate": rate,
            "warmup_epochs": warmup,
            "seed": replicate,
            "split_seed": replicate,
            "train_size": design.batch_sizes[-1],
            "measure_examples": design.batch_sizes[-1],
            "test_size": design.test_size,
        }
        if switch is not None:
            config |= {"switch_epoch": switch, "switch_batch_size": design.batch_sizes[-1]}
        if number is not None:
            config |= {"label_smoothing": 0.01 * (number + 1)}
        records.append(record(**config))
    order = [entry.trial["trial_id"] for entry in records]
    with tempfile.TemporaryDirectory() as folder:
        sweep = load_sweep(write(Path(folder) / "simulated", records))
    trials = sweep.trials.set_index("trial_id").loc[order].reset_index()[sweep.trials.columns]
    return dataclasses.replace(sweep, trials=trials, measures=sweep.measures.iloc[:0])
