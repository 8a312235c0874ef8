"""Sweeps in the shape of the default grid whose trials train the noisy quadratic (analysis/stats/noisy_quadratic.py).

    f(x) = 1/2 sum_i h_i x_i^2,   x <- x - a_t (h x + xi / sqrt(B_t)),   x_i(0) = +-1,   h_i = 1 / i,   c_i = noise / i

with a rate a_t that rises to its peak over the warmup, and a batch size B_t that grows at the switch. The test loss is
f, so lower is better. Unlike in the other designs nothing follows a law by construction: losses are skewed sums of
squares that scatter more at small batches, the law of the critical batch is off by what it is off, and two rates are
never the best ones.

The truth of a loss is exact, by the recursion of its second moments. The truth of what is taken of a path (the step at
which a goal is first reached, ranks) is that of POPULATION replicates. Of the law it is the fit to these true steps.
"""

import dataclasses
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from analysis.data.load import Sweep
from analysis.data.metric import Metric
from analysis.questions.free_batch import Comparison
from analysis.questions.noise_scales import NOISE_SCALE
from analysis.stats.noisy_quadratic import NoisyQuadratic
from analysis.stats.pairs import Floats
from analysis.stats.steps_to_loss import fit_steps
from simulations import Design, references, template

POPULATION = 600  # replicates
COORDINATES = 100
NOISE = 32.0
EPOCHS = 20
EPSILON = 1e-3  # of the box sharpness
EXAMPLES = 20_000  # that the gradient noise scale is measured on
SURE = 2.0  # standard errors above 0 that resolve |G|^2


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuadraticDesign(Design):
    """A design of the default grid. `goal`: the loss that steps are counted to. `even`: every batch size has its rates
    times a factor at which it loses nothing to the smallest, on average over the settings."""

    learning_rates: tuple[float, ...] = (0.1, 0.4)
    goal: float = 0.85
    even: bool = False

    def sweep(self, random: np.random.Generator) -> Sweep:
        return _sweep(self, draw(self, random, self.replicates))


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What `draw` found, each (replicates, cells): the last loss and sharpness; the step that first is at the goal
    (inf: none), with the losses before and there; the last step. By epoch (.., EPOCHS): the true noise scale, and the
    measured one, NaN where |G|^2 is not resolved."""

    loss: Floats
    sharpness: Floats
    step: Floats
    before: Floats
    there: Floats
    last: Floats
    scale: Floats
    measured: Floats


PROBLEM = NoisyQuadratic(h := 1 / np.arange(1, COORDINATES + 1), NOISE * h)


def schedule(design: QuadraticDesign, cell: tuple[Any, ...]) -> tuple[Floats, Floats, Floats]:
    """Rate, batch size and examples seen after each step of a cell: (steps,) each."""
    size, peak, warmup, switch, _ = cell
    per_epoch, largest = design.batch_sizes[-1], design.batch_sizes[-1]
    first = EPOCHS if switch is None else switch
    sizes = np.array([size] * round(first * per_epoch / size) + [largest] * (EPOCHS - first), dtype=float)
    seen = sizes.cumsum()
    return peak * factors(design)[size] * np.minimum(1.0, seen / max(1.0, warmup * per_epoch)), sizes, seen


@lru_cache(maxsize=16)
def true_losses(design: QuadraticDesign) -> Floats:
    """E f at the end of each cell, exact: (cells,)."""
    return np.array([_true_loss(*schedule(design, cell)[:2]) for cell in design.cells])


def _true_loss(rates: Floats, sizes: Floats) -> float:
    m = np.ones(COORDINATES)
    for rate, size in zip(rates, sizes, strict=True):
        m = (1 - rate * PROBLEM.h) ** 2 * m + rate**2 * PROBLEM.c / size
    return float(0.5 * PROBLEM.h @ m)


@lru_cache(maxsize=16)
def factors(design: QuadraticDesign) -> dict[int, float]:
    """What multiplies the rates of each batch size."""
    if not design.even:
        return dict.fromkeys(design.batch_sizes, 1.0)
    plain = dataclasses.replace(design, even=False, switches=(None,))

    def mean(size: int, factor: float) -> float:
        cells = [cell for cell in plain.cells if cell[0] == size]
        schedules = [schedule(plain, cell) for cell in cells]
        return float(np.mean([_true_loss(factor * rates, sizes) for rates, sizes, _ in schedules]))

    wanted, tried = mean(design.batch_sizes[0], 1.0), np.geomspace(0.2, 4.8, 40)
    found = {design.batch_sizes[0]: 1.0}
    for size in design.batch_sizes[1:]:
        above = np.array([mean(size, factor) > wanted for factor in tried])
        crossed = np.flatnonzero(above[1:] != above[:-1])
        place = min(crossed, key=lambda at: abs(np.log(tried[at])))  # the loss is U-shaped in the rate
        found[size] = float(
            brentq(lambda factor, size=size: mean(size, factor) - wanted, tried[place], tried[place + 1])
        )
    return found


def draw(design: QuadraticDesign, random: np.random.Generator, replicates: int) -> Drawn:
    """All trials of so many replicates; those of one batch size and switch go side by side."""
    cells, found = design.cells, {field.name: [] for field in dataclasses.fields(Drawn)}  # type: ignore[var-annotated]
    order: list[int] = []
    kinds = [(cell[0], cell[3]) for cell in cells]
    for kind in dict.fromkeys(kinds):
        own = [place for place, one in enumerate(kinds) if one == kind]
        order += own
        for name, values in vars(_paths(design, [cells[i] for i in own], random, replicates)).items():
            found[name].append(values)
    back = np.argsort(order)
    return Drawn(**{name: np.concatenate(parts, axis=1)[:, back] for name, parts in found.items()})


def _paths(design: QuadraticDesign, cells: list[Any], random: np.random.Generator, replicates: int) -> Drawn:
    plans = [schedule(design, cell) for cell in cells]
    rates, sizes, seen = np.array([plan[0] for plan in plans]), plans[0][1], plans[0][2]
    shape = replicates, len(cells)
    x = np.ones((*shape, COORDINATES)) * random.choice([-1.0, 1.0], (replicates, 1, COORDINATES))
    loss = 0.5 * x**2 @ PROBLEM.h
    step, before, there = np.full(shape, np.inf), loss.copy(), loss.copy()
    scale, measured = np.full((*shape, EPOCHS), np.nan), np.full((*shape, EPOCHS), np.nan)
    epoch = 0
    for number, size in enumerate(sizes):
        noise = np.sqrt(PROBLEM.c / size) * random.standard_normal(x.shape)
        x -= rates[:, number, None] * (PROBLEM.h * x + noise)
        previous, loss = loss, 0.5 * x**2 @ PROBLEM.h
        new = (loss <= design.goal) & np.isinf(step)
        step[new], before[new], there[new] = number + 1, previous[new], loss[new]
        while epoch < EPOCHS and seen[number] >= (epoch + 1) * design.batch_sizes[-1] - size / 2:
            scale[..., epoch], measured[..., epoch] = _noise_scales(x, random)
            epoch += 1
    widths = EPSILON * (np.abs(x) + 1)  # of the box; a separable quadratic is largest at a corner
    rise = (PROBLEM.h * (np.abs(x) * widths + widths**2 / 2)).sum(axis=-1)
    last = np.full(shape, float(len(sizes)))
    return Drawn(loss, 100 * rise / (1 + loss), step, before, there, last, scale, measured)


def _noise_scales(x: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    """tr(Sigma) / |G|^2, and its estimate from EXAMPLES gradients (their tr(Sigma) is taken as known)."""
    trace, share = float(PROBLEM.c.sum()), PROBLEM.c / EXAMPLES
    gradient = PROBLEM.h * x
    seen = gradient + np.sqrt(share) * random.standard_normal(x.shape)
    squared = (seen**2).sum(axis=-1) - share.sum()
    error = np.sqrt(4 * (share * gradient**2).sum(axis=-1) + 2 * (share**2).sum())
    known = squared > SURE * error
    return trace / (gradient**2).sum(axis=-1), np.where(known, trace / np.where(known, squared, 1.0), np.nan)


@lru_cache(maxsize=16)
def _template(design: QuadraticDesign) -> Sweep:
    """The design's sweep without results, judged by a loss, with the margin that the largest batch truly loses."""
    sweep = template(design)
    metric = Metric("loss", "", "lower", max(true_gap(as_truth(design)), 1e-9))
    about = {"metric": metric.name, "metric_unit": metric.unit, "metric_direction": metric.direction}
    trials = sweep.trials.assign(**about)
    trials = trials.astype(dict.fromkeys(trials.select_dtypes("string"), object))  # taken from at a third of the time
    return dataclasses.replace(sweep, trials=trials, metric=metric)


