"""Which trials are compared with which: the one definition of "matched", for tables and analysis alike.

    study      trials of one network, optimizer and kind of data: its smallest batch size is the reference
    matched    trials of one study that agree in MATCHED: they differ in batch size, switch, remedy and replicate alone
    replicate  the pair (seed, split_seed)

How much was measured, and how, never separates trials: it leaves the training alone. Nor do the results of different
versions of this code mix (`numbers_version`, null in tables from before it was recorded).

A trial's reference is the mean of the plain trials (no switch, no remedy) at the smallest batch size of its study that
are matched with it and have its data split; `seed` may differ, so that a difference between seeds is not taken for one
between batch sizes.
"""

import dataclasses
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

from trainables.config import MEASURING, TrialConfig
from trainables.remedies import REMEDIES

Study = TypeVar("Study", bound=Hashable)  # what names a study: study_of, or a number

NO_REMEDY = "none"
SWITCH = ("switch_epoch", "switch_batch_size", "switch_learning_rate", "switch_optimizer_state", "switch_order_seed")
REPLICATE = ("seed", "split_seed")
SAME_STUDY = (
    "data_fingerprint", "train_size", "validation_size", "model", "model_options", "model_fingerprint", "optimizer",
    "optimizer_fingerprint", "numbers_version",
)  # fmt: skip
_MAY_DIFFER = {"batch_size", "validation_size", *SWITCH, *REPLICATE, *REMEDIES, *MEASURING}
MATCHED = (
    *(field.name for field in dataclasses.fields(TrialConfig) if field.name not in _MAY_DIFFER),
    "numbers_version",
)
"""The columns of trials.parquet in which matched trials agree; with `validation_size` (SAME_STUDY) they also agree in
which examples `test_accuracy` is of, so settings can be chosen on validation examples for trials that are tested."""


def study_of(row: Mapping[str, Any]) -> tuple[object, ...]:
    """The values of SAME_STUDY."""
    return tuple(row[name] for name in SAME_STUDY)


def smallest_of_studies(studies: Iterable[Study], batch_sizes: Iterable[int]) -> dict[Study, int]:
    """The batch size of each study's reference, given the study and the batch size of every plain trial."""
    found: dict[Study, int] = {}
    for study, size in zip(studies, batch_sizes, strict=True):
        found[study] = min(size, found.get(study, size))
    return found


def reference_of(row: Mapping[str, Any]) -> tuple[object, ...]:
    """What a trial has in common with the trials that are its reference."""
    return (*study_of(row), *(row[name] for name in MATCHED), row["split_seed"])


def is_plain(row: Mapping[str, Any]) -> bool:
    """Whether the trial has no switch and no remedy."""
    return row["switch_epoch"] is None and row["remedy"] == NO_REMEDY
