"""The critical batch size: how many steps and examples it takes to reach a training loss, against batch size.

    python analysis/critical_batch.py results/NAME

McCandlish et al. 2018, "An Empirical Model of Large-Batch Training" (arXiv 1812.06162, equation 2.11):

    (S / S_min - 1) (E / E_min - 1) = 1,   B_crit = E_min / S_min

with S steps and E = S B examples to the loss. Below B_crit a doubling of the batch nearly halves the steps, beyond it
mostly costs examples. Putting in E = S B gives S = S_min (1 + B_crit / B), which is fitted by least squares of log S.

At each batch size its best setting (learning rate, warmup, ...): the one with the fewest steps among those that reach
the loss in every replicate, so the test set has no part in it; a choice at the end of the grid is marked, as the best
may lie beyond. B is the mean size of the batches, E / S, as the last batch of an epoch may be small. Between the epochs
where the loss was seen, log loss is taken as linear in steps. The target is the sweep's own target loss; where it has
none, the smallest loss that every batch size reaches.

Beside it the simple noise scale tr(Sigma) / |G|^2 that the theory predicts B_crit from, where it was measured
(`--measures gradient_noise_scale`): the geometric mean over the epochs until the target. Measured at the end alone it
is far too large, since the gradient vanishes there.

Traps: it says how fast training goes, not how well the result generalizes. The law is that of SGD; Adam bends it.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # else analysis/statistics.py shadows the standard library's

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.command import run
from analysis.figures import (
    GREY,
    LABELS,
    batch_size_colours,
    footnote,
    legend_key,
    log_axis,
    new_figure,
    plain_number,
    save,
)
from analysis.load import Sweep, comparable, load_sweep
from analysis.means import Interval, Mean, mean_over_replicates
from analysis.pairs import Floats, Integers
from analysis.replicates import Estimate, cells, over_replicates, weighted_mean
from analysis.steps_to_loss import default_loss, fit_steps, steps_to_loss
from trainables.errors import UserError

NOISE_SCALE = "gradient_noise_scale"
LEAST_SIZES = 3  # for a curve of two parameters to be tested at all


@dataclass(frozen=True)
class StepsToLoss:
    """What one batch size needs at its best setting; means are geometric, over replicates."""

    batch_size: int
    learning_rate: float
    at_edge: bool
    steps: Mean
    examples: Mean
    noise_scale: Mean | None


@dataclass(frozen=True)
class CriticalBatch:
    """The fit, its data, and the batch sizes left out as no setting reached the loss in every replicate.

    `misfit`: the root mean square of the residuals of log S. `extrapolated`: B_crit lies beyond the batch sizes tried.
    `noise_epochs`: at how many epochs the noise scale was measured at most, 0 where it was not.
    """

    target_loss: float
    rows: tuple[StepsToLoss, ...]
    left_out: tuple[int, ...]
    b_crit: Estimate
    s_min: Estimate
    e_min: Estimate
    misfit: float
    extrapolated: bool
    noise_epochs: int


@lru_cache(maxsize=16)
def critical_batch(sweep: Sweep, target_loss: float | None = None) -> CriticalBatch:
    """The critical batch size of the plain trials for `target_loss` (None: see the top of the file).

    Raises UserError where fewer than three batch sizes reach the loss in every replicate.
    """
    frame = comparable(sweep)
    frame = frame[frame["is_plain"]]
    epochs = sweep.epochs[sweep.epochs["trial_id"].isin(frame["trial_id"])]
    if frame.empty or epochs.empty:
        raise UserError(f"`results` must hold completed trials with their epochs, got none in {sweep.folder}")
    loss = default_loss(frame, epochs) if target_loss is None else target_loss
    reached = steps_to_loss(epochs, loss)
    frame["log_steps"] = np.log(frame["trial_id"].map(reached["step"])).fillna(np.inf)  # never: not to be chosen
    frame["log_examples"] = np.log(frame["trial_id"].map(reached["epoch"]) * frame["train_size"]).fillna(np.inf)
    steps, examples = cells(frame, "log_steps"), cells(frame, "log_examples")
    count = len(steps.replicates)

    def at_best(counts: Integers) -> tuple[Integers, Floats, Floats]:
        """The best setting at each batch size, and log S and log E there; infinite where none reaches the loss."""
        mean = np.nan_to_num(weighted_mean(steps.values, counts), nan=np.inf, posinf=np.inf)
        best = mean.argmin(axis=1)
        rows = np.arange(len(best))
        return best, mean[rows, best], weighted_mean(examples.values[rows, best], counts)

    def statistic(counts: Integers) -> Floats:
        _, log_steps, log_examples = at_best(counts)
        known = np.isfinite(log_steps) & np.isfinite(log_examples)
        if known.sum() < LEAST_SIZES:
            return np.full(3, np.nan)
        critical, least, _ = fit_steps(np.exp(log_examples[known] - log_steps[known]), np.exp(log_steps[known]))
        return np.log([critical, least, critical * least])

    best, log_steps, log_examples = at_best(np.ones(count, dtype=np.int64))
    known = np.isfinite(log_steps) & np.isfinite(log_examples)
    if known.sum() < LEAST_SIZES:
        raise UserError(
            f"`results` must hold at least {LEAST_SIZES} batch sizes that reach a training loss of {loss:g} "
            f"in every replicate, got {known.sum()} in {sweep.folder}"
        )
    values, half = over_replicates(statistic, count)
    critical, least, fewest = (_estimate(values[k], None if half is None else half[k], count) for k in range(3))
    sizes = np.exp(log_examples[known] - log_steps[known])
    noise = _noise_scales(sweep, frame, reached)
    rows = [
        _row(frame, size, steps.settings[setting], noise)
        for size, setting, shown in zip(steps.sizes, best, known, strict=True)
        if shown
    ]
    return CriticalBatch(
        target_loss=loss,
        rows=tuple(rows),
        left_out=tuple(size for size, shown in zip(steps.sizes, known, strict=True) if not shown),
        b_crit=critical,
        s_min=least,
        e_min=fewest,
        misfit=fit_steps(sizes, np.exp(log_steps[known]))[2],
        extrapolated=not sizes.min() <= critical.value <= sizes.max(),
        noise_epochs=int(noise["epochs"].max()) if len(noise) else 0,
    )


def _row(frame: pd.DataFrame, size: int, setting: int, noise: pd.DataFrame) -> StepsToLoss:
    of_size = frame[frame["batch_size"] == size]
    rows = of_size[of_size["setting"] == setting]
    rate, rates = float(rows["learning_rate"].iloc[0]), of_size["learning_rate"]
    values = rows.assign(
        steps=np.exp(rows["log_steps"]),
        examples=np.exp(rows["log_examples"]),
        noise_scale=rows["trial_id"].map(noise["value"]).astype("float64"),
    )
    steps, examples = (mean_over_replicates(values, name, scale="log") for name in ("steps", "examples"))
    assert steps is not None
    assert examples is not None
    edge = rates.nunique() > 1 and rate in (rates.min(), rates.max())
    return StepsToLoss(size, rate, edge, steps, examples, mean_over_replicates(values, "noise_scale", scale="log"))


def _noise_scales(sweep: Sweep, frame: pd.DataFrame, reached: pd.DataFrame) -> pd.DataFrame:
    """The geometric mean of each trial's noise scale over the epochs until the target, and how many those are."""
    rows = sweep.measures[(sweep.measures["measure"] == NOISE_SCALE) & (sweep.measures["value"] > 0)]
    rows = rows[rows["trial_id"].isin(frame["trial_id"])]
    until = np.ceil(rows["trial_id"].map(reached["epoch"]))
    rows = rows[~(rows["epoch"] > until)]
    found: pd.DataFrame = np.log(rows["value"]).groupby(rows["trial_id"]).agg(value="mean", epochs="size")
    return found.assign(value=np.exp(found["value"]))


