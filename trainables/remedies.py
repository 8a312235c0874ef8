"""What a trial may do beyond plain training at one batch size: every remedy tried against the large-batch gap.

Each is a field that is off by default, so any of them can be combined, and each is one part of the loop.
docs/remedies.md says what each field does, with its source.
"""

import difflib
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from trainables.runtime.errors import UserError
from trainables.units import KEPT, Amount, read_amount

SCALINGS = ("linear", "sqrt")
DECAYS = ("cosine", "linear", "wsd", "step")
DECAYED = ("learning_rate", "batch_size", "seesaw")
GROWING = DECAYED[1:]  # of the ways to decay, those by which the batch grows
AUGMENTATIONS = ("paper", "crop_flip")
AVERAGES = {"ema": ("average_decay", 0.99), "swa": ("average_from", 0.0), "lawa": ("average_last", 6)}  # and its option
POSITIVE = ("sam_radius", "clip_norm", "proximal", "weight_adversary", "input_adversary", "gradient_penalty")
LEAST = {
    "base_batch_size": 1, "ghost_batch_size": 2, "noise_batch_size": 1, "penalty_batch_size": 1, "local_workers": 1,
    "local_steps": 1,
}  # fmt: skip
ONE_GRADIENT = (  # ways to take it, of which one acts
    "sam_radius", "weight_adversary", "proximal", "gradient_penalty", "svrg_every",
)  # fmt: skip
NOT_WITH_SVRG = {  # and why
    **dict.fromkeys(("augmentation", "input_adversary", "noise_batch_size"), "which changes the loss of a batch alone"),
    "local_workers": "whose workers have weights of their own",
}
STEP_DECAY_FACTOR = 0.1
DECAY_SHARE = 0.2  # of warmup-stable-decay


