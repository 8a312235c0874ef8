"""How a running sweep shows itself: a live table on a terminal, plain lines anywhere else.

It is a Tune callback, so it sees trials start, end and fail; it prints what a person wants to know (done, running,
failed, time left, the best and the sharpest so far) in place of Tune's own output.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from trainables.config import TrialConfig

PLAIN_SECONDS = 5.0  # between two lines where the output is not a terminal


class Progress(tune.Callback):  # type: ignore[misc]
    """Counts and shows the trials of one run; `errors` holds why trials failed outside themselves, by trial_id."""

    def __init__(self, configs: Sequence[TrialConfig], already_done: int, console: Console | None = None) -> None:
        self.errors: dict[str, str] = {}
        self._console = console or Console(highlight=False)
        self._configs = {config.trial_id: config for config in configs}
        self._already_done = already_done
        self._started_at: dict[str, float] = {}
        self._ended: dict[str, tuple[str, float]] = {}  # status and seconds
        self._best: tuple[float, str] | None = None
        self._sharpest: tuple[float, str] | None = None
        self._begun = time.monotonic()
        self._printed_at = -math.inf
        self._live: Live | None = None

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune pickles its callbacks into its snapshots, which are never restored."""
        return {}

    def begin(self, resources: dict[str, float], dashboard: str | None) -> None:
        """Says what the sweep runs on and starts the display."""
        gpus = f", {resources['GPU']:g} GPUs" if resources.get("GPU") else ""
        self._console.print(
            f"Ray: {resources.get('CPU', 0):g} CPUs{gpus}" + (f", dashboard {dashboard}" if dashboard else "")
        )
        self._begun = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=4)
            self._live.start()

    def end(self) -> None:
        """Takes the display down, leaving its last state on the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._started_at[_key(trial)] = time.monotonic()
        self._print_line()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        self._end(_key(trial), result.get("status", "failed"))
        self._remember(_key(trial), result)
        self._print_line(only_last=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_error()
        self.errors[_key(trial)] = str(error) if error else "the worker died"
        self._end(_key(trial), "failed")
        self._print_line(only_last=True)

    def _end(self, key: str, status: str) -> None:
        now = time.monotonic()
        self._ended[key] = (status, now - self._started_at.pop(key, now))

    def _remember(self, key: str, result: dict[str, Any]) -> None:
        label = self._configs[key].label
        accuracy, sharpness = result.get("test_accuracy"), result.get("box_sharpness")
        if accuracy is not None and (self._best is None or accuracy > self._best[0]):
            self._best = (accuracy, label)
        if sharpness is not None and (self._sharpest is None or sharpness > self._sharpest[0]):
            self._sharpest = (sharpness, label)

    def _seconds_left(self) -> float | None:
        """From the mean time of the ended trials of the same batch size, else of all ended ones."""
        by_size: dict[int, list[float]] = {}
        for key, (_, seconds) in self._ended.items():
            by_size.setdefault(self._configs[key].batch_size, []).append(seconds)
        everything = [seconds for sizes in by_size.values() for seconds in sizes]
        if not everything:
            return None
        work = 0.0
        now = time.monotonic()
        for key, config in self._configs.items():
            if key not in self._ended:
                known = by_size.get(config.batch_size, everything)
                work += max(0.0, sum(known) / len(known) - (now - self._started_at.get(key, now)))
        return work / max(1, len(self._started_at))

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
            f"{counts['done']}/{counts['total']} trials done, {counts['running']} running, {counts['failed']} failed, "
            f"{counts['diverged']} diverged, {duration(self._seconds_left())} left{_named('; best', self._best_text())}"
            f"{_named('; sharpest', self._sharpest_text())}",
            soft_wrap=True,
        )

    def _best_text(self) -> str | None:
        return None if self._best is None else f"{100 * self._best[0]:.2f} % test accuracy ({self._best[1]})"

    def _sharpest_text(self) -> str | None:
        return None if self._sharpest is None else f"{self._sharpest[0]:.3g} % box sharpness ({self._sharpest[1]})"

    def _table(self) -> Table:
        counts = self._counts()
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold")
        table.add_column()
        table.add_row(
            f"{counts['done']}/{counts['total']} trials",
            ProgressBar(total=max(1, counts["total"]), completed=counts["done"], width=40),
        )
        table.add_row("running", f"{counts['running']}, failed {counts['failed']}, diverged {counts['diverged']}")
        elapsed = time.monotonic() - self._begun
        table.add_row("time", f"{duration(elapsed)} so far, {duration(self._seconds_left())} left")
        table.add_row("best", self._best_text() or "none yet")
        table.add_row("sharpest", self._sharpest_text() or "none yet")
        return table


def _key(trial: Any) -> str:
    return str(trial.config["trial_id"])


def _named(name: str, text: str | None) -> str:
    return f"{name} {text}" if text else ""


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `1 min 20 s`."""
    if seconds is None:
        return "unknown time"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
