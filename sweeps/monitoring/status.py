"""How far a sweep is that runs elsewhere: in another terminal, in the background, on a cluster's shared folder.

It reads the results folder alone (analysis/data/progress.py says how time left is estimated), asks no Ray, changes
nothing.
"""

import contextlib
import datetime
import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from analysis.data.progress import Progress, read_progress
from trainables.runtime.text import duration
from trainables.storage.folders import AnyPath

WATCH_SECONDS = 2.0


def status_view(name: str, progress: Progress, *, bar: bool) -> Group:
    """The state in words, a bar if asked for, the last trial, and a row per batch size; fits 80 columns."""
    lines: list[Text | ProgressBar | Table] = [Text(f"{name}: {progress.sentence}")]
    if bar and progress.planned:
        lines.append(ProgressBar(total=progress.planned, completed=min(progress.ended, progress.planned), width=60))
    lines.append(Text(", ".join(f"{count} {status}" for status, count in progress.counts.items())))
    if progress.last_ended_at is not None:
        ago = (datetime.datetime.now(datetime.UTC) - progress.last_ended_at).total_seconds()
        lines.append(Text(f"last ended: {progress.last_trial}, {duration(max(0.0, ago))} ago"))
    if progress.resume:
        lines.append(Text(f"to go on: {progress.resume}"))
    if progress.sizes:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for head in ("batch size", "ended", "planned", "seconds per trial"):
            table.add_column(head, justify="right")
        for size in progress.sizes:
            planned = "" if size.planned is None else str(size.planned)
            seconds = "" if size.seconds is None else f"{size.seconds:.3g}"
            table.add_row(str(size.batch_size), str(size.ended), planned, seconds)
        lines.append(table)
    return Group(*lines)


def show(folder: AnyPath, *, watch: bool, console: Console) -> int:
    """Prints the status of `folder` once, or until it is finished; raises UserError where it holds no sweep."""
    name = folder.resolve().name
    progress = read_progress(folder)
    if not watch:
        console.print(status_view(name, progress, bar=console.is_terminal))
    elif not console.is_terminal:
        for news in _until_finished(folder, progress):
            console.print(f"{name}: {news.sentence}")
    else:
        with Live(console=console, auto_refresh=False) as live:
            for news in _until_finished(folder, progress):
                live.update(status_view(name, news, bar=True), refresh=True)
    return 0


def _until_finished(folder: AnyPath, progress: Progress) -> Iterator[Progress]:
    """The progress now, then every WATCH_SECONDS; ends with the sweep, or quietly with Ctrl-C."""
    yield progress
    with contextlib.suppress(KeyboardInterrupt):
        while not progress.is_finished:
            time.sleep(WATCH_SECONDS)
            yield (progress := read_progress(folder))
