"""What is measured of a trial, and how: the part of TrialConfig that does not affect the training.

A measurement is named by a text, which `measured` of trials.parquet holds. Two configurations that measure alike have
the same texts, so a trial that is trained already is measured only where a text is missing.
"""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, Self

from trainables.remedies import positive, require, require_choice
from trainables.runtime.errors import UserError

MEASURE_DTYPES = ("auto", "float64", "float32")
MEASURE_BATCH_NORMS = ("running", "batch", "recalibrated")
PAPER_EVALUATION_BATCH = 5000  # whose statistics the paper's own code used
ALONG_THE_RUN = ("measure_every", "measure_share")
# Measures of the optimizer's steps, not of the weights alone.
OF_STEPS = frozenset({"sgd_noise_scale", "stability", "batch_sharpness", "minibatch_stability"})
NOISE_SCALES = ("normalization", "all")  # the layers whose gradient noise is followed in the training steps
NOISE = "noise_scale "  # before one of them in `measured`
SHIFTS = ("noise", "blur", "contrast")  # trainables.training.shifts
SHIFT = "shift "  # before the name of a shift in `measured`


class Measuring:
    """What TrialConfig has its fields for; a mixin without fields of its own."""

    train_size: int
    measures: str
    measure_examples: int
    measure_dtype: str
    measure_batch_norm: str
    measure_batch_size: int | None
    measure_every: int | None
    measure_share: float | None
    noise_scale: str | None
    shifts: str | None
    rescaling: float | None

    def check_measuring(self) -> None:
        """Raises UserError for a value out of range."""
        require_choice("measure_dtype", self.measure_dtype, MEASURE_DTYPES)
        require_choice("measure_batch_norm", self.measure_batch_norm, MEASURE_BATCH_NORMS)
        examples, size = self.measure_examples, self.train_size
        rule = f"be between 1 and the {size} training examples"
        require("measure_examples", examples, 1 <= examples <= size, rule)
        for name, least in (("measure_batch_size", 2), ("measure_every", 1)):
            value = getattr(self, name)
            require(name, value, value is None or value >= least, f"be {least} or more")
        share = self.measure_share
        require("measure_share", share, share is None or positive(share), "be above 0")
        if self.measure_every is not None and share is not None:
            raise UserError("`measure_every` cannot be used with `measure_share`; choose one")
        require_choice("noise_scale", self.noise_scale, (None, *NOISE_SCALES))
        for name in self.shift_names:
            require_choice("shifts", name, SHIFTS)
        factor = self.rescaling
        is_power = factor is None or (positive(factor) and math.frexp(factor)[0] == 0.5 and factor != 1)
        require("rescaling", factor, is_power, "be a power of two other than 1, such as 8")

    @property
    def shift_names(self) -> tuple[str, ...]:
        """The names in `shifts`."""
        return tuple(self.shifts.split(",")) if self.shifts else ()

    @property
    def canonical_measure_batch_size(self) -> int | None:
        if self.measure_batch_norm != "batch":
            return None
        return min(self.measure_batch_size or PAPER_EVALUATION_BATCH, self.measure_examples)

    def measurement(self, measure: str, along: str | None = None) -> str:
        """What is asked for of `measure`, as one text: its name, and how it is measured at the end of the training.

        With `along`, a field of ALONG_THE_RUN, along the run instead. A field at its default is left out.
        """
        defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        names = ("measure_batch_norm", "measure_batch_size", "measure_dtype", "measure_examples")
        values = {name: getattr(self, name) for name in names}
        values["measure_batch_size"] = self.canonical_measure_batch_size
        if along is not None:
            values[along] = getattr(self, along)
        how = (f"{name}={value}" for name, value in values.items() if value != defaults[name])
        return " ".join([measure, *how])

    def measurements(self) -> dict[str, frozenset[str]]:
        """By measure, all that is asked for: `measurement` at the end and, where asked for, along the run.

        Each of `shifts` is there too, as SHIFT and its name, and `noise_scale` after NOISE.
        """
        moments = [None, *(name for name in ALONG_THE_RUN if getattr(self, name) is not None)]
        names = [name for name in self.measures.split(",") if name]
        found = {name: frozenset(self.measurement(name, along) for along in moments) for name in names}
        others = (*(SHIFT + name for name in self.shift_names), *self.in_steps)
        return found | {text: frozenset({text}) for text in others}

    @property
    def in_steps(self) -> tuple[str, ...]:
        """What is measured in the training steps, as texts of `measurements`."""
        return () if self.noise_scale is None else (NOISE + self.noise_scale,)

    def lacking(self, measured: Collection[str]) -> Self | None:
        """The same with those of its measures and shifts alone that `measured` does not hold; None where it has all."""
        names = [name for name, texts in self.measurements().items() if not texts <= set(measured)]
        shifts = [name.removeprefix(SHIFT) for name in names if name.startswith(SHIFT)]
        measures = ",".join(name for name in names if not name.startswith((SHIFT, NOISE)))
        changes: dict[str, Any] = {"measures": measures, "shifts": ",".join(shifts) or None}
        changes["noise_scale"] = self.noise_scale if set(self.in_steps) & set(names) else None
        return dataclasses.replace(self, **changes) if names else None  # type: ignore[type-var]