def _sweep(design: QuadraticDesign, drawn: Drawn) -> Sweep:
    sweep = _template(dataclasses.replace(design, name=""))
    gaps = drawn.loss - drawn.loss[:, references(design)]
    trials = sweep.trials.assign(
        test_metric=drawn.loss.ravel(),
        large_batch_gap=gaps.ravel(),
        box_sharpness=drawn.sharpness.ravel(),
        epochs_done=EPOCHS,
    )
    ids = trials["trial_id"].to_numpy()
    per_epoch, sizes = design.batch_sizes[-1], np.tile([float(cell[0]) for cell in design.cells], design.replicates)
    is_there = np.isfinite(drawn.step).ravel()
    step = np.where(is_there, drawn.step.ravel(), drawn.last.ravel())
    moments = [
        (step - 1, np.where(is_there, drawn.before.ravel(), drawn.loss.ravel())),
        (step, np.where(is_there, drawn.there.ravel(), drawn.loss.ravel())),
        (drawn.last.ravel(), drawn.loss.ravel()),
    ]
    rows = {"trial_id": ids, "batch_size": sizes}
    epochs = pd.concat(
        [
            pd.DataFrame({**rows, "step": at, "epoch": at * sizes / per_epoch, "train_loss": loss})
            for at, loss in moments
        ],
        ignore_index=True,
    ).drop_duplicates(["trial_id", "step"])
    measured = drawn.measured.reshape(-1, EPOCHS)
    measures = pd.DataFrame(
        {
            "trial_id": np.repeat(ids, EPOCHS),
            "epoch": np.tile(np.arange(1.0, EPOCHS + 1), len(ids)),
            "measure": NOISE_SCALE,
            "method": "per example",
            "value": np.nan_to_num(measured.ravel(), nan=1.0),
            "converged": np.isfinite(measured.ravel()),
        }
    )
    return dataclasses.replace(
        sweep, trials=trials, epochs=epochs.assign(test_loss=epochs["train_loss"]), measures=measures
    )