def _estimate(log_value: float, half: float | None, replicates: int) -> Estimate:
    interval = None
    if half is not None and np.isfinite(half) and half > 0:
        interval = Interval(float(np.exp(log_value - half)), float(np.exp(log_value + half)))
    return Estimate(float(np.exp(log_value)), interval, replicates)


def critical_batch_sentence(sweep: Sweep) -> str:
    """The critical batch size and the noise scale in words, or why there is none."""
    try:
        found = critical_batch(sweep)
    except UserError as error:
        return f"No critical batch size: {error}."
    where = " (beyond the batch sizes tried: a rough guess)" if found.extrapolated else ""
    text = (
        f"To a training loss of {found.target_loss:g} the critical batch size is {_shown(found.b_crit)}{where}: far "
        f"below it a doubling of the batch halves the steps, far beyond it doubles the examples; at least "
        f"{_shown(found.s_min)} steps and {_shown(found.e_min)} examples are needed (the law misses the measured steps "
        f"by {100 * np.expm1(found.misfit):.0f} % on average)."
    )
    edges = [str(row.batch_size) for row in found.rows if row.at_edge]
    text += f" The best learning rate is the last of the grid at batch {', '.join(edges)}." if edges else ""
    scales = [row.noise_scale for row in found.rows if row.noise_scale is not None]
    if not scales:
        return f"{text} The gradient noise scale was not measured (`--measures gradient_noise_scale`)."
    low, high = (plain_number(end([scale.value for scale in scales])) for end in (min, max))
    end = ", measured at the end of training alone, where it overstates" if found.noise_epochs == 1 else ""
    return f"{text} The simple gradient noise scale is {low} to {high}{end}."


