"""The progress of a sweep, from its results folder alone: trials by state, time left, whether a run holds the folder.

Time left is work left over speed. Work is counted in seconds of trials (training and measuring), because a small batch
takes many times longer than a large one; speed is how many seconds of trials the run does per second:

    left = sum_b missing_b * mean_b / speed,    speed = (seconds of the trials ended in this run) / (time of this run)

where mean_b is the mean over the ended trials of batch size b (of the nearest size where b has none yet), and missing_b
the trials planned at b less those ended. The plan by batch size is `batch_sizes` of sweep.json; without it all missing
trials are taken as the mean one. Trials that are trained already and measured further (`to_measure` of sweep.json) have
not ended until their measures have (`measured_at`).

Whether a run goes on is read from the lock or lease that it holds (trainables/storage/lease.py): nothing is locked or
written here. Of a folder on a file system that sees runs on this machine only.
"""

import datetime
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.data.time_left import work_left
from trainables.records.schemas import STATUSES
from trainables.records.tables import of_newest_version, read_tables
from trainables.runtime.errors import UserError
from trainables.runtime.text import duration, printable
from trainables.storage.folders import AnyPath, is_there, place, read_file
from trainables.storage.lease import is_held

LONGEST = 1e9  # seconds of a trial, 30 years: more is a damaged table, and too much for a time of pandas