@dataclass(frozen=True, kw_only=True)
class Remedies:
    """The fields of a trial's configuration that are remedies, all off. Raises UserError for a value out of range."""

    learning_rate_scaling: str | None = None
    base_batch_size: int | None = None
    same_steps: bool = False
    batch_schedule: str | None = None
    decay: str | None = None
    decay_epochs: str | None = None
    decay_factor: float | None = None
    decay_by: str | None = None
    decay_share: float | None = None
    decay_floor: float = 0.0
    decay_fingerprint: str | None = None
    momentum_correction: bool = True
    layer_adaptation: bool = False
    ghost_batch_size: int | None = None
    noise_batch_size: int | None = None
    sam_radius: float | None = None
    sam_adaptive: bool = False
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    augmentation: str | None = None
    proximal: float | None = None
    weight_adversary: float | None = None
    input_adversary: float | None = None
    gradient_penalty: float | None = None
    penalty_batch_size: int | None = None
    svrg_every: str | None = None
    average: str | None = None
    average_decay: float | None = None
    average_from: float | None = None
    average_last: int | None = None
    local_workers: int | None = None
    local_steps: int | None = None
    local_from: float | None = None

    def __post_init__(self) -> None:
        require_choice("learning_rate_scaling", self.learning_rate_scaling, (None, *SCALINGS))
        if ":" not in (self.decay or ""):
            require_choice("decay", self.decay, (None, *DECAYS))
        require_choice("decay_by", self.decay_by, (None, *DECAYED))
        require_choice("augmentation", self.augmentation, (None, *AUGMENTATIONS))
        self._check_average()
        self._check_local()
        for name in ("same_steps", "momentum_correction", "layer_adaptation", "sam_adaptive"):
            require(name, getattr(self, name), type(getattr(self, name)) is bool, "be true or false")
        for name in POSITIVE:
            value = getattr(self, name)
            require(name, value, value is None or positive(value), "be a number above 0")
        for name, least in LEAST.items():
            value = getattr(self, name)
            require(name, value, value is None or (type(value) is int and value >= least), f"be {least} or more")
        require("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "be in [0, 1)")
        factor = self.decay_factor
        require("decay_factor", factor, factor is None or 0 < factor < 1, "be between 0 and 1")
        if self.decay == "step" and not self.decay_epochs:
            raise UserError("`decay=step` needs decay_epochs, such as decay_epochs=30,60")
        if self.decay != "step" and (self.decay_factor or self.decay_by):
            raise UserError(f"`decay_factor` and `decay_by` need decay=step, got {self.decay or 'no decay'}")
        share, floor = self.decay_share, self.decay_floor
        require("decay_share", share, share is None or 0 < share <= 1, "be above 0 and at most 1")
        require("decay_floor", floor, 0 <= floor < 1, "be in [0, 1)")
        if share is not None and self.decay != "wsd":
            raise UserError(f"`decay_share` needs decay=wsd, got {self.decay or 'no decay'}")
        if floor and self.decay not in ("cosine", "linear", "wsd"):
            raise UserError(f"`decay_floor` needs decay=cosine, linear or wsd, got {self.decay or 'no decay'}")
        if self.decay is None and self.decay_epochs:
            raise UserError("`decay_epochs` needs a decay, such as decay=cosine")
        if (self.learning_rate_scaling or self.same_steps) and self.base_batch_size is None:
            raise UserError("`base_batch_size` must be given with learning_rate_scaling and same_steps, got none")
        require(
            "sam_adaptive", self.sam_adaptive, not self.sam_adaptive or self.sam_radius is not None, "have sam_radius"
        )
        if (self.gradient_penalty is None) != (self.penalty_batch_size is None):
            raise UserError(
                "`gradient_penalty` must be given with penalty_batch_size, such as "
                "gradient_penalty=0.01,penalty_batch_size=16, got one of them"
            )
        exclusive = [name for name in ONE_GRADIENT if getattr(self, name) is not None]
        if len(exclusive) > 1:
            raise UserError(f"`remedies` must take the gradient in one way, got {' with '.join(exclusive)}; choose one")
        if self.proximal is not None and self.clip_norm is not None:
            raise UserError("`clip_norm` cannot be used with proximal, whose inner steps are not clipped")
        if self.svrg_every is not None:
            svrg_amount(self.svrg_every)
            if names := [name for name in NOT_WITH_SVRG if getattr(self, name) is not None]:
                raise UserError(f"`svrg_every` cannot be used with {names[0]}, {NOT_WITH_SVRG[names[0]]}")
        decay_epochs(self.decay_epochs)
        if self.has_decay_length:
            decay_length(self.decay_epochs, self.decay or "")
        batch_schedule(self.batch_schedule)

    def _check_average(self) -> None:
        require_choice("average", self.average, (None, *AVERAGES))
        for kind, (name, _) in AVERAGES.items():
            if getattr(self, name) is not None and self.average != kind:
                raise UserError(f"`average` must be {kind} for {name}, got {self.average}")
        decay, start, last = self.average_decay, self.average_from, self.average_last
        require("average_decay", decay, decay is None or 0 < decay < 1, "be between 0 and 1")
        require("average_from", start, start is None or at_least_zero(start), "be a number of epochs, 0 or more")
        require("average_last", last, last is None or last >= 1, "be 1 or more")

    def _check_local(self) -> None:
        if self.local_workers is None:
            for name in ("local_steps", "local_from"):
                if getattr(self, name) is not None:
                    raise UserError(f"`local_workers` must be given with {name}, such as local_workers=4, got none")
            return
        if self.local_steps is None:
            raise UserError("`local_steps` must be given with local_workers, such as local_steps=8, got none")
        start = self.local_from
        require("local_from", start, start is None or at_least_zero(start), "be a number of epochs, 0 or more")
        if not self.momentum_correction:
            raise UserError("`momentum_correction` cannot be used with local_workers, whose velocities are their own")

    @property
    def has_decay_length(self) -> bool:
        """Whether the learning rate decays over a stretch of the trial, at whose end the trial ends."""
        return self.decay not in (None, "step")


REMEDIES = tuple(field.name for field in fields(Remedies))
GIVEN = tuple(name for name in REMEDIES if name != "decay_fingerprint")  # the fields that a user sets
PARTS_OF_UPDATE = (
    "momentum_correction", "layer_adaptation", "ghost_batch_size", "noise_batch_size", "sam_radius", "clip_norm",
    "label_smoothing", "augmentation", "proximal", "weight_adversary", "input_adversary", "gradient_penalty",
    "svrg_every",
)  # fmt: skip
OFF = {field.name: field.default for field in fields(Remedies)}
_KINDS = {
    field.name: next(kind for kind in (bool, int, float, str) if kind.__name__ in str(field.type))
    for field in fields(Remedies)
}
_ABOUT_OTHERS = {"base_batch_size", "decay_fingerprint"}  # say how another remedy is meant, are none themselves


@functools.lru_cache
def decay_epochs(text: str | None) -> tuple[Amount, ...]:
    """The amounts of training after which step decay acts, in order: "30,60" epochs, or "300steps,600steps"."""
    parts = text.split(",") if text else []
    try:
        amounts = tuple(read_amount("decay_epochs", part, default_unit="epochs", allowed=KEPT) for part in parts)
    except UserError:
        amounts = (Amount(1, "epochs"),) * 2
    if not _is_rising(amounts):
        raise UserError(
            f"`decay_epochs` must be rising whole numbers of epochs, such as 30,60, or amounts in one unit, such as "
            f"300steps,600steps, got {text}"
        )
    return amounts


def svrg_amount(text: str) -> Amount:
    """How much training is between two anchors of SVRG."""
    return read_amount("svrg_every", text, default_unit="epochs", allowed=KEPT)


def decay_length(text: str | None, decay: str) -> Amount | None:
    """How long a decay goes on that has a length of its own; None for one over the whole trial."""
    amounts = decay_epochs(text)
    if len(amounts) > 1:
        raise UserError(
            f"`decay_epochs` of decay={decay} must be one number of epochs, or one amount such as 300steps, got {text}"
        )
    return amounts[0] if amounts else None


@functools.lru_cache
def batch_schedule(text: str | None) -> tuple[tuple[Amount, int], ...]:
    """The (done, batch size) pairs in order: "5:64,10:256" in epochs, or "500steps:64"."""
    pairs: list[tuple[Amount, int]] = []
    for part in text.split(",") if text else []:
        done, _, size = part.partition(":")
        if not size.isascii() or not size.isdecimal() or int(size) < 1:
            raise UserError(f"`batch_schedule` must be EPOCH:BATCH,..., such as 5:64,10:256, got {text}")
        pairs.append((read_amount("batch_schedule", done, default_unit="epochs", allowed=KEPT), int(size)))
    if not _is_rising([done for done, _ in pairs]):
        raise UserError(f"`batch_schedule` must be EPOCH:BATCH,... with rising epochs, such as 5:64,10:256, got {text}")
    return tuple(pairs)


def _is_rising(amounts: Sequence[Amount]) -> bool:
    values = [amount.value for amount in amounts]
    return len({amount.unit for amount in amounts}) <= 1 and values == sorted(set(values))


def read_remedy(text: str, after: str = "VALUE") -> dict[str, Any]:
    """`none`, or FIELD=VALUE joined by commas, as typed values; "decay=step,decay_epochs=10,20" has two fields.

    `after`: the value that a suggestion gives to a field without one, such as the next word of the command line.
    """
    remedy: dict[str, Any] = {}
    for part in re.split(r",(?=[a-z_]+=)", text) if text.lower() != "none" else []:
        name, equals, value = part.partition("=")
        if not equals or name not in GIVEN:
            close = difflib.get_close_matches(name, GIVEN, n=1)
            way_out = f"did you mean {close[0]}={value or after}?" if close else f"the fields are {', '.join(GIVEN)}"
            raise UserError(f"`remedies` must be none or FIELD=VALUE,..., got {text}; {way_out}")
        kind = _KINDS[name]
        try:
            remedy[name] = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            rule = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
            raise UserError(f"`{name}` must be {rule}, got {value}") from None
    return remedy


def remedy_of(row: Mapping[str, Any], base: Mapping[str, Any] = OFF) -> str:
    """What a trial does beyond `base`, the plain training of its study: "sam_radius=0.05 clip_norm=1", or "none"."""
    names = [name for name in REMEDIES if name not in _ABOUT_OTHERS and row[name] != base[name]]
    return " ".join(f"{name}={_shown(row[name])}" for name in names) or "none"


def base_remedies(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What plain training means in a study: each field off where any trial has it off, else its commonest value."""
    base = {}
    for name in REMEDIES:
        values = [row[name] for row in rows]
        base[name] = OFF[name] if OFF[name] in values or not values else max(values, key=values.count)
    return base


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def at_least_zero(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise UserError(f"`{name}` must {rule}, got {value}")


def require_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    names = ", ".join(str(choice) for choice in allowed if choice is not None)
    require(name, value, value in allowed, f"be one of {names}")
