"""The batch size of runs from elsewhere: the examples of one update, over all devices and accumulated gradients."""

import re

import pandas as pd

from analysis.data.column_names import last_part
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath

WHOLE = (
    "batch_size",
    "global_batch_size",
    "effective_batch_size",
    "total_batch_size",
    "total_train_batch_size",
    "train_batch_size",
    "bs",
)
ONE_DEVICE = (
    "per_device_train_batch_size",
    "per_gpu_train_batch_size",
    "train_micro_batch_size_per_gpu",
    "per_device_batch_size",
    "micro_batch_size",
)
ACCUMULATED = ("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum_steps")
DEVICES = ("world_size", "num_processes", "n_gpu", "_n_gpu", "num_gpus", "num_devices")
OTHERS = {"val", "valid", "validation", "test", "eval", "dev"}  # parts of a configuration that train nothing


def with_batch_size(about: pd.DataFrame, source: AnyPath) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """`about` with `batch_size`, whichever of its usual names it has, and notes on how it was found.

    The batch size of one device is multiplied by the devices and the accumulated gradients. Runs without a batch size
    are left out. Raises UserError where no run has one, or where one of these is unknown.
    """
    found, notes = _found(about, source)
    known, left_out = of_known_size(found, source)
    return known, (*notes, *left_out)


def of_known_size(about: pd.DataFrame, source: AnyPath) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of `about` that have a `batch_size`, and a note where others do not. Raises UserError where none has."""
    known = about["batch_size"].notna()
    if not known.any():
        raise UserError(f"`source` must say each run's batch size, got none in {source.name}")
    if known.all():
        return about, ()
    return about[known], (f"{(~known).sum()} of {len(about)} runs have no batch size, so they are left out",)


def _found(about: pd.DataFrame, source: AnyPath) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """`about` with `batch_size` of the runs that have one, and notes on how it was found."""
    if "batch_size" in about:
        return about, _doubts(about, "batch_size")
    one_device = _column(about, ONE_DEVICE, source)
    # DeepSpeed's train_batch_size is whole; that of Transformers leaves out accumulation.
    hides = one_device is not None and last_part(one_device) in ONE_DEVICE[:2]
    whole = _column(about, [name for name in WHOLE if not (hides and name == "train_batch_size")], source)
    if whole is not None:
        return about.rename(columns={whole: "batch_size"}), _doubts(about, whole)
    if one_device is None:
        raise UserError(
            f"`source` must say each run's batch size ({', '.join(WHOLE[:2])}, ...), got "
            f"{', '.join(map(str, about.columns[:8])) or 'no hyperparameters'} in {source.name}; "
            "--column batch_size=NAME, or --batch-pattern for TensorBoard"
        )
    return _multiplied(about, one_device, source)


def _multiplied(about: pd.DataFrame, one_device: str, source: AnyPath) -> tuple[pd.DataFrame, tuple[str, ...]]:
    accumulated = _column(about, ACCUMULATED, source)
    devices = [name for name in about if last_part(name) in DEVICES]
    counts = about[devices].apply(pd.to_numeric, errors="coerce").max(axis=1)  # each may count a part of the devices
    if accumulated is None or not devices or not (counts >= 1)[about[one_device].notna()].all():
        lacking = ACCUMULATED[0] if accumulated is None else f"the number of devices ({', '.join(DEVICES[:3])})"
        raise UserError(
            f"`source` must say the batch size of all devices: {one_device} is that of one, and {lacking} is not in "
            f"{source.name}; add that column, or give --column batch_size=NAME or batch_size=NAME*NAME"
        )
    factors = [one_device, accumulated]
    product = about[factors].apply(pd.to_numeric, errors="coerce").prod(axis=1, skipna=False) * counts
    words = " x ".join(
        [one_device, accumulated, devices[0] if len(devices) == 1 else f"the largest of {', '.join(devices)}"]
    )
    return without_factors(about.assign(batch_size=product), [*factors, *devices]), (f"the batch size is {words}",)


def without_factors(about: pd.DataFrame, factors: list[str]) -> pd.DataFrame:
    """`about` without the columns that the batch size was made of, but for those that differ at one batch size."""
    if not factors:
        return about
    known = about.groupby("batch_size", dropna=False)
    return about.drop(columns=[name for name in factors if (known[name].nunique(dropna=False) <= 1).all()])


def _doubts(about: pd.DataFrame, found: str) -> tuple[str, ...]:
    """A note where the batch size could be that of one device or one backward pass."""
    if last_part(found) not in ("batch_size", "train_batch_size", "bs"):
        return ()
    beside = [
        name
        for name in about
        if last_part(name) in (*ACCUMULATED, *DEVICES) and (pd.to_numeric(about[name], errors="coerce") > 1).any()
    ]
    if not beside:
        return ()
    return (
        f"{found} is taken as the examples of a whole update, beside {', '.join(beside)}; "
        f"if it is not: --column batch_size={'*'.join([found, *beside])}",
    )


def _column(about: pd.DataFrame, wanted: tuple[str, ...] | list[str], source: AnyPath) -> str | None:
    """The column with the first of the `wanted` names. Raises UserError where several with different values have it."""
    for name in wanted:
        found = [one for one in about if last_part(one) == name and not {*re.split(r"[/.]", str(one).lower())} & OTHERS]
        if found and (about[found].astype(str).nunique(axis=1) > 1).any():
            raise UserError(
                f"`source` must have one {name}, got {', '.join(found)} in {source.name}; --column batch_size=NAME"
            )
        if found:
            return str(found[0])
    return None
