"""The table in docs/planning.md is what the kept results say."""

from pathlib import Path

from analysis.data.load import load_sweep
from analysis.questions.critical_batch import shown
from analysis.questions.data_size import QUANTITIES, data_sizes, lines

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_shows_the_kept_results() -> None:
    found = data_sizes([load_sweep(DOCS / "kept" / "data_size_digits")])
    page = (DOCS / "planning.md").read_text()
    for size, one in found.found.items():
        assert f"| {size} | {' | '.join(shown(getattr(one, name)) for name in QUANTITIES)} |" in page
    said = lines(found, [5000])
    assert [line.split(": ")[1].split(",")[0] for line in said if "withheld" in line] == ["withheld", "withheld"]
    assert "at 5000 examples: 13800 (95 % prediction interval 8780 to 21600;" in said[-1]
    assert "| 13800 [8780, 21600] |" in page
