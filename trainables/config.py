"""What a trial is: every choice that can change its numbers, and the key that follows from them.

Where a trial runs (device, threads, folders) is not here: the same configuration is the same trial on every
machine. `trial_id` is a hash of the canonical configuration, of the data's contents, of the source of a user's
own model, and of NUMBERS_VERSION; so a sweep that is resumed or widened finds what it has already done, and
nothing stale is reused.

Two configurations that describe the same run have one canonical form (`TrialConfig.canonical`): a switch to
the batch size already in force, or after the last epoch, is no switch; a switch before the first epoch is a
run at the other batch size; momentum means nothing to Adam.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from trainables.errors import UserError

NUMBERS_VERSION = 1  # raise it when a change of this code changes the numbers of an unchanged configuration

OPTIMIZERS = ("adam", "sgd")
DEFAULT_MEASURES = ("box_sharpness", "hessian_max_eig")  # those of trials.parquet, always measured
MEASURE_DTYPES = ("float64", "float32")
MEASURE_BATCH_NORMS = ("running", "batch", "recalibrated")
PAPER_EVALUATION_BATCH = 5000  # whose statistics the paper's own code used
DEFAULT_MOMENTUM = 0.9
SWITCH_LEARNING_RATES = ("keep", "linear", "sqrt")
SWITCH_OPTIMIZER_STATES = ("reset", "keep")


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One cell of the grid. Raises UserError for a value out of range.

    `epochs` is the number of passes over the training set, or the cap when `target_loss` (nats per example,
    on the whole training set, clean, in eval mode) ends the trial earlier. After `switch_epoch` completed
    epochs the trial goes on at `switch_batch_size`, with its learning rate kept or scaled by the ratio of the
    batch sizes (`linear`) or its root (`sqrt`), and with the optimizer's state `reset` or kept. `measures` are the
    names, joined by commas, of what is measured at the end, on `measure_examples` of the training examples, with
    batch norm in the mode `measure_batch_norm` (see trainables.sharpness.model_loss); `batch` has a batch size.
    """

    dataset: str
    data_fingerprint: str
    train_size: int
    test_size: int
    split_seed: int | None = None
    model: str = "mlp"
    model_options: str = "{}"
    model_fingerprint: str | None = None
    optimizer: str = "adam"
    learning_rate: float
    momentum: float | None = None
    weight_decay: float = 0.0
    batch_size: int
    warmup_epochs: float = 0.0
    switch_epoch: int | None = None
    switch_batch_size: int | None = None
    switch_learning_rate: str | None = None
    switch_optimizer_state: str | None = None
    epochs: int
    target_loss: float | None = None
    seed: int = 0
    measure_examples: int
    measure_dtype: str = "float64"
    measures: str = ",".join(DEFAULT_MEASURES)
    measure_batch_norm: str = "running"
    measure_batch_size: int | None = None

    def __post_init__(self) -> None:
        _require_choice("optimizer", self.optimizer, OPTIMIZERS)
        _require_choice("measure_dtype", self.measure_dtype, MEASURE_DTYPES)
        _require_choice("measure_batch_norm", self.measure_batch_norm, MEASURE_BATCH_NORMS)
        _require_choice("switch_learning_rate", self.switch_learning_rate, (None, *SWITCH_LEARNING_RATES))
        _require_choice("switch_optimizer_state", self.switch_optimizer_state, (None, *SWITCH_OPTIMIZER_STATES))
        _require("train_size", self.train_size, self.train_size >= 1, "be at least 1")
        _require("test_size", self.test_size, self.test_size >= 1, "be at least 1")
        _require("epochs", self.epochs, self.epochs >= 1, "be at least 1")
        _require("seed", self.seed, self.seed >= 0, "be 0 or more")
        _require("split_seed", self.split_seed, self.split_seed is None or self.split_seed >= 0, "be 0 or more")
        _require("learning_rate", self.learning_rate, _positive(self.learning_rate), "be a number above 0")
        _require("weight_decay", self.weight_decay, _at_least_zero(self.weight_decay), "be a number of 0 or more")
        if self.momentum is not None:
            _require("momentum", self.momentum, 0 <= self.momentum < 1, "be in [0, 1)")
        if self.target_loss is not None:
            _require("target_loss", self.target_loss, _positive(self.target_loss), "be a number above 0")
        _require(
            "warmup_epochs",
            self.warmup_epochs,
            _at_least_zero(self.warmup_epochs) and self.warmup_epochs <= self.epochs,
            f"be between 0 and `epochs` ({self.epochs})",
        )
        for name, size in (("batch_size", self.batch_size), ("switch_batch_size", self.switch_batch_size)):
            if size is not None:
                _require(
                    name,
                    size,
                    1 <= size <= self.train_size,
                    f"be between 1 and the {self.train_size} training examples",
                )
        _require(
            "measure_examples",
            self.measure_examples,
            1 <= self.measure_examples <= self.train_size,
            f"be between 1 and the {self.train_size} training examples",
        )
        if self.measure_batch_size is not None:
            _require("measure_batch_size", self.measure_batch_size, self.measure_batch_size >= 2, "be at least 2")
        if self.switch_epoch is not None:
            _require("switch_epoch", self.switch_epoch, self.switch_epoch >= 0, "be 0 or more, or none")
            if self.switch_batch_size is None:
                raise UserError("`switch_batch_size` must be given with `switch_epoch`, got none")

    def canonical(self) -> "TrialConfig":
        """The one form shared by all configurations that describe this same run."""
        changes: dict[str, Any] = {}
        if self.optimizer == "adam":
            changes["momentum"] = None
        elif self.momentum is None:
            changes["momentum"] = DEFAULT_MOMENTUM
        if self.measure_batch_norm != "batch":
            changes["measure_batch_size"] = None
        elif self.measure_batch_size is None or self.measure_batch_size > self.measure_examples:
            changes["measure_batch_size"] = min(PAPER_EVALUATION_BATCH, self.measure_examples)
        no_switch = (
            self.switch_epoch is None
            or self.switch_epoch >= self.epochs
            or self.switch_epoch == 0
            or self.switch_batch_size == self.batch_size
        )
        if no_switch:
            if self.switch_epoch == 0 and self.switch_batch_size is not None:
                changes["batch_size"] = self.switch_batch_size
            for name in (
                "switch_epoch",
                "switch_batch_size",
                "switch_learning_rate",
                "switch_optimizer_state",
            ):
                changes[name] = None
        else:
            changes["switch_learning_rate"] = self.switch_learning_rate or SWITCH_LEARNING_RATES[0]
            changes["switch_optimizer_state"] = self.switch_optimizer_state or SWITCH_OPTIMIZER_STATES[0]
        return dataclasses.replace(self, **changes)

    @property
    def trial_id(self) -> str:
        """16 hexadecimal digits: SHA-256 of the canonical configuration and NUMBERS_VERSION.

        A field at its default is left out, so that a field added later leaves the keys of old trials alone.
        """
        canonical = self.canonical()
        fields = {field.name: (getattr(canonical, field.name), field.default) for field in dataclasses.fields(self)}
        content = {name: value for name, (value, default) in fields.items() if value != default}
        text = json.dumps({"numbers_version": NUMBERS_VERSION, **content}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """A short name for people: what varies in a grid, such as `b16 lr0.003 w5 s10-300 seed0`."""
        parts = [f"b{self.batch_size}", f"lr{self.learning_rate:g}"]
        if self.warmup_epochs:
            parts.append(f"w{self.warmup_epochs:g}")
        if self.switch_epoch is not None:
            parts.append(f"s{self.switch_epoch}-{self.switch_batch_size}")
        return " ".join([*parts, f"seed{self.seed}"])


def model_options_json(options: dict[str, Any]) -> str:
    """Model options as the canonical text kept in `TrialConfig.model_options`."""
    return json.dumps(options, sort_keys=True)


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _at_least_zero(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise UserError(f"`{name}` must {rule}, got {value}")


def _require_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    names = ", ".join(str(choice) for choice in allowed if choice is not None)
    _require(name, value, value in allowed, f"be one of {names}")
