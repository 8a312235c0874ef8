"""The learning curves of trials that are still running, for the live page.

    running/TRIAL_ID.json   the trial's ID and label, how much of its training is done, and its epochs so far

A trial that trains for longer than SECONDS leaves its file after a logging point, and removes it when it has a record.
Nothing else depends on these files: a trial trains on where they cannot be written, and a file that cannot be read is
left out. Epochs are thinned, so that a file stays small however often a trial logs.
"""

import contextlib
import json
import math
import time
from collections.abc import Sequence
from typing import Any

from trainables.records.record_files import cleaned
from trainables.records.schemas import Row
from trainables.storage.folders import AnyPath, in_parallel, read_file, remove_folder, write_atomically
from trainables.storage.remote_path import RemotePath

FOLDER = "running"
SECONDS = 2.0  # between two files of one trial
REMOTE_SECONDS = 30.0  # the same on storage that takes money and time for each file
MOST_POINTS = 100  # of the epochs, and as many of those with a test result
COLUMNS = (
    "epoch", "train_loss", "test_loss", "train_accuracy", "test_accuracy", "train_metric", "test_metric", "lr",
    "batch_size",
)  # fmt: skip


class RunningCurves:
    """Leaves the curves of one trial in a results `folder` when called: not every time.

    `about`: what the file says of the trial beside its epochs, with its `trial_id`.
    """

    def __init__(self, folder: AnyPath, about: Row) -> None:
        self._path = folder / FOLDER / f"{about['trial_id']}.json"
        self._about = about
        self._seconds = REMOTE_SECONDS if isinstance(folder, RemotePath) else SECONDS
        self._left_at = time.monotonic()  # a trial that is over at once leaves none

    def __call__(self, epochs: Sequence[Row], share_done: float, *, is_trained: bool) -> None:
        """Writes the file if it is due: `epochs` are rows of epochs.parquet, `share_done` in [0, 1]."""
        if time.monotonic() - self._left_at < self._seconds and not (is_trained and self._path.exists()):
            return
        kept = thinned([row["test_loss"] is not None for row in epochs], MOST_POINTS)
        rows = [{name: epochs[place][name] for name in COLUMNS} for place in kept]
        content = {**self._about, "share_done": share_done, "is_trained": is_trained, "count": len(epochs)}
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            write_atomically(self._path, json.dumps(cleaned({**content, "epochs": rows})).encode())
        self._left_at = time.monotonic()


def thinned(is_tested: Sequence[bool], most: int) -> list[int]:
    """Places of at most `most` epochs, and of as many with a test result: evenly spread, first and last included."""
    tested = [place for place, known in enumerate(is_tested) if known]
    return sorted({*_evenly(range(len(is_tested)), most), *_evenly(tested, most)})


def _evenly(places: Sequence[int], most: int) -> list[int]:
    return [places[round(index * (len(places) - 1) / (most - 1))] for index in range(most)] if len(places) else []


def read_running(folder: AnyPath) -> list[Row]:
    """What the trials of `folder` that have no record yet have left, by their labels."""
    with contextlib.suppress(OSError):
        files: list[AnyPath] = list((folder / FOLDER).glob("[!.]*.json"))
        found = in_parallel(_read, files)
        return sorted((row for row in found if row is not None), key=lambda row: (row["label"], row["trial_id"]))
    return []


def remove_running(folder: AnyPath, trial_id: str) -> None:
    with contextlib.suppress(OSError):
        (folder / FOLDER / f"{trial_id}.json").unlink(missing_ok=True)


def remove_all_running(folder: AnyPath) -> None:
    """Removes what the trials of a run left that is over, or was killed."""
    remove_folder(folder / FOLDER)


def _read(path: AnyPath) -> Row | None:
    """One file; None where it is gone by now, damaged, or no file of a trial."""
    try:
        row: Any = cleaned(json.loads(read_file(path)))
        is_known = (
            row["trial_id"] == path.stem and isinstance(row["label"], str) and isinstance(row["is_trained"], bool)
        )
        numbers = [row["share_done"], row["count"], *(value for epoch in row["epochs"] for value in epoch.values())]
        are_numbers = all(value is None or (type(value) in (int, float) and math.isfinite(value)) for value in numbers)
        return row if is_known and are_numbers and None not in numbers[:2] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
