"""What a trial is: every choice that can change its numbers, and the key that follows from them.

Where a trial runs (device, threads, folders) is not here: the same configuration is the same trial on every
machine. `trial_id` is a hash of everything that affects the training: the canonical configuration, the data's
contents, the source of a user's own model, and NUMBERS_VERSION. So a sweep that is resumed or widened finds the
trials that it has already run, and nothing stale is reused. What is measured (the fields of MEASURING) is not part of
the hash: measuring more extends the rows of a trial that is already trained.

Two configurations that describe the same run have one canonical form (`TrialConfig.canonical`): a switch to
the batch size already in force, or after the last epoch, is no switch; a switch before the first epoch is a
run at the other batch size; momentum means nothing to Adam. What goes beyond plain training at one batch size is
in trainables.remedies.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from trainables.duration import Duration
from trainables.line_search import LineSearch
from trainables.measuring import ALONG_THE_RUN, OF_STEPS, Measuring
from trainables.optimizer_settings import FULL_BATCH_OPTIMIZERS as FULL_BATCH_OPTIMIZERS
from trainables.optimizer_settings import LINE_SEARCH_OPTIMIZERS as LINE_SEARCH_OPTIMIZERS
from trainables.optimizer_settings import OPTIMIZERS as OPTIMIZERS
from trainables.optimizer_settings import PROGRESSIVE as PROGRESSIVE
from trainables.optimizer_settings import options_label, read_options, read_parameter_groups, require_optimizer
from trainables.remedies import (
    AVERAGES,
    DECAY_SHARE,
    DECAYED,
    GROWING,
    OFF,
    PARTS_OF_UPDATE,
    STEP_DECAY_FACTOR,
    Remedies,
    at_least_zero,
    batch_schedule,
    positive,
    remedy_of,
    require,
    require_choice,
    svrg_amount,
)
from trainables.runtime.errors import UserError
from trainables.trial_id import trial_key
from trainables.units import largest_batch

NUMBERS_VERSION = 9  # raise it when a change of this code changes the numbers of an unchanged configuration

DEFAULT_MEASURES = ("box_sharpness", "hessian_max_eig")  # those of trials.parquet
PRECISIONS = ("float32", "bfloat16")  # of training; bfloat16: products under autocast, all else in float32
LARGE_NETWORK = 1_000_000  # parameters, from which on `auto` is float32, where that agrees
DEFAULT_MOMENTUM = 0.9
SWITCH_LEARNING_RATES = ("keep", "linear", "sqrt")
SWITCH_OPTIMIZER_STATES = ("reset", "keep")


@dataclass(frozen=True, kw_only=True)
class TrialConfig(Measuring, Duration, LineSearch, Remedies):
    """One cell of the grid. Raises UserError for a value out of range.

    `epochs` is the number of passes over the training set, and null where a `budget` such as 100steps or 5000examples
    says how long a trial trains, to the first update that reaches it. Either is a cap when `target_loss` (nats per
    example, on the whole training set, clean, in eval mode), `target_metric` or `target_test_loss` (the task's primary
    metric, or the loss, on the test set, or on the validation examples in its place) ends the trial earlier. The
    network is evaluated, and a row of epochs.parquet written, after every epoch or `evaluate_every` (such as 100steps),
    and at the end (of a large training set on `train_loss_examples`). Warmup lasts `warmup_epochs` or `warmup_steps`.
    After `switch_epoch` epochs, which may be fractional, the trial goes on at `switch_batch_size`, with its learning
    rate kept or scaled by the ratio of the batch sizes (`linear`) or its root (`sqrt`), and with the optimizer's state
    `reset` or kept. A `switch_order_seed` draws another order of the examples from there on. `precision` is that of
    training alone: evaluation is in float32, and measures are in `measure_dtype` (`auto`: see
    trainables.measures.by_name.in_dtype). `measures` are the names, joined by commas, of what is measured at the end,
    on `measure_examples` of the training examples, with batch norm in the mode `measure_batch_norm` (see
    trainables.sharpness.model_loss); `batch` has a batch size. They are measured along the run too, after every
    `measure_every` epochs, or as often as stays within `measure_share` of the training time. `noise_scale` follows the
    gradient noise scale of the steps, over the layers of NOISE_SCALES. With a `validation_size` so many of the training
    examples are held out and take the place of the test set, which such a trial never sees. On a test set of images
    changed by each of `shifts` (names of SHIFTS, joined by commas) the final network is evaluated too. `rescaling` is a
    placebo: measures see the network with its layers rescaled by this factor, which computes the same
    (trainables.measures.placebo).
    `trial` is a class of the user's own, whose steps train (trainables.training.own_step).
    `task` is a name of trainables.tasks or `package.module:Class`, None the dataset's own. `task_fingerprint` hashes
    the source of a task of the user's own.
    """

    dataset: str
    data_fingerprint: str
    train_size: int
    test_size: int
    split_seed: int | None = None
    validation_size: int | None = None
    task: str | None = None
    task_fingerprint: str | None = None
    trial: str | None = None
    trial_fingerprint: str | None = None
    model: str = "mlp"
    model_options: str = "{}"
    model_fingerprint: str | None = None
    optimizer: str = "adam"
    optimizer_options: str = "{}"
    optimizer_fingerprint: str | None = None
    parameter_groups: str | None = None
    learning_rate: float
    momentum: float | None = None
    weight_decay: float = 0.0
    batch_size: int
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None
    switch_epoch: float | None = None
    switch_batch_size: int | None = None
    switch_learning_rate: str | None = None
    switch_optimizer_state: str | None = None
    switch_order_seed: int | None = None
    epochs: int | None = None
    budget: str | None = None
    evaluate_every: str | None = None
    target_loss: float | None = None
    target_metric: float | None = None
    target_test_loss: float | None = None
    precision: str = PRECISIONS[0]
    seed: int = 0
    measure_examples: int
    measure_dtype: str = "float64"
    measures: str = ",".join(DEFAULT_MEASURES)
    measure_batch_norm: str = "running"
    measure_batch_size: int | None = None
    measure_every: int | None = None
    measure_share: float | None = None
    shifts: str | None = None
    rescaling: float | None = None
    noise_scale: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in vars(self).items():
            if isinstance(value, int):
                require(name, value, abs(value) < 2**63, "fit into 64 bits")
        require_optimizer(self.optimizer)
        read_options(self.optimizer_options)
        read_parameter_groups(self.parameter_groups)
        require_choice("precision", self.precision, PRECISIONS)
        require_choice("switch_learning_rate", self.switch_learning_rate, (None, *SWITCH_LEARNING_RATES))
        require_choice("switch_optimizer_state", self.switch_optimizer_state, (None, *SWITCH_OPTIMIZER_STATES))
        require("train_size", self.train_size, self.train_size >= 1, "be at least 1")
        require("test_size", self.test_size, self.test_size >= 1, "be at least 1")
        require("seed", self.seed, self.seed >= 0, "be 0 or more")
        require("split_seed", self.split_seed, self.split_seed is None or self.split_seed >= 0, "be 0 or more")
        require("learning_rate", self.learning_rate, positive(self.learning_rate), "be a number above 0")
        require("weight_decay", self.weight_decay, at_least_zero(self.weight_decay), "be a number of 0 or more")
        if self.momentum is not None:
            require("momentum", self.momentum, 0 <= self.momentum < 1, "be in [0, 1)")
        if self.target_loss is not None:
            require("target_loss", self.target_loss, positive(self.target_loss), "be a number above 0")
        for name in ("target_metric", "target_test_loss"):
            if (target := getattr(self, name)) is not None:
                require(name, target, math.isfinite(target), "be a number")
        for name, size in (("batch_size", self.batch_size), ("switch_batch_size", self.switch_batch_size)):
            if size is not None:
                require(
                    name,
                    size,
                    1 <= size <= self.train_size,
                    f"be between 1 and the {self.train_size} training examples",
                )
        self.check_measuring()
        if self.validation_size is not None:
            require("validation_size", self.validation_size, self.validation_size >= 1, "be 1 or more")
        if self.switch_epoch is not None and self.switch_batch_size is None:
            raise UserError("`switch_batch_size` must be given with `switch_epoch`, got none")
        if (order := self.switch_order_seed) is not None:
            rule = "be 0 or more, with a switch after the start"
            require("switch_order_seed", order, order >= 0 and bool(self.switch_epoch), rule)
        self.check_duration()
        self._check_combinations()

    def _check_own_step(self) -> None:
        """Parts of an update that a step of the user's own takes the place of."""
        carries_a_rate = self.optimizer in OPTIMIZERS and self.optimizer not in LINE_SEARCH_OPTIMIZERS
        parts = [] if carries_a_rate else [f"optimizer {self.optimizer}"]
        options = ("parameter_groups", "rescaling", "shifts", "noise_scale", "average", "local_workers")
        parts += [name for name in options if getattr(self, name) is not None]
        parts += [name for name in PARTS_OF_UPDATE if getattr(self, name) != OFF[name]]
        parts += [name for name in self.measures.split(",") if name in OF_STEPS]
        if parts:
            raise UserError(
                f"`{parts[0]}` cannot be used with --trial, because your own step replaces it; leave it out"
            )

    def _check_combinations(self) -> None:
        """Parts that cannot act together, each in one line."""
        if self.trial is not None:
            self._check_own_step()
        for _, size in batch_schedule(self.batch_schedule):
            require(
                "batch_schedule", size, size <= self.train_size, f"stay within the {self.train_size} training examples"
            )
        growing = [name for name in ("switch_epoch", "batch_schedule") if getattr(self, name) is not None]
        growing += [f"decay_by={self.decay_by}"] * (self.decay_by in GROWING)
        if len(growing) > 1:
            raise UserError(f"`batch_schedule` must be the only change of the batch size, got {' with '.join(growing)}")
        if self.same_steps and growing:
            raise UserError(f"`same_steps` cannot be used where the batch size changes, got it with {growing[0]}")
        if self.same_steps and self.has_target:
            raise UserError(
                "`same_steps` has no effect with a target, where a trial ends; train for a fixed number of epochs "
                "instead (`--epochs` without `--target-loss`)"
            )
        for name in ("gradient_penalty", "svrg_every"):
            if self.noise_scale is not None and getattr(self, name) is not None:
                raise UserError(f"`noise_scale` cannot be used with `{name}`, which takes gradients of its own")
        if self.noise_scale is not None and self.noise_batch_size is not None:
            raise UserError(
                "`noise_scale` cannot be used with `noise_batch_size`, whose noise is added to the gradient"
            )
        if self.noise_scale is not None and self.local_workers is not None:
            raise UserError("`noise_scale` cannot be used with `local_workers`, whose gradients are of several weights")
        sizes = [self.batch_size, self.switch_batch_size, *(size for _, size in batch_schedule(self.batch_schedule))]
        if (smallest := min(size for size in sizes if size is not None)) < (self.local_workers or 1):
            raise UserError(f"`local_workers` must be at most the batch size ({smallest}), got {self.local_workers}")
        if self.layer_adaptation and self.optimizer not in ("adam", "sgd"):
            raise UserError(f"`layer_adaptation` needs the optimizer sgd (LARS) or adam (LAMB), got {self.optimizer}")
        if not self.momentum_correction and self.optimizer != "sgd":
            raise UserError(
                f"`momentum_correction` cannot be used with {self.optimizer}; only sgd has a velocity to correct"
            )
        self.check_line_search()

    def canonical(self) -> "TrialConfig":
        """The one form shared by all configurations that describe this same run.

        Construction does not apply it, because a configuration may be changed further, and what has no effect in it may
        have one then: the check tries ghost batch norm, which batches of two examples do not need, on two examples.
        `trial_id`, every row, `Trial` and `sweeps.studies.study.run_study` apply it.
        """
        changes: dict[str, Any] = self.canonical_amounts()
        if self.optimizer != "sgd":
            changes["momentum"] = None
        elif self.momentum is None:
            changes["momentum"] = DEFAULT_MOMENTUM
        if self.base_batch_size == self.batch_size:
            changes |= {"learning_rate_scaling": None, "same_steps": False, "base_batch_size": None}
        elif self.learning_rate_scaling is None and not self.same_steps:
            changes["base_batch_size"] = None
        if self.svrg_every is not None:
            changes["svrg_every"] = str(svrg_amount(self.svrg_every))
        if self.average is not None:
            name, default = AVERAGES[self.average]
            changes[name] = default if getattr(self, name) is None else type(default)(getattr(self, name))
        if self.local_workers is not None:
            changes["local_from"] = float(self.local_from or 0)
        if self.decay == "step":
            changes["decay_factor"] = self.decay_factor or STEP_DECAY_FACTOR
            changes["decay_by"] = self.decay_by or DECAYED[0]
        elif self.decay == "wsd":
            changes["decay_share"] = self.decay_share or DECAY_SHARE
        changes["measure_batch_size"] = self.canonical_measure_batch_size
        no_switch = (
            self.switch_epoch is None
            or self.planned.is_reached(self._steps_to(self.switch_epoch), self.switch_epoch, self.train_size)
            or self.switch_epoch == 0
            or (self.switch_batch_size == self.batch_size and self.switch_order_seed is None)
        )
        if no_switch:
            if self.switch_epoch == 0 and self.switch_batch_size is not None:
                changes["batch_size"] = self.switch_batch_size
            for name in (
                "switch_epoch",
                "switch_batch_size",
                "switch_learning_rate",
                "switch_optimizer_state",
                "switch_order_seed",
            ):
                changes[name] = None
            if self.batch_schedule is not None:
                changes["switch_learning_rate"] = self.switch_learning_rate or SWITCH_LEARNING_RATES[0]
            changes |= self._without_what_needs_large_batches(changes.get("batch_size", self.batch_size))
        else:
            changes["switch_learning_rate"] = self.switch_learning_rate or SWITCH_LEARNING_RATES[0]
            changes["switch_optimizer_state"] = self.switch_optimizer_state or SWITCH_OPTIMIZER_STATES[0]
        found = dataclasses.replace(self, **changes)
        return dataclasses.replace(found, **found.without_what_never_acts())

    def _without_what_needs_large_batches(self, batch_size: int) -> dict[str, Any]:
        """Ghost batch norm and matched noise mean nothing to batches that are no larger than theirs; a group of a
        gradient penalty is at most a batch.
        """
        if self.batch_schedule is not None or self.decay_by in GROWING:
            return {}
        names = ("ghost_batch_size", "noise_batch_size")
        changes: dict[str, Any] = {name: None for name in names if (getattr(self, name) or 0) >= batch_size}
        if self.penalty_batch_size is not None:
            changes["penalty_batch_size"] = min(self.penalty_batch_size, largest_batch(self.train_size, batch_size))
        return changes

    @property
    def trial_id(self) -> str:
        """The key of all that decides the training, 16 hexadecimal digits (trainables.trial_id)."""
        return trial_key(self.canonical(), MEASURING, NUMBERS_VERSION)

    @property
    def is_warm_started(self) -> bool:
        """Whether the trial can start from another's state at its switch: not if it has rows of its own from before."""
        along = (*ALONG_THE_RUN, "noise_scale")
        return self.switch_epoch is not None and all(getattr(self, name) is None for name in along)

    @property
    def warm_start_id(self) -> str:
        """The key of the training up to a switch: shared by all trials that are the same run until then."""
        other = MEASURING | {name for name in vars(self) if name.startswith("switch_")}
        other |= frozenset() if self.has_decay_length else {"epochs", "budget"}
        return trial_key(self.canonical(), other, NUMBERS_VERSION)

    @property
    def label(self) -> str:
        """A short name for people: what varies in a grid, such as `b16 lr0.003 w5 s10-300 seed0`."""
        parts = [f"b{self.batch_size}", f"lr{self.learning_rate:g}"]
        if self.optimizer_options != "{}" or self.optimizer not in OPTIMIZERS:
            parts.append(f"{self.optimizer} {options_label(self.optimizer_options)}".strip())
        if self.warmup_epochs:
            parts.append(f"w{self.warmup_epochs:g}")
        if self.warmup_steps is not None:
            parts.append(f"w{self.warmup_steps}steps")
        if self.switch_epoch is not None:
            parts.append(f"s{self.switch_epoch:g}-{self.switch_batch_size}")
        if (remedy := remedy_of(vars(self))) != "none":
            parts.append(remedy)
        return " ".join([*parts, f"seed{self.seed}"])


MEASURING = frozenset(
    {field.name for field in dataclasses.fields(TrialConfig) if "measure" in field.name} | {"shifts", "noise_scale"}
)
"""The fields that say what is measured and how. They leave the training alone, so they are not part of its key."""


def model_options_json(options: dict[str, Any]) -> str:
    """Model options as the canonical text kept in `TrialConfig.model_options`."""
    return json.dumps(options, sort_keys=True)
