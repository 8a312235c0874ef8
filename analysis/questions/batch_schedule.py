"""The batch schedule that local critical batches imply, and what it costs against other ways to train.

At each branch point the batch is the largest that is shown to be non-inferior there (B_0 where none is), until the next
branch point. The learning rate follows the batch as in the branches. The schedule assumes what branches cannot show:
that B*(t) holds until the next branch point, and on the schedule's own path, which leaves the trunk's.

It is run, at equal examples and with fresh seeds, against

    constant small   B_0 throughout
    constant large   the largest batch of the schedule throughout, its rate scaled as in the branches
    Seesaw           B_0, but where the others halve the rate, the rate is divided by sqrt(2) and the batch doubles
                     (Meterez et al. 2025, arXiv 2510.14717)

In all four the rate is halved where a cosine would come to 1/2, 1/4 and 1/8 of the peak: Seesaw acts on a decay, so the
others have the same one.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.data.load import REPLICATE, Sweep, number_of
from analysis.questions.branched_batch import BranchedBatch, planned_epochs
from analysis.stats.means import Mean, mean_over_replicates
from analysis.stats.wording import counted, fixed, out_of
from trainables.storage.folders import write_atomically
from trainables.units import Amount

HALVINGS = tuple(math.acos(2 * 0.5**times - 1) / math.pi for times in (1, 2, 3))  # of the trial: (1 + cos(pi p)) / 2
ARMS = ("constant small", "schedule", "constant large", "Seesaw")


@dataclass(frozen=True)
class Schedule:
    """From `at` epochs on the batch size of each of the `stages`, (at, batch size); before the first B_0."""

    stages: tuple[tuple[float, int], ...]

    @property
    def largest(self) -> int:
        return max(size for _, size in self.stages)

    def text(self, train_size: int) -> str:
        """In the syntax of `batch_schedule`: epochs, or examples where a stage begins within one."""
        whole = all(at == int(at) for at, _ in self.stages)
        amounts = [f"{at:.0f}" if whole else str(Amount(round(at * train_size), "examples")) for at, _ in self.stages]
        return ",".join(f"{amount}:{size}" for amount, (_, size) in zip(amounts, self.stages, strict=True))


@dataclass(frozen=True)
class Arm:
    """One way to train: optimizer `steps`, final held-out `loss`, and by how much it is above constant small's.

    `excess` is None where `diverged` of its `runs` diverged; steps and loss are of the others, None where all did.
    """

    name: str
    steps: float | None
    loss: Mean | None
    excess: Mean | None
    runs: int
    diverged: int


def proposed(found: BranchedBatch) -> Schedule | None:
    """The schedule of the batch sizes that are shown to be non-inferior; None where that is B_0 throughout."""
    stages, now = [], found.batch_size
    for point in found.points:
        size = point.boundary.within or found.batch_size
        if size != now:
            stages.append((point.at, size))
        now = size
    return Schedule(tuple(stages)) if stages else None


def as_json(found: BranchedBatch, schedule: Schedule) -> str:
    """The schedule for other trainers: a stage's batch size and learning rate, and where it begins."""
    exponent = {"keep": 0.0, "sqrt": 0.5, "linear": 1.0}[found.rule]
    stages: list[dict[str, Any]] = []
    for at, size in ((0.0, found.batch_size), *schedule.stages):
        examples = round(at * found.train_size)
        factor = (size / found.batch_size) ** exponent
        tokens = found.batch_unit.tokens
        stages.append(
            {
                "from_epoch": at,
                "from_example": examples,
                **({} if tokens is None else {"from_token": examples * tokens, "batch_tokens": size * tokens}),
                "batch_size": size,
                "learning_rate": found.learning_rate * factor,
                "learning_rate_factor": factor,
            }
        )
    return json.dumps({"learning_rate_rule": found.rule, "margin": found.margin, "stages": stages}, indent=1) + "\n"