def _shown(estimate: Estimate) -> str:
    interval = estimate.interval
    ends = f" [{plain_number(interval.low)}, {plain_number(interval.high)}]" if interval else ""
    return f"{plain_number(estimate.value)}{ends}"


def critical_batch_figure(sweep: Sweep) -> Figure:
    """Examples against steps, and steps against batch size, with the fit. Raises UserError as `critical_batch`."""
    found = critical_batch(sweep)
    colours = batch_size_colours([row.batch_size for row in found.rows])
    with new_figure(height=3.2) as figure:
        trade, steps = figure.subplots(1, 2)
        sizes = np.array([row.examples.value / row.steps.value for row in found.rows])
        curve = np.geomspace(
            min(sizes.min(), found.b_crit.value) / 1.5, max(sizes.max(), found.b_crit.value) * 1.5, 200
        )
        curve = curve[(curve > sizes.min() / 4) & (curve < sizes.max() * 4)]
        fitted = found.s_min.value * (1 + found.b_crit.value / curve)
        trade.plot(fitted, fitted * curve, color=GREY, zorder=1)
        steps.plot(curve, fitted, color=GREY, zorder=1)
        if not found.extrapolated:
            steps.axvline(found.b_crit.value, color="black", linewidth=0.9, linestyle="--")
            if found.b_crit.interval is not None:
                low, high = found.b_crit.interval.low, found.b_crit.interval.high
                steps.axvspan(max(low, curve[0]), min(high, curve[-1]), color="0.88", zorder=0)
        for row, size in zip(found.rows, sizes, strict=True):
            style: dict[str, Any] = {"color": colours[row.batch_size], "marker": "D" if row.at_edge else "o"}
            trade.plot([row.steps.value], [row.examples.value], markersize=5, linestyle="none", **style)
            steps.plot([size], [row.steps.value], markersize=5, linestyle="none", **style)
            if row.steps.interval is not None and row.examples.interval is not None:
                x, y = row.steps.interval, row.examples.interval
                trade.plot([x.low, x.high], [row.examples.value] * 2, color=style["color"], linewidth=0.9)
                trade.plot([row.steps.value] * 2, [y.low, y.high], color=style["color"], linewidth=0.9)
                steps.plot([size, size], [x.low, x.high], color=style["color"], linewidth=0.9)
            if row.noise_scale is not None:
                steps.plot([row.noise_scale.value], [row.steps.value], marker="*", color=style["color"], markersize=7)
        for axes in (trade, steps):
            log_axis(axes, "y")
        log_axis(trade, "x")
        log_axis(steps, "x", at=[row.batch_size for row in found.rows])
        trade.set_xlabel(f"steps to a training loss of {found.target_loss:g}")
        trade.set_ylabel("examples to it")
        steps.set_xlabel(LABELS["batch_size"])
        steps.set_ylabel("steps to it")
        keys = [legend_key(f"{size}", marker="o", color=colour) for size, colour in colours.items()]
        if any(row.at_edge for row in found.rows):
            keys.append(legend_key("best learning rate at the end of the grid", marker="D", color=GREY))
        if found.noise_epochs:
            keys.append(legend_key("gradient noise scale", marker="*", color=GREY))
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), frameon=False, title="batch size")
        footnote(
            figure,
            f"Dashed: critical batch size {_shown(found.b_crit)}. Geometric means and 95 % intervals over "
            f"{found.b_crit.replicates} replicates at each batch size's fastest setting.",
        )
    return figure


def main(arguments: list[str]) -> int:
    def show(folder: Path) -> list[object]:
        sweep = load_sweep(folder)
        return [*save(critical_batch_figure(sweep), folder, "critical_batch"), critical_batch_sentence(sweep)]

    return run(show, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