# Truths


def as_truth(design: Design) -> QuadraticDesign:
    """Its truth, which does not depend on the number of replicates."""
    return cast(QuadraticDesign, dataclasses.replace(design, name="", replicates=1))


@lru_cache(maxsize=16)
def population(design: QuadraticDesign) -> Drawn:
    return draw(design, np.random.default_rng(2**32), POPULATION)


def of_size(design: QuadraticDesign, size: int) -> list[int]:
    """The places of the plain cells of a batch size, in the order of the settings."""
    return [i for i, cell in enumerate(design.cells) if cell[0] == size and cell[3] is None]


def true_gap(design: QuadraticDesign, comparison: Comparison = "matched", size: int | None = None) -> float:
    """What a batch size (None: the largest) loses to the smallest."""
    losses, over = true_losses(design), np.mean if comparison == "matched" else np.min
    large, small = (losses[of_size(design, one)] for one in (size or design.batch_sizes[-1], design.batch_sizes[0]))
    return float(over(large) - over(small))


@lru_cache(maxsize=16)
def true_steps(design: QuadraticDesign, scale: str) -> dict[int, tuple[int, float]]:
    """By batch size the best plain cell, and the geometric mean of its steps to the goal, on a line of the loss or of
    its logarithm."""
    drawn, found = population(design), {}
    levels = [np.log(part) if scale == "log" else part for part in (drawn.before, drawn.there, np.array(design.goal))]
    share = (levels[0] - levels[2]) / np.where(levels[0] > levels[1], levels[0] - levels[1], 1.0)
    steps = np.log(np.maximum(drawn.step - 1 + np.clip(share, 0, 1), 1.0 if scale == "linear" else 0.0))
    for size in design.batch_sizes:
        means = {i: float(steps[:, i].mean()) for i in of_size(design, size)}
        best = min(means, key=lambda i: means[i])
        found[size] = best, float(np.exp(means[best]))
    return found


def true_law(design: QuadraticDesign, scale: str = "log") -> tuple[float, float, float]:
    """B_crit, the fewest steps and the fewest examples."""
    steps = true_steps(design, scale)
    critical, least, _ = fit_steps(np.array([*steps], dtype=float), np.array([mean for _, mean in steps.values()]))
    return critical, least, critical * least


@lru_cache(maxsize=16)
def true_factor(design: QuadraticDesign) -> float:
    """The true critical batch size over the true noise scale at the moments until the goal."""
    drawn, logs = population(design), []
    for size, (best, _) in true_steps(design, "log").items():
        goal = np.ceil(drawn.step[:, best] * size / design.batch_sizes[-1])
        until = np.arange(1, EPOCHS + 1) <= goal[:, None]
        scales = np.where(until, np.log(drawn.scale[:, best]), 0.0)
        logs.append((scales.sum(axis=1) / until.sum(axis=1)).mean())
    return true_law(design)[0] / float(np.exp(np.mean(logs)))


@lru_cache(maxsize=16)
def true_frame(design: QuadraticDesign) -> pd.DataFrame:
    """The population with the columns of `comparable` that correlations need."""
    drawn = population(design)
    grid = pd.DataFrame(design.cells, columns=["batch_size", "learning_rate", "warmup_epochs", "switch_epoch", "_"])
    frame = pd.concat([grid] * POPULATION, ignore_index=True)
    smallest = frame["batch_size"] == design.batch_sizes[0]
    frame = frame.assign(
        replicate=np.repeat(np.arange(POPULATION), len(grid)),
        is_reference=smallest & frame["switch_epoch"].isna(),
        box_sharpness=drawn.sharpness.ravel(),
        large_batch_gap=(drawn.loss - drawn.loss[:, references(design)]).ravel(),
    )
    return frame.assign(matched_set=frame.groupby(["replicate", "learning_rate", "warmup_epochs"]).ngroup())


PLAIN = QuadraticDesign(name="default grid, 4 replicates")
DESIGNS = (PLAIN, *(dataclasses.replace(PLAIN, name=f"{n} replicates", replicates=n) for n in (3, 8)))
EVEN = dataclasses.replace(PLAIN, name="no batch size loses anything", even=True)
