"""How long a trial trains, and where in it warmup, switch and decay lie: the part of TrialConfig about amounts.

A trial ends after whole epochs, or with the first update that reaches its `budget`. Steps are kept as steps: at another
batch size they are other examples, and trials with the same budget are compared. Conversions between steps and epochs
are at the trial's own `batch_size`.
"""

import math
from typing import Any

from trainables.remedies import GROWING, Remedies, at_least_zero, decay_length, require
from trainables.runtime.errors import UserError
from trainables.units import KEPT, ROUNDING, Amount, epochs_after, read_amount, steps_per_epoch, steps_to

TIMES_TRAINED = 10  # see train_loss_examples
LEAST_EVALUATED = 1000


class Duration(Remedies):
    """What TrialConfig has its fields for, as properties; a mixin without fields of its own."""

    train_size: int
    batch_size: int
    warmup_epochs: float
    warmup_steps: int | None
    switch_epoch: float | None
    epochs: int | None
    budget: str | None
    evaluate_every: str | None
    target_loss: float | None
    target_metric: float | None
    target_test_loss: float | None

    @property
    def has_target(self) -> bool:
        """Whether the trial may end before its `length`."""
        return self.target_loss is not None or self.has_held_out_target

    @property
    def has_held_out_target(self) -> bool:
        """Whether the test set, or the validation examples in its place, may end the trial."""
        return self.target_metric is not None or self.target_test_loss is not None

    @property
    def planned(self) -> Amount:
        """The most training that was asked for: `budget`, or `epochs`."""
        return Amount(self.epochs, "epochs") if self.epochs else read_amount("budget", self.budget or "", allowed=KEPT)

    @property
    def length(self) -> Amount:
        """The most training of the whole trial: `planned`, or that of a shorter decay, at whose end it ends.

        With `same_steps` the fewest epochs that have at least the steps that these have at the base batch size.
        """
        length = self._decay_length or self.planned
        if self.same_steps and self.base_batch_size is not None and length.unit != "steps":
            steps = steps_to(length.in_epochs(self.train_size), self.train_size, self.base_batch_size)
            return Amount(math.ceil(steps / steps_per_epoch(self.train_size, self.batch_size)), "epochs")
        return length

    @property
    def train_loss_examples(self) -> int | None:
        """How many training examples the training loss is evaluated on; None for all, as always for a target loss.

        It is some of them where all are more than TIMES_TRAINED times as many as a trial trains on from one logging
        point to the next: as many as that, and LEAST_EVALUATED at least. Evaluating would take much longer than
        training otherwise, and of data larger than the memory all would be read each time.
        """
        trained = min(self.examples_of(self.every), self.examples_of(self.length))
        if self.target_loss is not None or self.train_size <= max(LEAST_EVALUATED, TIMES_TRAINED * trained):
            return None
        return max(LEAST_EVALUATED, trained)

    @property
    def every(self) -> Amount:
        """What a trial trains between two logging points."""
        return read_amount("evaluate_every", self.evaluate_every or "1epochs", allowed=KEPT)

    def examples_of(self, amount: Amount) -> int:
        """The examples that `amount` takes at `batch_size`."""
        steps, examples = amount.as_bounds(self.train_size)
        return int(min(steps * self.batch_size, examples))

    @property
    def _decay_length(self) -> Amount | None:
        return decay_length(self.decay_epochs, self.decay or "") if self.has_decay_length else None

    @property
    def total_epochs(self) -> float:
        """`length` in epochs; of one in steps, those at `batch_size`."""
        length = self.length
        if length.unit == "steps":
            return epochs_after(int(length.value), self.train_size, self.batch_size)
        return length.in_epochs(self.train_size)

    @property
    def warmup_end(self) -> float:
        """Where the warmup ends, in the unit of `length` (steps, or else epochs), at `batch_size`; not stretched."""
        if self.warmup_steps is None:
            return self.in_length(Amount(self.warmup_epochs, "epochs"))
        return self.in_length(Amount(self.warmup_steps, "steps"))

    def in_length(self, amount: Amount) -> float:
        """`amount` in the unit of `length`, steps or else epochs, at `batch_size`."""
        if (self.length.unit == "steps") == (amount.unit == "steps"):
            return amount.value if amount.unit == "steps" else amount.in_epochs(self.train_size)
        if amount.unit == "steps":
            return epochs_after(int(amount.value), self.train_size, self.batch_size)
        return self._steps_to(amount.in_epochs(self.train_size))

    def _steps_to(self, epochs: float) -> int:
        return steps_to(epochs, self.train_size, self.batch_size)

    @property
    def stretch(self) -> float:
        """By how much `same_steps` lengthens every epoch count of the configuration: warmup, decay."""
        if self.same_steps and self.base_batch_size is not None:
            own, base = (steps_per_epoch(self.train_size, size) for size in (self.batch_size, self.base_batch_size))
            return base / own
        return 1.0

    def check_duration(self) -> None:
        """Raises UserError for amounts that are out of range, or do not fit each other."""
        if (self.epochs is None) == (self.budget is None):
            raise UserError(
                "`epochs` must be given, or a budget in its place, got " + ("both" if self.epochs else "none")
            )
        require("epochs", self.epochs, self.epochs is None or self.epochs >= 1, "be at least 1")
        for name in ("budget", "evaluate_every"):
            if (text := getattr(self, name)) is not None:
                read_amount(name, text, allowed=KEPT)
        require("warmup_epochs", self.warmup_epochs, at_least_zero(self.warmup_epochs), "be a number of 0 or more")
        if self.warmup_steps is not None:
            require("warmup_steps", self.warmup_steps, self.warmup_steps >= 1, "be 1 or more")
            require("warmup_epochs", self.warmup_epochs, self.warmup_epochs == 0, "be 0 with warmup_steps")
        require(
            "switch_epoch",
            self.switch_epoch,
            self.switch_epoch is None or at_least_zero(self.switch_epoch),
            "be 0 or more, or none",
        )
        if self.same_steps and self.budget is not None:
            raise UserError("`same_steps` cannot be used with a budget; one in steps is the same at every batch size")
        self._check_warmup()
        if self.has_decay_length:
            self._check_decay_length()

    def _check_warmup(self) -> None:
        if self.warmup_steps is None and self.budget is None:
            rule = f"be between 0 and `epochs` ({self.epochs})"
            require("warmup_epochs", self.warmup_epochs, self.warmup_epochs <= (self.epochs or 0), rule)
        elif self.warmup_end > self.in_length(planned := self.planned):
            text = f"{self.warmup_epochs:g} epochs" if self.warmup_steps is None else f"{self.warmup_steps} steps"
            raise UserError(
                f"`warmup` must be at most the length of the trial ({planned.words}) at batch size {self.batch_size}, "
                f"got {text}"
            )

    def _check_decay_length(self) -> None:
        """A decay must end within the trial; up to the cap of a target the learning rate would hardly decay."""
        length = self._decay_length
        if length is None and self.has_target:
            example = max(1, (self.epochs or 10) // 10)
            raise UserError(
                f"`decay` {self.decay} needs its length with a target loss or metric, which ends a trial before its "
                f"{self.planned.words}: add decay_epochs, such as decay={self.decay},decay_epochs={example}"
            )
        if length is not None and not self.warmup_end < self.in_length(length) <= self.in_length(self.planned):
            raise UserError(
                f"`decay_epochs` of decay={self.decay} must be longer than the warmup and at most "
                f"{f'`epochs` ({self.epochs})' if self.epochs else self.planned.words}, got {self.decay_epochs}"
            )

    def canonical_amounts(self) -> dict[str, Any]:
        """Whole epochs as `epochs`, rows by the epoch as `1epochs`, whole numbers as int."""
        changes: dict[str, Any] = {}
        if self.budget is not None:
            budget = self.planned
            epochs = 0.5 if budget.unit == "steps" else budget.in_epochs(self.train_size)
            whole = epochs == int(epochs)
            changes |= {"epochs": int(epochs), "budget": None} if whole else {"budget": str(budget)}
        if self.evaluate_every is not None:
            every = read_amount("evaluate_every", self.evaluate_every)
            is_epoch = every.unit != "steps" and every.in_epochs(self.train_size) == 1
            changes["evaluate_every"] = "1epochs" if is_epoch else str(every)
        if self.switch_epoch is not None and self.switch_epoch == int(self.switch_epoch):
            changes["switch_epoch"] = int(self.switch_epoch)
        return changes

    def without_what_never_acts(self) -> dict[str, Any]:
        """What averages of ends of epochs, and local steps, are called where they change no number of the longest
        training: off, or the least that means the same.
        """
        changes: dict[str, Any] = {}
        changes_size = self.switch_epoch is not None or self.batch_schedule is not None or self.decay_by in GROWING
        if self.length.unit == "steps" and changes_size:
            return changes  # the epochs of the training are not known
        ends = math.ceil(self.total_epochs - ROUNDING)  # of epochs; of the last one the training may reach only a part
        start = 0.0 if self.average == "lawa" else float(math.floor(self.average_from or 0))
        if self.average in ("swa", "lawa") and start >= ends - 1:
            changes |= {"average": None, "average_from": None, "average_last": None}
        elif self.average == "swa":
            changes["average_from"] = start
        elif self.average == "lawa":
            changes["average_last"] = min(self.average_last or ends, ends)
        if self.local_workers == 1 or (self.local_from is not None and self.local_from >= self.total_epochs - ROUNDING):
            changes |= {"local_workers": None, "local_steps": None, "local_from": None}
        return changes
