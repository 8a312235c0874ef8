"""Amounts of training: a number with its unit, such as 100steps, 3000examples, 2Mtokens or 1.5epochs.

    steps      updates of the weights
    examples   training examples, each counted as often as it is used
    tokens     their tokens; an example of a language model is a window of T tokens
    epochs     passes over the training set; may be fractional

Steps mean more examples at a larger batch size, the other three the same at each. A TrialConfig knows no windows, so
its amounts are in steps, examples or epochs (`KEPT`); `in_examples` turns tokens into examples.
"""

import functools
import math
import re
from dataclasses import dataclass
from decimal import Decimal

from trainables.runtime.errors import UserError

UNITS = ("steps", "examples", "tokens", "epochs")
KEPT = ("steps", "examples", "epochs")
ROUNDING = 1e-9  # of epochs: sums of fractions of an epoch
_PATTERN = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kMB]?)\s*([a-z]*)")
_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


@dataclass(frozen=True)
class Amount:
    """`value` in `unit`, one of UNITS: a whole number above 0, or for epochs any number above 0."""

    value: int | float
    unit: str

    def __str__(self) -> str:
        return f"{self.value!r}{self.unit}"

    @property
    def words(self) -> str:
        """For a sentence: "100 steps"."""
        return f"{self.value:,} {self.unit[:-1] if self.value == 1 else self.unit}"

    def is_reached(self, step: int, epochs_done: float, train_size: int, stretch: float = 1.0) -> bool:
        """Whether so much is done after `step` updates and `epochs_done` passes; `stretch` lengthens all but steps."""
        if self.unit == "steps":
            return step >= self.value
        return epochs_done + ROUNDING >= self.in_epochs(train_size) * stretch

    def in_epochs(self, train_size: int) -> float:
        """An amount of examples or epochs as passes over `train_size` examples."""
        return self.value if self.unit == "epochs" else self.value / train_size

    def as_bounds(self, train_size: int) -> tuple[float, float]:
        """The steps and the examples at which it is reached, whichever comes first; one of them is infinite."""
        if self.unit == "steps":
            return self.value, math.inf
        exact = self.value * train_size if self.unit == "epochs" else self.value
        return math.inf, math.ceil(exact - ROUNDING * train_size)

    def next_multiple(self, step: int, examples: int, train_size: int) -> tuple[float, float]:
        """`as_bounds` of the next multiple of the amount after `step` updates and `examples` used."""
        done = step if self.unit == "steps" else examples if self.unit == "examples" else examples / train_size
        times = math.floor(done / self.value + ROUNDING) + 1
        return Amount(times * self.value, self.unit).as_bounds(train_size)


@functools.lru_cache
def read_amount(name: str, text: str, *, default_unit: str | None = None, allowed: tuple[str, ...] = UNITS) -> Amount:
    """The amount that `text` says: a number, k, M or B for thousands, millions or billions, and a unit.

    Without a unit it is in `default_unit`. Raises UserError, which names the option or field `name`.
    """
    example = "1000steps" if default_unit is None else f"5{default_unit} or 1000steps"
    match = _PATTERN.fullmatch(text.strip())
    unit = (match[3] or default_unit or "") if match else ""
    unit = next((known for known in UNITS if unit in (known, known[:-1])), unit)
    if match is None or unit not in UNITS:
        raise UserError(f"`{name}` must be a number and a unit ({', '.join(allowed)}), such as {example}, got {text}")
    if unit not in allowed:
        raise UserError(f"`{name}` must be in {', '.join(allowed)}, got {text}")
    value = Decimal(match[1]) * _SUFFIXES[match[2]]
    is_whole = value == value.to_integral_value()
    if value <= 0 or not (is_whole or unit == "epochs") or value >= 2**63:
        rule = "a number of epochs above 0" if unit == "epochs" else f"a whole number of {unit}, 1 or more"
        raise UserError(f"`{name}` must be {rule} and below 2**63, got {text}")
    return Amount(int(value) if is_whole else float(value), unit)


def in_examples(name: str, amount: Amount, window: int | None) -> Amount:
    """`amount` with tokens as examples of `window` tokens each, rounded up; None: the dataset has no tokens."""
    if amount.unit != "tokens":
        return amount
    if window is None:
        raise UserError(f"`{name}` must be in {', '.join(KEPT)} for this dataset, which has no tokens, got {amount}")
    return Amount(-(-int(amount.value) // window), "examples")


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """The updates of one epoch: the last batch may be smaller, a single example left over joins the one before it."""
    full, rest = divmod(examples, batch_size)
    return full + (rest > 1 or (rest == 1 and full == 0))


def largest_batch(examples: int, batch_size: int) -> int:
    """The examples of the largest batch of an epoch: one more than `batch_size` where a single one is left over."""
    return batch_size + (examples > batch_size > 1 and examples % batch_size == 1)


def epochs_after(steps: int, examples: int, batch_size: int) -> float:
    """The epochs done after `steps` updates at one batch size; whole numbers as int."""
    epochs, rest = divmod(steps, steps_per_epoch(examples, batch_size))
    return epochs + rest * batch_size / examples if rest else epochs


def steps_to(epochs: float, examples: int, batch_size: int) -> int:
    """The updates after which `epochs` are done, at one batch size."""
    whole = math.floor(epochs + ROUNDING)
    rest = math.ceil((epochs - whole) * examples / batch_size - ROUNDING)
    per_epoch = steps_per_epoch(examples, batch_size)
    return whole * per_epoch + min(max(0, rest), per_epoch)
