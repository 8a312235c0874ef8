"""The local critical batch: how large the batch may be at a moment of the training, measured by branching.

From the state of a run at batch B_0 (the trunk) after t epochs, branches go on with k B_0 for k = 2, 4, 8, ... for the
same number of examples, w epochs, at a learning rate scaled by k or its root (Merrill et al. 2025, arXiv 2505.23971).
The held-out loss of each is compared with that of the trunk, which is k = 1:

    L_k = mean of the held-out loss over the last quarter of the branch,   d_k = L_k - L_1, paired by replicate
    B*(t) = largest k B_0 with d_k < margin

The mean over the last quarter is over examples, on lines between evaluations, so that it is taken of the same examples
at every k. Merrill et al. compare one run of each batch size within a fixed tolerance. Here replicates give intervals:
B*(t) is shown to be at least the largest k B_0 that is non-inferior (analysis/stats/fixed_order.py) and less than the
smallest that is shown to be beyond the margin. Each branch point has a test at its own level (2.5 % for either claim).

A branch with k = 1 whose examples come in another order is the noise level: its true d is 0, so its 95 % interval
excludes 0 at one branch point in twenty.

Traps: the answer is for this scaling of the rate, this window and this trunk. A short window favours small batches, as
a large one takes few steps in it. The last batch of an epoch may be smaller than k B_0, so keep k B_0 well below the
training set.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.batch_unit import BatchUnit
from analysis.data.load import CONFIGURATION, REPLICATE, SWITCH, Sweep, number_of
from analysis.data.metric import Metric
from analysis.stats.fixed_order import Boundary, boundary, boundary_words
from analysis.stats.means import Mean, mean_over_replicates
from analysis.stats.pairs import Floats
from analysis.stats.wording import counted, fixed, out_of, plain_number
from trainables.config import MEASURING
from trainables.runtime.errors import UserError
from trainables.units import ROUNDING, read_amount

SMOOTHED = 0.25  # of a branch, at its end, over which its loss is averaged
MARGIN = 0.01  # nats, the tolerance of Merrill et al.
_LENGTH = ("epochs", "budget", "evaluate_every")
LOSSES = ["at", "window", "batch_size", "is_noise", "replicate", "loss", "base"]
TRUNK = [name for name in CONFIGURATION if name not in {*SWITCH, *_LENGTH, *REPLICATE, *MEASURING}]


@dataclass(frozen=True)
class Branch:
    """`excess`: its smoothed loss minus the trunk's, of its `runs`; None where `diverged` of them diverged."""

    batch_size: int
    excess: Mean | None
    runs: int
    diverged: int


@dataclass(frozen=True)
class BranchPoint:
    """The branches after `at` epochs, each of `window` epochs. `noise`: k = 1 in another order minus k = 1.

    `noise_scale`: of the trunk's gradients there, in examples (`--noise-scale`); None where it is not known.
    """

    at: float
    window: float
    loss: Mean
    branches: tuple[Branch, ...]
    noise: Mean | None
    boundary: Boundary
    noise_scale: Mean | None = None

    @property
    def differs_from_itself(self) -> bool:
        """Whether k = 1 in another order is significantly another than k = 1: once in twenty where all is right."""
        return self.noise is not None and self.noise.interval is not None and not self.noise.interval.holds(0.0)


@dataclass(frozen=True)
class BranchedBatch:
    """All branch points in order. `rule`: how the branches' learning rate follows the batch (keep, sqrt, linear).

    `replicates`: of the trunk and the branches, of which some may lack a run.
    """

    replicates: int
    batch_size: int
    learning_rate: float
    rule: str
    margin: float
    unit: str
    train_size: int
    batch_unit: BatchUnit
    points: tuple[BranchPoint, ...]


def branched_batch(sweep: Sweep, margin: float | None = None) -> BranchedBatch:
    """The local critical batch of the branches in a results folder.

    Args:
        margin: what a batch size may lose, in units of the held-out loss; None for MARGIN where that is nats.

    Raises UserError where there are no branches, branches of several trunks, or no margin for a loss not in nats.
    """
    trunk, branches = _trunk_and_branches(sweep)
    first = branches.iloc[0]
    found = losses(sweep.epochs, trunk, branches)
    margin = margin_of(sweep.metric, margin)
    return BranchedBatch(
        replicates=len({*trunk["replicate"], *branches["replicate"]}),
        batch_size=int(first["batch_size"]),
        learning_rate=float(first["learning_rate"]),
        rule=first["switch_learning_rate"],
        margin=margin,
        unit=unit_of(sweep.metric),
        train_size=int(first["train_size"]),
        batch_unit=sweep.batch_unit,
        points=tuple(
            dataclasses.replace(point, noise_scale=noise_scale(sweep.epochs, trunk, point.at))
            for point in judged(found, margin)
        ),
    )


