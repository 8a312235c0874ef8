"""The critical batch size: how many steps and examples it takes to reach a training loss, against batch size.

McCandlish et al. 2018, "An Empirical Model of Large-Batch Training" (arXiv 1812.06162, equation 2.11):

    (S / S_min - 1) (E / E_min - 1) = 1,   B_crit = E_min / S_min

with S steps and E = S B examples to the loss. Below B_crit a doubling of the batch nearly halves the steps, beyond it
mostly costs examples. Putting in E = S B gives S = S_min (1 + B_crit / B), which is fitted by least squares of log S.

At each batch size its best setting (learning rate, warmup, ...): the one with the fewest steps among those that reach
the loss in every replicate, so the test set has no part in it; a choice at the end of the grid is marked, as the best
may lie beyond. A trial that diverged did not reach the loss. B is the mean size of the batches, E / S, as the last
batch of an epoch may be small. Between the moments where the loss was seen, log loss is taken as linear in steps. The
target is the sweep's own target loss; where it has none, the smallest loss that every batch size reaches.

An interval has two parts, whose half-widths are added in squares: how replicates differ (analysis/data/replicates.py),
and how far the batch sizes miss the law (`misfit_intervals`). Replicates alone do not show the second: where the law is
off by 10 %, an interval from them holds the truth half as often as it says. An end is open where the batch sizes see
one arm of the law.

Beside it the simple noise scale tr(Sigma) / |G|^2 that the theory predicts B_crit from, where it was measured
(`--noise-scale`, `--measures gradient_noise_scale`), and by which factor it is off: the geometric mean over the moments
until the target. The factor's interval holds both errors, of B_crit and of the scale, as replicates are resampled for
both. Measured at the end alone the scale is far too large, since the gradient vanishes there.

Traps: it says how fast training goes, not how well the result generalizes. The law is that of SGD; Adam bends it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from analysis.data.batch_unit import BatchUnit
from analysis.data.load import NOT_TRAINING, REPLICATE, Sweep, attempted, axes
from analysis.data.replicates import LEAST_REPLICATES, Cells, Estimate, cells, over_replicates, weighted_mean
from analysis.questions.noise_scales import NoiseScales, noise_scales, noise_words
from analysis.stats.means import Interval, Mean, mean_over_replicates
from analysis.stats.pairs import Floats, Integers
from analysis.stats.steps_to_loss import default_loss, fit_steps, misfit_intervals, steps_to_loss
from analysis.stats.wording import counted, exact_number, plain_number, setting_value
from trainables.runtime.errors import NotEnoughError, UserError

LEAST_SIZES = 3  # for a curve of two parameters to be tested at all
OUTSIDE = "outside the batch sizes tried: a rough guess"
MOST_NAMED = 4  # settings that missed the loss


@dataclass(frozen=True)
class StepsToLoss:
    """What one batch size needs at its best setting; means are geometric, over replicates.

    `is_bound`: some replicate was at the loss when it was first looked at, so these are upper bounds.
    """

    batch_size: int
    learning_rate: float
    at_edge: bool
    steps: Mean
    examples: Mean
    noise_scale: Mean | None
    is_bound: bool


@dataclass(frozen=True)
class Missed:
    """A setting that reached the loss in `reached` of its `replicates`, so it could not be chosen."""

    batch_size: int
    setting: str
    reached: int
    replicates: int


@dataclass(frozen=True)
class CriticalBatch:
    """The fit, its data, and the batch sizes left out as no setting reached the loss in every replicate.

    `missed`: the settings that did not reach it in every replicate. `misfit`: the root mean square of the residuals of
    log S. `extrapolated`: B_crit is outside the batch sizes tried. An interval may be open: from 0, or to infinity.
    `noise_factor`: B_crit over the geometric mean of the rows' noise scales; None where none is known.
    """

    target_loss: float
    rows: tuple[StepsToLoss, ...]
    left_out: tuple[int, ...]
    missed: tuple[Missed, ...]
    b_crit: Estimate
    s_min: Estimate
    e_min: Estimate
    misfit: float
    extrapolated: bool
    noise: NoiseScales | None
    noise_factor: Estimate | None

    @property
    def noise_epochs(self) -> int:
        """At how many epochs of a trial the noise scale counts at most, 0 where it does not."""
        return self.noise.epochs if self.noise is not None else 0


@lru_cache(maxsize=16)
def critical_batch(sweep: Sweep, target_loss: float | None = None) -> CriticalBatch:
    """The critical batch size of the plain trials for `target_loss` (None: see the top of the file).

    Raises UserError where fewer than three batch sizes reach the loss in every replicate, where all have it after one
    step, and for a `target_loss` that is not above 0.
    """
    if target_loss is not None and not target_loss > 0:
        raise UserError(f"the training loss to reach must be above 0, got {target_loss:g}")
    frame = attempted(sweep)
    frame = frame[frame["is_plain"] & frame["status"].isin(["completed", "diverged"])].copy()
    completed = frame[frame["status"] == "completed"]
    epochs = sweep.epochs[sweep.epochs["trial_id"].isin(completed["trial_id"])]
    if completed.empty or epochs.empty:
        raise NotEnoughError(
            f"`results` must hold completed trials with their epochs, got none in {sweep.folder}",
            "A critical batch size needs completed trials with their epochs; this sweep has none.",
        )
    loss = default_loss(frame, epochs) if target_loss is None else target_loss
    reached = steps_to_loss(epochs, loss)
    frame["log_steps"] = np.log(frame["trial_id"].map(reached["step"])).fillna(np.inf)  # never: not to be chosen
    frame["log_examples"] = np.log(frame["trial_id"].map(reached["epoch"]) * frame["train_size"]).fillna(np.inf)
    frame["is_bound"] = frame["trial_id"].map(reached["is_bound"]).eq(True)
    noise = noise_scales(sweep, reached)
    frame["noise_scale"] = np.nan if noise is None else frame["trial_id"].map(noise.scales).astype("float64")
    frame["log_scale"] = np.log(frame["noise_scale"])
    steps, examples, scales = (cells(frame, name) for name in ("log_steps", "log_examples", "log_scale"))
    count = len(steps.replicates)

    def at_best(counts: Integers) -> tuple[Integers, Floats, Floats]:
        """The best setting at each batch size, and log S and log E there; infinite where none reaches the loss."""
        mean = np.nan_to_num(weighted_mean(steps.values, counts), nan=np.inf, posinf=np.inf)
        best = mean.argmin(axis=1)
        rows = np.arange(len(best))
        return best, mean[rows, best], weighted_mean(examples.values[rows, best], counts)

    def statistic(counts: Integers) -> Floats:
        best, log_steps, log_examples = at_best(counts)
        known = np.isfinite(log_steps) & np.isfinite(log_examples)
        if known.sum() < LEAST_SIZES:
            return np.full(4, np.nan)
        critical, least, _ = fit_steps(np.exp(log_examples[known] - log_steps[known]), np.exp(log_steps[known]))
        log_scales = weighted_mean(scales.values[np.arange(len(best)), best], counts)[known]
        log_scales = log_scales[~np.isnan(log_scales)]
        scale = log_scales.mean() if log_scales.size else np.nan
        return np.append(np.log([critical, least, critical * least]), np.log(critical) - scale)

    best, log_steps, log_examples = at_best(np.ones(count, dtype=np.int64))
    known = np.isfinite(log_steps) & np.isfinite(log_examples)
    if known.sum() < LEAST_SIZES:
        goal = f"a training loss of {exact_number(loss)} in every replicate"
        rule = f"at least {LEAST_SIZES} batch sizes that reach {goal}"
        raise NotEnoughError(
            f"`results` must hold {rule}, got {known.sum()} in {sweep.folder}",
            f"A critical batch size needs {rule}; this sweep has {known.sum()}.",
        )
    if np.all(log_steps[known] <= 0):
        goal = f"a training loss of {exact_number(loss)}"
        raise NotEnoughError(
            f"`results` must hold batch sizes that reach {goal} in more than one step, got none in {sweep.folder}",
            f"There is no critical batch size to {goal}: every batch size reaches it in one step.",
        )
    values, half = over_replicates(statistic, count)
    sizes, needed = np.exp(log_examples[known] - log_steps[known]), np.exp(log_steps[known])
    open_ends = misfit_intervals(sizes, needed, np.exp(values[0]))
    open_ends = np.vstack([open_ends, open_ends[0] - values[0] + values[3]])  # the misfit is of B_crit alone
    critical, least, fewest, factor = (
        estimate_of_log(value, open_ends[k], None if half is None else half[k], count) for k, value in enumerate(values)
    )
    shown = frame[
        ["batch_size", "setting", "replicate", "learning_rate", "is_bound", "log_steps", "log_examples", "noise_scale"]
    ]
    rows = [
        _row(shown, size, steps.settings[setting])
        for size, setting, is_known in zip(steps.sizes, best, known, strict=True)
        if is_known
    ]
    return CriticalBatch(
        target_loss=loss,
        rows=tuple(rows),
        left_out=tuple(size for size, is_known in zip(steps.sizes, known, strict=True) if not is_known),
        missed=tuple(_missed(frame, steps)),
        b_crit=critical,
        s_min=least,
        e_min=fewest,
        misfit=fit_steps(sizes, needed)[2],
        extrapolated=not sizes.min() <= critical.value <= sizes.max(),
        noise=noise,
        noise_factor=factor if np.isfinite(factor.value) else None,
    )


def _missed(frame: pd.DataFrame, steps: Cells) -> Iterator[Missed]:
    """The settings of `frame` that a replicate lacks at some batch size, described by what varies between settings."""
    lacking = [(i, j) for i, j in np.argwhere(np.isinf(steps.values).any(axis=2)).tolist()]
    varying = axes(frame) if lacking else {}
    names = [name for name in varying if name not in {"batch_size", *REPLICATE, *NOT_TRAINING}]
    for i, j in lacking:
        row = frame[frame["setting"] == steps.settings[j]].iloc[0]
        text = ", ".join(
            f"{name.replace('_', ' ')} {setting_value(row[name])}" for name in names if pd.notna(row[name])
        )
        reached, known = np.isfinite(steps.values[i, j]).sum(), (~np.isnan(steps.values[i, j])).sum()
        yield Missed(steps.sizes[i], text, int(reached), int(known))


def _row(frame: pd.DataFrame, size: int, setting: int) -> StepsToLoss:
    of_size = frame[frame["batch_size"] == size]
    rows = of_size[of_size["setting"] == setting]
    rate, rates = float(rows["learning_rate"].iloc[0]), of_size["learning_rate"]
    values = rows.assign(steps=np.exp(rows["log_steps"]), examples=np.exp(rows["log_examples"]))
    steps, examples = (mean_over_replicates(values, name, scale="log") for name in ("steps", "examples"))
    assert steps is not None
    assert examples is not None
    edge = rates.nunique() > 1 and rate in (rates.min(), rates.max())
    scale = mean_over_replicates(values, "noise_scale", scale="log")
    return StepsToLoss(size, rate, edge, steps, examples, scale, bool(rows["is_bound"].any()))


def estimate_of_log(log_value: float, misfit: Floats, half: float | None, replicates: int) -> Estimate:
    """e^`log_value`, with an interval of both parts: the ends `misfit` and the half-width `half`, of logarithms.

    No interval where there are too few replicates (`half` None), or where it would be open at both ends.
    """
    interval = None
    if half is not None and np.isfinite(half):
        low, high = np.hypot(misfit - log_value, half) * (-1, 1) + log_value
        if low < high and (np.isfinite(low) or np.isfinite(high)):
            interval = Interval(float(np.exp(low)), float(np.exp(high)))
    return Estimate(float(np.exp(log_value)), interval, replicates)


def critical_batch_sentence(sweep: Sweep) -> str:
    """The critical batch size and the noise scale in words, or why there is none."""
    try:
        found = critical_batch(sweep)
    except NotEnoughError as error:
        return error.sentence
    where = f" ({OUTSIDE})" if found.extrapolated else ""
    told = any(one.interval is not None for one in (found.b_crit, found.s_min, found.e_min))
    unit = sweep.batch_unit
    text = (
        f"To a training loss of {exact_number(found.target_loss)} the critical batch size is "
        f"{batch_shown(found.b_crit, unit)}{where}: far below it a doubling of the batch halves the steps, far beyond "
        f"it doubles the {unit.of_data}. At least {counted(shown(found.s_min), 'steps')} "
        f"and {counted(shown(found.e_min.times(unit.per_example)), unit.of_data)} are needed. "
        f"The law misses the measured steps by {100 * np.expm1(found.misfit):.0f} % on average"
        f"{', which the 95 % intervals include' if told else ''}."
    )
    for batches, what in (
        (found.left_out, "No setting reaches the loss in every replicate at batch {}: left out."),
        (_batches(found, "at_edge"), "The best learning rate is the last of the grid at batch {}."),
        (_batches(found, "is_bound"), "The loss was reached before it was first looked at, so steps are upper bounds, "
                                      "at batch {}."),
    ):  # fmt: skip
        text += " " + what.format(", ".join(map(unit.batch, batches))) if batches else ""
    if found.missed:
        named = [
            f"batch {unit.batch(one.batch_size)}{one.setting and f' at {one.setting}'} "
            f"({one.reached} of {one.replicates})"
            for one in found.missed[:MOST_NAMED]
        ]
        rest = len(found.missed) - len(named)
        more = f" and {rest} more" if rest else ""
        text += f" Not eligible, as they reach it in some replicates only or in none: {', '.join(named)}{more}."
    scales = (row.noise_scale for row in found.rows)
    return f"{text} {noise_words(found.noise, found.noise_factor, scales, unit)}"


def _batches(found: CriticalBatch, flag: str) -> list[int]:
    return [row.batch_size for row in found.rows if getattr(row, flag)]


def batch_shown(estimate: Estimate, unit: BatchUnit) -> str:
    """A batch size in examples, or as `13 [11, 15] sequences, in tokens 416 [352, 480]`."""
    if unit.tokens is None:
        return shown(estimate)
    return f"{shown(estimate)} sequences, in tokens {shown(estimate.times(unit.tokens))}"


def shown(estimate: Estimate) -> str:
    value, interval = plain_number(estimate.value), estimate.interval
    if interval is None:
        return value if estimate.replicates < LEAST_REPLICATES else f"not determined (best fit {value})"
    if np.isinf(interval.high):
        return f"above {plain_number(interval.low)} (95 %; best fit {value})"
    if interval.low == 0:
        return f"below {plain_number(interval.high)} (95 %; best fit {value})"
    return f"{value} [{plain_number(interval.low)}, {plain_number(interval.high)}]"
