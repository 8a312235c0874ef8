"""The README and docs/measured.md show the answer of the default sweep that is kept in docs/kept/default_digits."""

from pathlib import Path

import pytest
from narrow import not_none

from analysis.data.load import BOX_PAPER, BOX_STRONG, MAX_EIG, Sweep, load_sweep
from analysis.data.progress import progress_of
from analysis.questions.association import associate
from analysis.questions.free_batch import FreeBatch, free_batch
from analysis.questions.losses_by_setting import differing_losses
from analysis.questions.remedies import remedies
from analysis.reporting.gap_answer import named_remedy
from analysis.reporting.headline import headline_lines
from analysis.stats.means import Mean

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    return load_sweep(PROJECT / "docs" / "kept" / "default_digits")


def test_the_readme_shows_the_last_lines(sweep: Sweep) -> None:
    lines = headline_lines(sweep, progress_of(sweep.trials, sweep.folder), 80)
    assert "\n".join(["```", *lines, "```"]) in (PROJECT / "README.md").read_text(encoding="utf-8")


def test_the_page_of_results_has_its_numbers(sweep: Sweep) -> None:
    text = (PROJECT / "docs" / "measured.md").read_text(encoding="utf-8")
    said = " ".join(text.split("## Digits, the default sweep")[1].split("\n## ")[0].split())
    matched, tuned = (not_none(free_batch(sweep, chosen)) for chosen in ("matched", "tuned"))
    passed = next(row for row in matched.rows if row.batch_size == matched.largest_noninferior_batch)
    assert f"Up to batch {passed.batch_size}, test accuracy is non-inferior" in said
    losses = [passed.lost, largest(matched), largest(tuned), *differing_losses(sweep, 300).values()]
    for lost in losses:
        assert points(lost) in said
    for measure in (BOX_STRONG, BOX_PAPER, MAX_EIG):
        found = associate(sweep, measure).matched
        ends = not_none(found.interval)
        shown = f"{not_none(found.value):+.2f} ({ends.low:.2f} to {ends.high:+.2f})"
        assert shown.replace("-", "−") in said
    gain = named_remedy(remedies(sweep)).gain
    assert f"gains {points(gain)}, simultaneous" in said


def largest(found: FreeBatch) -> Mean | None:
    return found.rows[-1].lost


def points(mean: Mean | None) -> str:
    found = not_none(mean).times(100)
    ends = not_none(found.interval)
    return f"{found.value:.2f} points ({ends.low:.2f} to {ends.high:.2f}".replace("-", "−")