def write_schedule(sweep: Sweep, found: BranchedBatch, schedule: Schedule) -> str:
    """Leaves `batch_schedule.json` in the results folder; returns the line that says so."""
    path = sweep.folder / "batch_schedule.json"
    write_atomically(path, as_json(found, schedule).encode())
    scale = "" if found.rule == "keep" else f" --switch-learning-rate {found.rule}"
    return (
        f"Proposed: --batch-sizes {found.batch_size} --remedies batch_schedule={schedule.text(found.train_size)}"
        f"{scale} ({path})"
    )


def arms(sweep: Sweep, found: BranchedBatch, schedule: Schedule) -> tuple[Arm, ...]:
    """The ways to train that were run beside this schedule; empty where it was not run, or constant small was not."""
    trials = sweep.trials[sweep.trials["decay"].eq("step") & sweep.trials["status"].isin(["completed", "diverged"])]
    if trials.empty:
        return ()
    rows = trials.to_dict("records")
    names, planned = [_arm(row, found, schedule) for row in rows], [planned_epochs(row) for row in rows]
    frame = trials.assign(arm=names, planned=planned, replicate=number_of(trials, REPLICATE))
    longest = frame.loc[frame["arm"] == ARMS[1], "planned"].max()
    frame = frame[frame["planned"] == longest]
    by_arm = {name: frame[frame["arm"] == name] for name in ARMS}
    if by_arm[ARMS[0]].empty or by_arm[ARMS[1]].empty:
        return ()
    ended = frame[frame["status"] == "completed"]
    small = ended[ended["arm"] == ARMS[0]].set_index("replicate")["test_loss"]
    found_arms = []
    for name, every in by_arm.items():
        own = every[every["status"] == "completed"]
        own = own.assign(excess=own["test_loss"] - own["replicate"].map(small))
        if len(every):
            diverged, steps = len(every) - len(own), float(own["steps"].mean()) if len(own) else None
            excess = None if name == ARMS[0] or diverged else mean_over_replicates(own, "excess")
            found_arms.append(Arm(name, steps, mean_over_replicates(own, "test_loss"), excess, len(every), diverged))
    return tuple(found_arms)


def arm_lines(found: BranchedBatch, run: tuple[Arm, ...]) -> list[str]:
    """What each way to train costs in steps and in held-out loss."""
    if not run:
        return ["This schedule was not trained; sweeps/branched_batch.py --resume --run-schedule trains it."]
    replicates = max(arm.runs for arm in run)
    text = [
        f"At equal examples, {counted(replicates, 'fresh replicates')}, the learning rate halved three times; held-out "
        f"loss at the end{f' [{found.unit}]' if found.unit else ''}:"
    ]
    for arm in run:
        parts = [] if arm.loss is None else [counted(f"{arm.steps:.0f}", "steps"), f"loss {arm.loss.value:.4f}"]
        if arm.diverged:
            parts.append(f"{arm.diverged} of {arm.runs} runs diverged")
        elif arm.excess is not None:
            parts.append(f"{_against(arm.excess, found.margin)}{out_of(arm.excess, replicates)}")
        text.append(f"  {arm.name}: {', '.join(parts)}")
    return text


def _against(excess: Mean, margin: float) -> str:
    shown = fixed(excess.value, 4, plus=True)
    if excess.interval is None:
        return f"{shown} against constant small (no interval)"
    low, high = excess.interval.low, excess.interval.high
    verdict = "undecided"
    if high < margin:
        verdict = "better" if high < 0 else "no worse within the margin"
    elif low > margin:
        verdict = "worse by more than the margin"
    elif low > 0:
        verdict = "worse; whether by more than the margin is open"
    return (
        f"{shown} against constant small (95 % CI {fixed(low, 4, plus=True)} to {fixed(high, 4, plus=True)}: {verdict})"
    )


def _arm(row: dict[str, Any], found: BranchedBatch, schedule: Schedule) -> str | None:
    is_small, is_plain = row["batch_size"] == found.batch_size, pd.isna(row["batch_schedule"])
    if row["decay_by"] == "seesaw":
        return ARMS[3] if is_small else None
    if not is_plain:
        return ARMS[1] if row["batch_schedule"] == schedule.text(found.train_size) and is_small else None
    if is_small:
        return ARMS[0]
    return ARMS[2] if row["batch_size"] == schedule.largest else None
