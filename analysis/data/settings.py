"""Which columns of a table about runs are settings, and which are results or names.

Exports of trackers hold results beside the configuration: the last training loss, the runtime, the host. If one of them
counted as a setting, every run would be a setting of its own, without replicates, and the luckiest run would win.

A column that differs between runs is left out where

- its name is a metric's (`train/loss`, `best_val_acc`) or a history key's (`epoch`), and it holds numbers;
- it names the run or its machine (`run_id`, `output_dir`), or it is a second seed that follows from the first;
- it is not named like a hyperparameter (`learning_rate`, `weight_decay`), and its values (numbers, or texts such as
  paths) differ between almost all runs, also between runs that are equal in all other settings. With a seed, such
  runs must have different seeds; else the column may be what was varied, and it is kept;
- it is not named like a hyperparameter, its values are numbers, every setting was run with the same seeds, and the
  other columns with the seed tell all runs apart.

A note names every column that is left out, but for names of runs. `--settings` decides instead of these rules.
"""

from collections.abc import Collection, Sequence

import pandas as pd

from analysis.data.column_names import RUN_NAMES, SEEDS, is_hyperparameter, is_result, last_part
from trainables.runtime.errors import UserError, did_you_mean
from trainables.storage.folders import AnyPath

OWN = ("batch_size", "seed")  # the columns that are not settings
ALMOST_ALL = 0.8  # of the runs: results such as accuracies may agree by chance
WAY_OUT = "--settings NAME ... says which columns are settings"


def choose_settings(
    source: AnyPath,
    about: pd.DataFrame,
    named: Sequence[str] | None,
    *,
    kept: Collection[str] = (),
    ignored: Collection[str] = (),
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The settings in `about` (a row per run) with `batch_size` and `seed`, and notes on what was left out.

    Args:
        named: the settings; None: by the rules above.
        kept: columns that are settings whatever they hold.
        ignored: columns that are not settings, and need no note.

    Raises UserError where `named` has a column that is not there.
    """
    about, notes = _with_seed(about)
    if named is not None:
        named = [named] if isinstance(named, str) else list(named)
        known = [name for name in about if name not in OWN]
        for name in named:
            if name not in about:
                near = did_you_mean(name, known) or f"; it has {', '.join(map(str, known[:9])) or 'none'}"
                rule = f"`settings` must name columns of {source.name} that do not change during a run"
                raise UserError(f"{rule}, got {name}{near}")
        return about[[name for name in about if name in (*OWN, *named)]], notes
    about = about[[name for name in about if name in (*OWN, *kept) or not (name in ignored or _is_of_run(name, about))]]
    varied = [name for name in about if name not in (*OWN, *kept) and about[name].astype(str).nunique() > 1]
    results = [name for name in varied if is_result(name) and _is_number(about[name])]
    unknown = [name for name in varied if name not in results and not is_hyperparameter(name)]
    by_seed = _results_by_seed(about.drop(columns=results), [name for name in unknown if _is_number(about[name])])
    results += by_seed
    doubtful = [name for name in unknown if name not in by_seed and _differs(about[name])]
    rest = about.drop(columns=[*results, *doubtful])
    cell = _cells(rest.drop(columns="seed", errors="ignore"))
    doubtful = [name for name in doubtful if _differs_inside(about[name], cell)]
    if doubtful and "seed" in rest and _repeats(rest):
        note = f"taken as settings, because runs agree in seed and everything else: {', '.join(doubtful)} ({WAY_OUT})"
        return about.drop(columns=results), (*notes, *_left_out(about, results), note)
    out = [*results, *doubtful]
    return about.drop(columns=out), (*notes, *_left_out(about, out))


def _results_by_seed(about: pd.DataFrame, unknown: list[str]) -> list[str]:
    """The `unknown` columns that nothing but the seed explains, where the same seeds were used for many settings.

    Settings are the fewest columns, with the fewest values, without which two runs would have the same seed.
    """
    if "seed" not in about or about["seed"].nunique() > len(about) / 2:
        return []
    chosen = about.drop(columns=unknown)
    while repeated := _repeats(chosen):
        trials = [
            (_repeats(chosen.assign(**{name: about[name]})), about[name].nunique(dropna=False), place)
            for place, name in enumerate(unknown)
            if name not in chosen
        ]
        if not trials or min(trials)[0] == repeated:
            return []
        name = unknown[min(trials)[2]]
        chosen = chosen.assign(**{name: about[name]})
    cell = _cells(chosen.drop(columns="seed"))
    return [name for name in unknown if name not in chosen and about.groupby(cell)[name].nunique().max() > 1]


def _repeats(about: pd.DataFrame) -> int:
    """How many runs agree with another in all columns."""
    return int(about.astype(str).duplicated().sum()) if len(about.columns) else len(about) - 1


def _cells(about: pd.DataFrame) -> pd.Series:
    """A number for each run, the same for runs that agree in all columns."""
    if about.columns.empty:
        return pd.Series(0, index=about.index)
    return about.groupby([about[name].astype(str) for name in about]).ngroup()


def _with_seed(about: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """`about` with the column `seed`, by its usual names, where it has one."""
    if "seed" in about:
        return about, ()
    found = next((name for wanted in SEEDS for name in about if last_part(name) == wanted), None)
    if found is None:
        return about, ()
    return about.rename(columns={found: "seed"}), (f"the seed is the column {found}",)


def _is_of_run(name: str, about: pd.DataFrame) -> bool:
    """Whether a column names the run, describes its machine, or repeats its seed."""
    last = last_part(name)
    if str(name).startswith("_") or last in RUN_NAMES:
        return True
    if "seed" not in about or not last.endswith("seed"):
        return False
    return bool(about.groupby("seed", dropna=False)[name].nunique().max() <= 1)


def _left_out(about: pd.DataFrame, names: Collection[str]) -> tuple[str, ...]:
    if not names:
        return ()
    listed = ", ".join(str(name) for name in about if name in names)
    return (f"taken as results or names, not as settings: {listed} ({WAY_OUT})",)


def _is_number(column: pd.Series) -> bool:
    if pd.api.types.is_bool_dtype(column):
        return False
    return bool(pd.to_numeric(column, errors="coerce").notna().sum() == column.notna().sum() > 0)


def _differs(column: pd.Series) -> bool:
    """Whether almost all runs have a value of their own; of texts and whole numbers all."""
    known = column.dropna()
    if pd.api.types.is_bool_dtype(column) or known.empty:
        return False
    numbers = pd.to_numeric(known, errors="coerce") if _is_number(column) else None
    if numbers is None or (numbers % 1 == 0).all():
        return bool(known.nunique() == len(known))
    return bool(known.nunique() > ALMOST_ALL * len(known))


def _differs_inside(column: pd.Series, group: pd.Series) -> bool:
    """Whether runs of one group have values of their own, and there are such groups."""
    several = column.notna() & group.duplicated(keep=False)
    values = pd.DataFrame({"group": group, "value": column})[several]
    return len(values) > 0 and len(values.drop_duplicates()) > ALMOST_ALL * len(values)