@dataclass(frozen=True)
class SizeProgress:
    """The trials of one batch size; `seconds` is the mean time of those ended (None where none has)."""

    batch_size: int
    planned: int | None
    ended: int
    seconds: float | None


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands. Times in seconds; `planned`, `seconds_left` and `last_ended_at` are None where unknown.

    `resume`: the command that goes on with a sweep that has stopped before its end, None for any other.
    """

    planned: int | None
    counts: dict[str, int]
    is_running: bool
    seconds_left: float | None
    last_ended_at: datetime.datetime | None
    last_trial: str | None
    sizes: tuple[SizeProgress, ...]
    resume: str | None = None

    @property
    def ended(self) -> int:
        """Trials that need not run again unless asked: completed, diverged, failed."""
        return sum(self.counts.values())

    @property
    def is_finished(self) -> bool:
        """Whether every planned trial ended."""
        return self.planned is not None and self.ended >= self.planned

    @property
    def sentence(self) -> str:
        """The state in words: `running, 41 of 144 trials ended, about 1 min 20 s left`."""
        of = f"{self.ended} of {self.planned}" if self.planned is not None else f"{self.ended}"
        if self.is_finished or (self.planned is None and not self.is_running):
            return f"{of} trials ended"
        left = f", about {duration(self.seconds_left)}" if self.seconds_left is not None else ""
        if self.is_running:
            return f"running, {of} trials ended" + (f"{left} left" if left else "")
        work = f"{left} of work left" if left else ""
        if not Path("/proc/locks").exists():  # trainables.storage.lease.is_held
            return f"{of} trials ended{work} (whether a run goes on cannot be seen on this system)"
        return f"no run on this machine (stopped, or running elsewhere), {of} trials ended{work}"


def read_progress(folder: str | AnyPath) -> Progress:
    """The progress of the sweep in `folder`, also before its first trial ended.

    Raises UserError where `folder` holds no sweep, or a table or record that cannot be read.
    """
    folder = place(folder)
    return progress_of(ended_trials(folder), folder)


def ended_trials(folder: AnyPath) -> pd.DataFrame:
    """trials.parquet and the records not in it yet, as a frame; empty where no trial of the sweep has ended.

    Trials of an older version of the code than the run's, or than the newest there, do not count.
    """
    try:
        trials = of_newest_version(read_tables(folder))[0].trials.to_pandas()
        running = read_about(folder).get("numbers_version")
        return trials if running is None else trials[trials["numbers_version"].ge(running)]
    except UserError:
        begun = (folder / "sweep.json").exists() and not is_there(folder / "trials.parquet")
        if begun and not any((folder / "trials").glob("[!.]*.json")):
            return pd.DataFrame()
        raise


def progress_of(trials: pd.DataFrame, folder: AnyPath) -> Progress:
    """The progress where the trials that ended are `trials` (columns of trials.parquet)."""
    about = read_about(folder)
    planned = about.get("planned")
    running = is_held(folder)
    if trials.empty:
        resume = None if running else resume_command(about)
        return Progress(planned, dict.fromkeys(STATUSES, 0), running, None, None, None, (), resume)
    status = trials["status"]
    seconds = (trials["train_seconds"].fillna(0.0) + trials["sharpness_seconds"].fillna(0.0)).clip(0.0, LONGEST)
    ended_at = pd.to_datetime(trials["finished_at"], utc=True, errors="coerce")
    last = ended_at.idxmax() if ended_at.notna().any() else None
    waiting = _waiting(trials, about)
    sizes = _sizes(trials["batch_size"], seconds.where(status != "failed"), about.get("batch_sizes"), waiting)
    counts = {name: int((status == name).sum()) for name in STATUSES}
    is_stopped = not running and planned is not None and len(trials) - sum(waiting.values()) < planned
    return Progress(
        planned=planned,
        counts=counts | {"completed": counts["completed"] - sum(waiting.values())},
        is_running=running,
        seconds_left=_seconds_left(sizes, planned, seconds, ended_at, about.get("started_at"), running),
        last_ended_at=None if last is None else ended_at[last].to_pydatetime(),
        last_trial=None if last is None else str(trials["trial_id"][last]),
        sizes=sizes,
        resume=resume_command(about) if is_stopped else None,
    )


def resume_command(about: dict[str, Any]) -> str | None:
    """The command that goes on with the sweep whose sweep.json holds `about`; None where it tells no command."""
    command = [str(word) for word in about.get("command", ())]
    if not command or not re.fullmatch(r"[a-z_]+\.py", command[0]):
        return None
    script, *words = command
    return printable(shlex.join(["python", f"sweeps/{script}", *words, *(["--resume"] * ("--resume" not in words))]))


def read_about(folder: AnyPath) -> dict[str, Any]:
    """The fields of sweep.json that make sense, none where it cannot be read: it only says where a sweep came from."""
    try:
        content = json.loads(read_file(folder / "sweep.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if _FIELDS.get(name, lambda _: True)(value)}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _counts_by_size(value: object) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() and _is_count(count) for key, count in value.items())


def _is_time(value: object) -> bool:
    return isinstance(value, str) and not pd.isna(pd.to_datetime(value, utc=True, errors="coerce"))


_FIELDS = {
    "command": lambda value: isinstance(value, list),
    "started_at": _is_time,
    "planned": _is_count,
    "numbers_version": _is_count,
    "batch_sizes": _counts_by_size,
    "to_measure": _counts_by_size,
}


def _waiting(trials: pd.DataFrame, about: dict[str, Any]) -> dict[int, int]:
    """By batch size, how many trained trials this run has still to measure."""
    plan, started_at = about.get("to_measure"), about.get("started_at")
    if plan is None or started_at is None:
        return {}
    at = pd.to_datetime(trials["measured_at"], utc=True, errors="coerce")
    done = trials.loc[at >= pd.to_datetime(started_at, utc=True), "batch_size"].value_counts()
    return {int(size): max(0, int(number) - int(done.get(int(size), 0))) for size, number in plan.items()}


def _sizes(batch_size: Any, seconds: Any, plan: Any, waiting: dict[int, int]) -> tuple[SizeProgress, ...]:
    plan = {int(size): number for size, number in (plan or {}).items()}
    found = []
    for size in sorted({*plan, *(int(size) for size in batch_size.unique())}):
        own = seconds[batch_size == size]
        mean = own.mean()
        ended = len(own) - waiting.get(size, 0)
        found.append(SizeProgress(size, plan.get(size), ended, None if pd.isna(mean) else float(mean)))
    return tuple(found)


def _seconds_left(
    sizes: tuple[SizeProgress, ...], planned: int | None, seconds: Any, ended_at: Any, started_at: Any, running: bool
) -> float | None:
    start = pd.NaT if started_at is None else pd.to_datetime(started_at, utc=True)
    ended = sum(size.ended for size in sizes)
    if planned is None or planned <= ended or pd.isna(start):
        return None
    in_this_run = ended_at >= start
    work = float(seconds[in_this_run].sum())
    first = (ended_at - pd.to_timedelta(seconds, unit="s"))[in_this_run].min()
    start = max(start, first)  # before the first trial began nothing could be done
    until = pd.Timestamp.now(tz="UTC") if running else ended_at.max()
    if work <= 0 or until <= start:
        return None
    everything = float(seconds.mean())
    by_size = [(size.batch_size, max(0, size.planned - size.ended)) for size in sizes if size.planned is not None]
    missing = sum(number for _, number in by_size)
    means = {size.batch_size: size.seconds for size in sizes if size.seconds is not None}
    left = work_left(by_size, means) if means else missing * everything
    left += max(0, planned - ended - missing) * everything
    return float(left * (until - start).total_seconds() / work)
