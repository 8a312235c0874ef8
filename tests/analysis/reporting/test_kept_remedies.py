"""The tables in docs/remedies.md are what the kept results say."""

from pathlib import Path

import pytest
from narrow import not_none

from analysis.data.load import load_sweep
from analysis.questions.remedies import Remedy, remedies
from analysis.stats.means import Mean
from analysis.stats.wording import three_digits

DOCS = Path(__file__).parents[3] / "docs"


def points(mean: Mean) -> str:
    ends = not_none(mean.interval)
    return f"{100 * mean.value:+.2f} [{100 * ends.low:.2f}, {100 * ends.high:.2f}]".replace("-", "−")


def ratio(mean: Mean | None) -> str:
    found = not_none(mean)
    ends = not_none(found.interval)
    return f"{three_digits(found.value)} [{three_digits(ends.low)}, {three_digits(ends.high)}]"


def row(found: Remedy) -> str:
    cells = [
        f"`{found.name}`" + " *" * (found.off_target == found.trials),
        points(found.gain),
        f"{not_none(found.corrected_p):.2g}",
        ratio(found.box_sharpness_ratio),
        three_digits(not_none(found.steps_ratio).value),
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize(("folder", "batch_size", "count"), [("remedies_digits", 300, 13), ("remedies_mnist", 200, 9)])
def test_the_page_shows_the_kept_results(folder: str, batch_size: int, count: int) -> None:
    page = (DOCS / "remedies.md").read_text()
    found = [one for one in remedies(load_sweep(DOCS / "kept" / folder)) if one.batch_size == batch_size]
    assert len(found) == count
    assert "\n".join(map(row, found)) in page
