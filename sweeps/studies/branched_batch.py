"""The trials of sweeps/branched_batch.py: a trunk and its branches, then the schedule against other ways to train.

A branch is an ordinary trial: batch B_0 up to a switch at t, then k B_0 with the optimizer's state kept and the
learning rate scaled. With the trunk's seed it is the trunk up to t, to the last bit, so it is resumed and identified
like any other trial. Where t is a logging point of the trunk, branches start from the state that the trunk left there
(trainables/tune/tune_trial.py); elsewhere they repeat the trunk's updates up to t.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from analysis.questions.batch_schedule import ARMS, HALVINGS, Schedule
from sweeps.plan.grid import expand
from sweeps.plan.units import batch_sizes_of, tokens_of_example
from sweeps.studies.study import check_factors, grid_of, metric_of, resuming, run_study, source_of
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath
from trainables.units import ROUNDING, Amount, epochs_after, in_examples, read_amount, steps_to

LEAST_UPDATES = 4  # of the largest batch in a branch
EVALUATIONS = 8  # of a branch
OTHER_ORDER = 1_000_000  # added to the seed for the order of a branch with k = 1


def run_branched_batch(options: argparse.Namespace) -> int:
    """Runs what `sweeps.cli.branched_options.parse` has read; returns the exit status."""
    from analysis.data.load import load_sweep
    from analysis.questions.batch_schedule import proposed
    from analysis.questions.branched_batch import branched_batch, margin_of
    from analysis.reporting.branched_batch import report

    source = source_of(options, options.dataset)
    margin_of(metric_of(source.task), options.margin)
    branches = Branches(options, source)
    trials = branches.trials()
    schedules: list[Schedule] = []

    def finish(folder: AnyPath, console: Any) -> None:
        sweep = load_sweep(folder)
        if options.run_schedule and not schedules:
            schedule = proposed(branched_batch(sweep, options.margin))
            if schedule is not None:
                schedules.append(schedule)
                return  # the second run says all
        console.print()
        for line in report(sweep, options.margin):
            console.print(line, soft_wrap=True)

    status = run_study(trials, source, options, finish)
    if options.dry_run and options.run_schedule:
        count = f"{len(ARMS) * len(options.seeds)} trials"
        print(f"then {count} by the schedule that follows from these, at constant batches and by Seesaw")
    if not schedules or status not in (0, 1):
        return status
    more = branches.ways_to_train(schedules[0])
    return max(status, run_study([*trials, *more], source, resuming(options), finish))


class Branches:
    """The trials that the options ask for. Raises UserError for amounts that do not fit the data or each other."""

    def __init__(self, options: argparse.Namespace, source: Source) -> None:
        self.options = options
        self._tokens = tokens_of_example(source)
        self._source = source
        (self._batch_size,) = batch_sizes_of(options.batch_sizes, source)
        self._train_size = source.sizes(options.train_size, options.test_size, options.held_out or 0)[0]
        self.window = self._epochs("window", options.window)
        points = (self._epochs("branch-at", amount) for amount in options.branch_at)
        self.at = sorted({self._at_update(epochs) for epochs in points})
        check_factors(options.factors, self._batch_size, self._train_size)
        largest = max(options.factors) * self._batch_size
        if self.window * self._train_size < LEAST_UPDATES * largest:
            raise UserError(
                f"`--window` must hold {LEAST_UPDATES} updates of the largest batch ({largest}), got "
                f"{options.window.words} ({self.window * self._train_size:.0f} examples); lengthen it or leave out the "
                "largest of --factors"
            )
        name = options.optimizer[0][0]
        self.rule = options.scale_learning_rate or ("linear" if name == "sgd" else "sqrt")

    def trials(self) -> list[TrialConfig]:
        """The trunk of every seed, then the branches of every seed, k = 1 in another order among them."""
        trunks = self._trunks(self.options.seeds, self.at[-1] + self.window)
        branches = [branch for trunk in trunks for at in self.at for branch in self._at(trunk, at)]
        return [*trunks, *branches]

    def ways_to_train(self, schedule: Schedule) -> list[TrialConfig]:
        """The schedule, both constant batches and Seesaw, each with fresh seeds (analysis/questions/batch_schedule)."""
        options, first = self.options, max(self.options.seeds) + 1
        length = self._length() or self.at[-1] + self.window
        decay = {
            "decay": "step",
            "decay_factor": 0.5,
            "decay_epochs": ",".join(self._examples(share * length) for share in HALVINGS),
        }
        text, size = schedule.text(self._train_size), schedule.largest
        scaled = (
            {} if self.rule == "keep" else {"learning_rate_scaling": self.rule, "base_batch_size": self._batch_size}
        )
        ways: Sequence[dict[str, Any]] = (
            decay,
            {**decay, "batch_schedule": text, "switch_learning_rate": self.rule},
            {**decay, **scaled, "batch_size": size},
            {**decay, "decay_by": "seesaw"},
        )
        trunks = self._trunks(range(first, first + len(options.seeds)), length)
        return [dataclasses.replace(trunk, **way) for trunk in trunks for way in ways]

    def _trunks(self, seeds: Sequence[int], length: float) -> list[TrialConfig]:
        own = argparse.Namespace(**{**vars(self.options), "seeds": seeds, "epochs": None})
        own.budget = self._examples(length)
        every = self.options.evaluate_every
        own.evaluate_every = f"{self.window / EVALUATIONS:.12f}epochs" if every is None else str(every)
        return expand(grid_of(own, self._source), self._source)

    def _at(self, trunk: TrialConfig, at: float) -> list[TrialConfig]:
        def branch(size: int, **changes: Any) -> TrialConfig:
            return dataclasses.replace(
                trunk,
                epochs=None,
                budget=self._examples(at + self.window),
                switch_epoch=at,
                switch_batch_size=size,
                switch_learning_rate=self.rule,
                switch_optimizer_state="keep",
                **changes,
            )

        sizes = [factor * trunk.batch_size for factor in sorted(set(self.options.factors))]
        return [
            branch(trunk.batch_size, switch_order_seed=trunk.seed + OTHER_ORDER),
            *(branch(size) for size in sizes),
        ]

    def _length(self) -> float | None:
        """Epochs of the ways to train, where --epochs or --budget says so."""
        if self.options.epochs is not None:
            return float(self.options.epochs)
        return None if self.options.budget is None else self._epochs("budget", self.options.budget)

    def _epochs(self, name: str, amount: Amount) -> float:
        """`amount` in epochs; steps are the trunk's."""
        amount = in_examples(name, amount, self._tokens)
        if amount.unit == "steps":
            return epochs_after(int(amount.value), self._train_size, self._batch_size)
        return amount.in_epochs(self._train_size)

    def _at_update(self, epochs: float) -> float:
        """The epochs done after the trunk's update that comes to `epochs`."""
        size = self._batch_size
        return epochs_after(steps_to(epochs, self._train_size, size), self._train_size, size)

    def _examples(self, epochs: float) -> str:
        examples = max(1, math.ceil((epochs - ROUNDING) * self._train_size))
        return str(read_amount("budget", f"{examples}examples"))