def margin_of(metric: Metric, margin: float | None) -> float:
    """The margin that is meant. Raises UserError for one that is not above 0, and where none is known."""
    if margin is None and not metric.loss_unit and "nats" not in metric.unit:
        raise UserError("`margin` must be given for a loss that is not in nats, in the unit of the loss")
    margin = MARGIN if margin is None else margin
    if not 0 < margin < np.inf:
        raise UserError(f"`margin` must be above 0, in the unit of the held-out loss, got {margin:g}")
    return margin


def unit_of(metric: Metric) -> str:
    """The unit of the held-out loss; empty where it is not known."""
    return metric.unit if "nats" in metric.unit else "nats" if metric.loss_unit else ""


def losses(epochs: pd.DataFrame, trunk: pd.DataFrame, branches: pd.DataFrame) -> pd.DataFrame:
    """The smoothed `loss` of each branch (NaN: it diverged) and that of its trunk, `base`; a row for each branch.

    With `at`, `window`, `batch_size`, `replicate` and `is_noise`, whether it is k = 1 in another order.

    Raises UserError where no trunk has losses to the end of a branch.
    """
    curves = {key: rows.sort_values("epoch") for key, rows in epochs.groupby("trial_id")}
    trunk = trunk[trunk["trial_id"].isin(curves)]  # a damaged folder has trials without a row of epochs.parquet
    trunks = trunk.drop_duplicates("replicate").set_index("replicate")["trial_id"].map(curves)
    rows = []
    for branch in branches.itertuples():
        completed = branch.status == "completed"
        if branch.replicate not in trunks.index or (completed and branch.trial_id not in curves):
            continue
        start, end = branch.at + (1 - SMOOTHED) * branch.window, branch.at + branch.window
        rows.append(
            {
                "at": branch.at,
                "window": branch.window,
                "batch_size": int(branch.switch_batch_size),
                "is_noise": branch.switch_batch_size == branch.batch_size,
                "replicate": branch.replicate,
                "loss": smoothed(curves[branch.trial_id], start, end) if completed else np.nan,
                "base": smoothed(trunks[branch.replicate], start, end),
            }
        )
    found = pd.DataFrame(rows, columns=LOSSES).dropna(subset="base")
    if found.empty:
        raise UserError(
            "`results` must hold the held-out losses of the trunk in epochs.parquet, got none for any branch"
        )
    return found


def smoothed(curve: pd.DataFrame, start: float, end: float) -> float:
    """The mean held-out loss between two epochs, on lines between evaluations; NaN where the run ends before, or where
    losses are too large for a mean.

    curve: rows of epochs.parquet of one trial, in order.
    """
    curve = curve[curve["test_loss"].notna()]  # elsewhere the test set was not evaluated
    at, values = curve["epoch"].to_numpy(np.float64), curve["test_loss"].to_numpy(np.float64)
    if not len(at) or at[-1] < end - ROUNDING:
        return float("nan")
    inside: Floats = np.concatenate([[start], at[(at > start) & (at < end)], [end]])
    line = np.interp(inside, at, values)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(((line[1:] + line[:-1]) / 2 * np.diff(inside)).sum() / (end - start))
    return mean if np.isfinite(mean) else float("nan")


def noise_scale(epochs: pd.DataFrame, trunk: pd.DataFrame, at: float) -> Mean | None:
    """The geometric mean of the trunk's noise scale after `at` epochs, over the replicates where |G|^2 is resolved."""
    rows = epochs[epochs["gradient_noise_scale_high"].notna() & (epochs["epoch"] <= at + ROUNDING)]
    last = rows.sort_values("epoch").groupby("trial_id")["gradient_noise_scale"].last()
    of_trunk = trunk.drop_duplicates("replicate")
    return mean_over_replicates(of_trunk.assign(scale=of_trunk["trial_id"].map(last)), "scale", scale="log")


def judged(found: pd.DataFrame, margin: float) -> tuple[BranchPoint, ...]:
    """The branch points of the rows of `losses`; of several windows at one epoch the longest."""
    points = []
    for at, rows in found.groupby("at"):
        rows = rows[rows["window"] == rows["window"].max()]
        rows = rows.assign(excess=rows["loss"] - rows["base"])
        larger, noise = rows[~rows["is_noise"]], rows[rows["is_noise"]]
        branches = []
        for size, own in larger.groupby("batch_size"):
            diverged = int(own["loss"].isna().sum())
            excess = None if diverged else mean_over_replicates(own, "excess")
            branches.append(Branch(int(size), excess, len(own), diverged))
        base = mean_over_replicates(rows.drop_duplicates("replicate"), "base")
        assert base is not None
        points.append(
            BranchPoint(
                at=float(at),
                window=float(rows["window"].max()),
                loss=base,
                branches=tuple(branches),
                noise=mean_over_replicates(noise, "excess") if len(noise) else None,
                boundary=boundary([(branch.batch_size, branch.excess) for branch in branches], margin),
            )
        )
    return tuple(points)


