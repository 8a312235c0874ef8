"""The setting and the replicate of each run.

A run without a value of the metric diverged before, and counts as a run that reaches no goal. It is left out where
another run has its batch size, setting and seed: it crashed and was started again.
"""

from collections.abc import Collection

import pandas as pd

from analysis.stats.wording import told_apart
from trainables.runtime.errors import UserError


def what_was_run(
    about: pd.DataFrame, with_values: Collection[str], metric: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """`batch_size`, `setting` (its number), `text` (in words) and `replicate` of each run, in order, and notes.

    Args:
        about: `batch_size`, settings and, where it is known, `seed`, indexed by run.
        with_values: the runs that have a value of `metric`.

    Raises UserError where two runs with values have one batch size, setting and seed.
    """
    seed = about.get("seed")
    found, lost_notes = _without_repeats(_settings(about), seed, with_values, metric)
    replicate, seed_notes = _replicates(found, seed)
    return found.assign(replicate=replicate), (*seed_notes, *lost_notes)


def _settings(about: pd.DataFrame) -> pd.DataFrame:
    """`batch_size`, and the columns that differ between runs as `text` and as the number of the `setting`."""
    names = [name for name in about if name not in ("batch_size", "seed") and about[name].nunique(dropna=False) > 1]
    told = about[names].apply(lambda column: column.map(told_apart(column.dropna()), na_action="ignore"))
    texts = told.apply(lambda row: ", ".join(f"{n} {value}" for n, value in row.items() if pd.notna(value)), axis=1)
    text = texts if len(names) else pd.Series("", index=about.index)
    found = about[["batch_size"]].assign(text=text)
    return found.assign(setting=pd.factorize(found["text"], sort=True)[0]).sort_index()


def _without_repeats(
    cells: pd.DataFrame, seed: pd.Series | None, with_values: Collection[str], metric: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs but for those without a value that another run repeats; and notes on all runs without a value."""
    lost = ~cells.index.to_series().isin(with_values)
    repeated = pd.Series(False, index=cells.index)
    if seed is not None:
        ordered = cells.assign(seed=seed, lost=lost).sort_values("lost", kind="stable")  # those with values first
        repeated = (ordered["lost"] & ordered.duplicated(["batch_size", "setting", "seed"])).reindex(cells.index)
    notes = [
        f"{count} of {len(cells)} runs have no {metric}, {why}"
        for count, why in (
            (repeated.sum(), "and another run has their setting and seed, so they are left out"),
            (lost.sum() - repeated.sum(), "so they reach no goal"),
        )
        if count
    ]
    return cells[~repeated], tuple(notes)


def _replicates(about: pd.DataFrame, seed: pd.Series | None) -> tuple[pd.Series, tuple[str, ...]]:
    """The number of each run's replicate, with a note where it is not that of the seed.

    It is the place among the runs of one batch size and setting where no seed is known, and where no seed was run at
    two batch sizes. In the second case runs of different batch sizes are independent, so they may be paired in any way.
    """
    order = about.groupby(["batch_size", "setting"]).cumcount()
    if seed is None:
        return order, _without_seed(about)
    numbers = pd.Series(pd.factorize(seed.reindex(about.index), sort=True, use_na_sentinel=False)[0], index=about.index)
    cell = ["batch_size", "setting", "seed"]
    repeated = about.assign(seed=numbers)
    repeated = repeated[repeated.duplicated(cell, keep=False)].sort_values(cell)
    if len(repeated):
        raise UserError(
            "`seed` must differ between runs of one batch size and setting, got one seed for runs "
            f"{repeated.index[0]} and {repeated.index[1]}; add the setting in which they differ, or another seed"
        )
    if about["batch_size"].nunique() > 1 and about["batch_size"].groupby(numbers).nunique().max() == 1:
        return order, ("no seed was run at two batch sizes, so runs are compared as independent ones, not by seed",)
    return numbers, ()


def _without_seed(about: pd.DataFrame) -> tuple[str, ...]:
    """A note where runs count as replicates that no seed tells apart."""
    several = about.groupby(["batch_size", "text"]).size()
    if several.max() <= 1:
        return ()
    size, text = several.idxmax()
    where = f"batch {size}{f' at {text}' if text else ''}"
    return (
        f"no seed is known, so runs of one batch size and setting are taken as replicates ({several.max()} of {where})",
    )
