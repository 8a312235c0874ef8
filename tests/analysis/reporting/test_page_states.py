"""The report in states of its own: of the default sweep's size, of a sweep that has not ended, with skew intervals."""

import re
from pathlib import Path
from typing import Any

import made_up
from browser import Watched

from analysis.data.load import load_sweep
from analysis.data.progress import Progress, SizeProgress, progress_of
from analysis.questions.remedies import remedies
from analysis.reporting.page import page_html
from analysis.reporting.page.data import page_data

MEGABYTE = 1_000_000


def test_the_report_of_the_default_sweep_is_below_two_megabytes(tmp_path: Path) -> None:
    records = made_up.grid((16, 32, 64, 128, 512), seeds=range(4), switch_epochs=(None, 5), warmups=(0.0, 5.0))
    records = [made_up.with_epochs(found, number=400) for found in records]
    assert len(records) >= 144
    sweep = load_sweep(made_up.write(tmp_path / "default", records))
    page = page_html(sweep.name, page_data(sweep, progress_of(sweep.trials, sweep.folder)))
    assert len(page.encode()) < 2 * MEGABYTE


def test_a_sweep_that_runs_is_preliminary(browser: Any, tmp_path: Path) -> None:
    sweep = load_sweep(made_up.write(tmp_path / "running", made_up.grid()))
    sizes = tuple(SizeProgress(size, 10, 10, 1.0) for size in (16, 64, 512))
    counts = {"completed": 30, "diverged": 0, "failed": 0}
    progress = Progress(40, counts, True, None, None, None, sizes)
    path = tmp_path / "running.html"
    path.write_text(page_html(sweep.name, page_data(sweep, progress)))
    page = Watched(browser).page
    page.goto(path.as_uri())
    badge = page.locator(".badge")
    assert badge.is_visible()
    assert badge.inner_text().startswith("PRELIMINARY 30 of 40 trials.")
    assert page.locator(".card").count() == 3
    page.close()


def test_a_share_is_shown_with_the_ends_of_its_interval(opened: Any, sweep: Path) -> None:
    """Fieller's interval is not symmetric: a half-width would be wrong."""
    cells = opened.locator("table:has(caption:text-is('Remedies')) tbody tr").first.locator("th, td").all_inner_texts()
    best = remedies(load_sweep(sweep))[0]
    assert best.share is not None
    assert best.share.interval is not None
    low, high = (f"{100 * end:.0f}".replace("-", "−") for end in (best.share.interval.low, best.share.interval.high))
    share = next(text for text in cells if "[" in text)
    assert re.sub(r"\s+", " ", share) == f"{100 * best.share.value:.0f} [{low}, {high}]"
    assert not any("-" in text for text in cells[2:7])  # minus signs, not hyphens
