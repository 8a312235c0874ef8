"""How a running sweep shows itself: a live table on a terminal, plain lines anywhere else.

It is a Tune callback, so it sees trials start, end and fail; it prints what a person wants to know (done, running,
failed, time left, the best and the sharpest so far, and the results by batch size) in place of Tune's own output.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from analysis.data.metric import Metric
from analysis.data.time_left import expected_seconds, mean_by_size
from sweeps.monitoring.batch_size_table import BatchSizeTable
from sweeps.monitoring.consoles import literal_console
from trainables.config import TrialConfig
from trainables.runtime.text import duration

PLAIN_SECONDS = 5.0  # between two lines where the output is not a terminal
RESULTS = ("test_metric", "test_accuracy", "box_sharpness")  # that are shown
QUIET_SECONDS = 60.0  # of a long trial, after which a line says how far it is


class Progress(tune.Callback):  # type: ignore[misc]
    """Counts and shows the trials of one run; `errors` holds why trials failed outside themselves, by trial_id."""

    def __init__(
        self,
        configs: Sequence[TrialConfig],
        already_done: int,
        console: Console | None = None,
        ended: Sequence[Mapping[str, Any]] = (),
        *,
        hides_results: bool = False,
    ) -> None:
        """`ended`: the rows of trials.parquet of those already done, as far as the table by batch size knows them.

        `hides_results`: of a sequential sweep, whose results are looked at when planned.
        """
        self.errors: dict[str, str] = {}
        self._console = console or literal_console()
        self._configs = {config.trial_id: config for config in configs}
        self._hides_results = hides_results
        self._by_size = BatchSizeTable(configs, [*map(self._shown, ended)])
        self._already_done = already_done
        self._started_at: dict[str, float] = {}
        self._epochs: dict[str, float] = {}  # of the trials that run, as far as they have reported
        self._ended: dict[str, tuple[str, float]] = {}  # status and seconds
        self._best: tuple[float, str] | None = None  # its score, and the words for it
        self._sharpest: tuple[float, str] | None = None
        self._begun = time.monotonic()
        self._first_at: float | None = None
        self._printed_at = -math.inf
        self._live: Live | None = None

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune pickles its callbacks into its snapshots, which are never restored."""
        return {}

    def starting(self, address: str | None) -> None:
        """Says that Ray starts on this machine, or that the cluster at `address` is called; both take seconds."""
        self._console.print("Starting Ray." if address is None else f"Connecting to Ray at {address}.")

    def begin(self, resources: dict[str, float], dashboard: str | None) -> None:
        """Says what the sweep runs on and starts the display."""
        gpus = f", {resources['GPU']:g} GPUs" if resources.get("GPU") else ""
        self._console.print(
            f"Ray: {resources.get('CPU', 0):g} CPUs{gpus}" + (f", dashboard {dashboard}" if dashboard else "")
        )
        self._begun = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._display, refresh_per_second=4)
            self._live.start()

    def end(self) -> None:
        """Takes the display down, leaving its last state on the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._started_at[key_of(trial)] = time.monotonic()
        self._print_line()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if key_of(trial) in self._started_at and result.get("epoch"):
            self._epochs[key_of(trial)] = result["epoch"]
        if time.monotonic() - self._printed_at >= QUIET_SECONDS:
            self._print_line()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        self._end(key_of(trial), result.get("status", "failed"), result.get("time_total_s", math.inf))
        self._remember(key_of(trial), result)
        self._print_line(only_last=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_error()
        self.errors[key_of(trial)] = str(error) if error else "the worker died"
        self._end(key_of(trial), "failed")
        if key_of(trial) in self._configs:
            self._by_size.add(self._configs[key_of(trial)], {"status": "failed"})
        self._print_line(only_last=True)

    def _end(self, key: str, status: str, seconds: float = math.inf) -> None:
        """`seconds` as the worker counts them; the driver's own count of a first trial has the worker's start in it."""
        now = time.monotonic()
        self._epochs.pop(key, None)
        seconds = min(seconds, now - self._started_at.pop(key, now))
        self._ended[key] = (status, seconds)
        self._first_at = now - seconds if self._first_at is None else self._first_at

    def _shown(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """`row` with the results that may be shown."""
        return {**row, **(dict.fromkeys(RESULTS) if self._hides_results else {})}

    def _remember(self, key: str, result: dict[str, Any]) -> None:
        result = self._shown(result)
        label, sharpness = self._configs[key].label, result.get("box_sharpness")
        self._by_size.add(self._configs[key], result)
        self._remember_best(label, result, "test")
        if sharpness is not None and (self._sharpest is None or sharpness > self._sharpest[0]):
            self._sharpest = (sharpness, label)

    def _remember_best(self, label: str, result: dict[str, Any], of: str) -> None:
        """Notes the primary metric of the trial if it is the best so far; `of` says on which examples it is."""
        metric = Metric.of_row(result)
        value = result.get("test_metric", result.get("test_accuracy"))
        if value is not None and (self._best is None or metric.sign * value > self._best[0]):
            self._best = (metric.sign * value, f"{metric.named(value, of)} ({label})")

    def _seconds_left(self) -> float | None:
        """Work left over speed: seconds of trials, by the mean of each batch size, over how many the run does a second.

        For a batch size of which none has ended it is the mean of the nearest that has: the first to end are all of
        one size. Speed is taken from the first trial on, not from the start of its worker. No end is nearer than that
        of the longest trial. Until a first trial has ended its time is projected from its epochs, without measures: a
        lower bound, and None for trials that may stop before their last epoch.
        """
        ended = [(self._configs[key].batch_size, seconds) for key, (_, seconds) in self._ended.items()]
        first_at = self._first_at
        if not ended:
            for key, epoch in self._epochs.items():
                config, began = self._configs[key], self._started_at[key]
                if not config.has_target:
                    projected = (time.monotonic() - began) * max(1.0, config.total_epochs / epoch)
                    ended.append((config.batch_size, projected))
                    first_at = began if first_at is None else min(began, first_at)
        if not ended or first_at is None:
            return None
        means = mean_by_size(ended)
        done = sum(seconds for _, seconds in self._ended.values())
        now = time.monotonic()
        work = longest = 0.0
        for key, config in self._configs.items():
            if key not in self._ended:
                mean = expected_seconds(config.batch_size, means)
                spent = min(mean, now - self._started_at.get(key, now))
                work += mean - spent
                longest = max(longest, mean - spent)
                done += spent
        return max(longest, work * (now - first_at) / max(done, 1e-9))

    def _counts(self) -> dict[str, int]:
        statuses = [status for status, _ in self._ended.values()]
        return {
            "total": self._already_done + len(self._configs),
            "done": self._already_done + len(statuses),
            "running": len(self._started_at),
            "failed": statuses.count("failed"),
            "diverged": statuses.count("diverged"),
        }

    def _print_line(self, only_last: bool = False) -> None:
        """A plain line, not too often, but always one at the end."""
        counts = self._counts()
        now = time.monotonic()
        due = counts["done"] == counts["total"] or not (only_last or now - self._printed_at < PLAIN_SECONDS)
        if self._live is not None or not due:
            return
        self._printed_at = now
        self._console.print(
            f"{counts['done']}/{counts['total']} trials done, {counts['running']} running{self._epochs_text()}, "
            f"{counts['failed']} failed, {counts['diverged']} diverged, {self._left_text()}"
            f"{_named('; best', self._best_text())}"
            f"{_named('; sharpest', self._sharpest_text())}",
            soft_wrap=True,
        )

    def _left_text(self) -> str:
        seconds = self._seconds_left()
        least = "" if self._ended or seconds is None else "at least "
        return f"{least}{duration(seconds)} left"

    def _epochs_text(self) -> str:
        """How far the trials that run are, where they have reported: ` (epoch 13 to 16)`."""
        if not self._epochs:
            return ""
        first, last = (f"{round(end(self._epochs.values()), 1):.10g}" for end in (min, max))
        return f" (epoch {first})" if first == last else f" (epoch {first} to {last})"

    def _best_text(self) -> str | None:
        return None if self._best is None else self._best[1]

    def _sharpest_text(self) -> str | None:
        return None if self._sharpest is None else f"{self._sharpest[0]:.3g} % box sharpness ({self._sharpest[1]})"

    def _display(self) -> Group:
        return Group(self._table(), *filter(None, [self._by_size.table()]))

    def _table(self) -> Table:
        counts = self._counts()
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold")
        table.add_column()
        table.add_row(
            f"{counts['done']}/{counts['total']} trials",
            ProgressBar(total=max(1, counts["total"]), completed=counts["done"], width=40),
        )
        table.add_row(
            "running",
            f"{counts['running']}{self._epochs_text()}, failed {counts['failed']}, diverged {counts['diverged']}",
        )
        elapsed = time.monotonic() - self._begun
        table.add_row("time", f"{duration(elapsed)} so far, {self._left_text()}")
        if self._hides_results:
            table.add_row("results", "not shown before the next look")
            return table
        table.add_row("best", self._best_text() or "none yet")
        table.add_row("sharpest", self._sharpest_text() or "none yet")
        return table


def key_of(trial: Any) -> str:
    """The trial_id of a trial of Tune."""
    return str(trial.config["trial_id"])


def _named(name: str, text: str | None) -> str:
    return f"{name} {text}" if text else ""