def planned_epochs(row: Mapping[str, Any]) -> float:
    """The epochs that a trial was to last; `row`: of trials.parquet, with a length in epochs or examples."""
    if pd.notna(row["epochs"]):
        return float(row["epochs"])
    return read_amount("budget", row["budget"]).in_epochs(row["train_size"])


def lines(found: BranchedBatch) -> list[str]:
    """The answer in words: for each branch point its boundary, then what every branch loses."""
    rate = {"keep": "the same learning rate", "sqrt": "learning rate times sqrt(k)", "linear": "learning rate times k"}
    batch = found.batch_unit.batch
    text = [
        f"Local critical batch of a trunk at batch {batch(found.batch_size)}, learning rate {found.learning_rate:g}: "
        f"branches at k times the batch and {rate[found.rule]}, {counted(found.replicates, 'replicates')}. "
        f"Held-out loss, averaged over the last {100 * SMOOTHED:.0f} % of each branch, against k = 1; "
        f"margin {_amount(found, found.margin)}.",
    ]
    for point in found.points:
        branches = f"branches of {_epochs(point.window)}"
        start = f"After {_epochs(point.at)}{_tokens(found, point.at)} (loss {point.loss.value:.4g}; {branches})"
        text.append(f"{start}, within the margin: {boundary_words(point.boundary, batch)}.")
        for branch in point.branches:
            lost = f"{branch.diverged} of {branch.runs} runs diverged"
            excess = (
                lost if branch.excess is None else f"{_signed(branch.excess)}{out_of(branch.excess, found.replicates)}"
            )
            text.append(f"  batch {batch(branch.batch_size)}: {excess}")
        if point.noise_scale is not None:
            text.append(f"  gradient noise scale of the trunk: {_scale(found, point.noise_scale)}")
        if point.noise is not None:
            alarm = ", significant: expected once in 20 branch points" if point.differs_from_itself else ""
            order = f"{_signed(point.noise)}{out_of(point.noise, found.replicates)}"
            text.append(f"  batch {batch(found.batch_size)} in another order: {order}{alarm}")
    return text


def _epochs(value: float) -> str:
    return f"{plain_number(value)} epoch{'s' * (value != 1)}"


def _tokens(found: BranchedBatch, epochs: float) -> str:
    per_example = found.batch_unit.tokens
    return "" if per_example is None else f", {plain_number(epochs * found.train_size * per_example)} tokens"


def _amount(found: BranchedBatch, value: float) -> str:
    return f"{value:g} {found.unit}".strip()


def _scale(found: BranchedBatch, mean: Mean) -> str:
    ends = ""
    if mean.interval is not None:
        ends = f" (95 % CI {plain_number(mean.interval.low)} to {plain_number(mean.interval.high)})"
    return f"{plain_number(mean.value)} {found.batch_unit.examples}{ends}"


def _signed(mean: Mean) -> str:
    interval = mean.interval
    ends = " (no interval)"
    if interval is not None:
        ends = f" (95 % CI {fixed(interval.low, 4, plus=True)} to {fixed(interval.high, 4, plus=True)})"
    return f"{fixed(mean.value, 4, plus=True)}{ends}"


def _trunk_and_branches(sweep: Sweep) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trunk's trials, the longest of each replicate first, and the branches with `at` and `window`."""
    trials = sweep.trials[sweep.trials["decay"].isna() & sweep.trials["status"].isin(["completed", "diverged"])]
    trials = trials.assign(replicate=number_of(trials, REPLICATE), trunk=number_of(trials, TRUNK))
    branches = trials[trials["switch_epoch"].notna() & trials["switch_optimizer_state"].eq("keep")]
    trunk = trials[trials["switch_epoch"].isna() & trials["status"].eq("completed")]
    branches = branches[branches["trunk"].isin(trunk["trunk"])]
    if branches.empty:
        raise UserError(
            f"`results` must hold branches and the trunk that they leave, got none in {sweep.folder}; "
            "python sweeps/branched_batch.py makes them"
        )
    of_one = branches.groupby(["trunk", "switch_learning_rate"]).ngroups == 1
    if not of_one:
        raise UserError(
            f"`results` must hold the branches of one trunk and one rule for the learning rate, got several in "
            f"{sweep.folder}; give each a --name of its own"
        )
    trunk = trunk[trunk["trunk"] == branches["trunk"].iloc[0]].sort_values("epochs_done", ascending=False)
    window = [planned_epochs(row) for row in branches.to_dict("records")] - branches["switch_epoch"]
    return trunk, branches.assign(at=branches["switch_epoch"], window=window.round(9))
