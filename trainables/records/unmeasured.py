"""The record of a trained trial while it is being measured: what is kept where that ends its process.

    checkpoints/TRIAL_ID.json   the record, in which measures that have not ended are without a value

A measure that raises costs its own rows (trainables.trial). One that kills its process, or hangs where no signal
reaches it, cannot be caught there. So the trial's record is left before the first measure, and again while the others
end, for whoever finds out that the process is gone: the worker's next try, or the driver.
"""

import time
from collections.abc import Callable

from trainables.records.record_files import BadRecordError, Record, read_record, write_record
from trainables.runtime.errors import LONGEST_REASON, one_line
from trainables.storage.folders import AnyPath

PENDING = "not ended"
SECONDS = 1.0  # between two records of one trial


class Unmeasured:
    """Leaves what `record(PENDING)` returns, the record of one trial as it is now, when called: not every time."""

    def __init__(self, folder: AnyPath, record: Callable[[str], Record]) -> None:
        self._folder, self._record = folder, record
        self._left_at = float("-inf")

    def __call__(self) -> None:
        if time.monotonic() - self._left_at > SECONDS:
            write_record(self._folder, self._record(PENDING), part="checkpoints")
            self._left_at = time.monotonic()


def take_unmeasured(folder: AnyPath, trial_id: str, reason: str) -> Record | None:
    """The record that was left, with the `reason` why its other measures have no value; None without one."""
    try:
        record = read_record(_path(folder, trial_id))
    except (FileNotFoundError, BadRecordError):
        return None
    for row in record.measures:
        if row.get("error") == PENDING:
            row["error"] = one_line(reason)[:LONGEST_REASON]
    return record


def remove_unmeasured(folder: AnyPath, trial_id: str) -> None:
    _path(folder, trial_id).unlink(missing_ok=True)


def _path(folder: AnyPath, trial_id: str) -> AnyPath:
    return folder / "checkpoints" / f"{trial_id}.json"
