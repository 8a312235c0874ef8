"""What a sweep that goes on has still to do: which trials are trained, and which have to run or be measured further."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from trainables.config import TrialConfig
from trainables.records.record_files import record_files
from trainables.records.schemas import SCHEMAS
from trainables.records.tables import Tables, read_tables
from trainables.storage.folders import AnyPath, is_there


def finished_trials(folder: AnyPath) -> set[str]:
    """The keys of the trials that are trained, completed or diverged."""
    return finished(_tables_of(folder))


def finished(tables: Tables) -> set[str]:
    """`finished_trials` of tables that have been read."""
    done = pc.is_in(tables.trials["status"], pa.array(["completed", "diverged"]))
    return set(tables.trials.filter(done)["trial_id"].to_pylist())


def incomplete_trials(folder: AnyPath, configs: Iterable[TrialConfig]) -> list[TrialConfig]:
    """Those of `configs` that have to run, in their order: to be trained, or to be measured further.

    Of a trained trial the configuration has only the measures that are missing. One that diverged has none to add.
    """
    columns = _tables_of(folder).trials.select(["trial_id", "status", "measured"])
    rows = {row["trial_id"]: row for row in columns.to_pylist() if row["status"] in ("completed", "diverged")}
    found: list[TrialConfig | None] = []
    for config in configs:
        row = rows.get(config.trial_id)
        is_diverged = row is not None and row["status"] == "diverged"
        found.append(None if is_diverged else config if row is None else config.lacking(row["measured"] or ()))
    return [config for config in found if config is not None]


def _tables_of(folder: AnyPath) -> Tables:
    """`read_tables`, empty where no trial has ended."""
    if not record_files(folder) and not is_there(folder / "trials.parquet"):
        return Tables(*(schema.empty_table() for schema in SCHEMAS.values()))
    return read_tables(folder)
