"""The result on digits in docs/tuned_gap.md is what the kept tuned sweep says."""

import shutil
from pathlib import Path

from analysis.reporting.tuned_gap import tuned_gap_lines

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_shows_what_the_script_prints(tmp_path: Path) -> None:
    kept = shutil.copytree(DOCS / "kept" / "tuned_gap_digits", tmp_path / "kept")  # figures are written beside it
    lines = "\n".join(map(str, tuned_gap_lines(kept))).splitlines()
    shown = lines[: next(place for place, line in enumerate(lines) if line.startswith("Equal:"))]
    assert any(line.split()[:1] == ["300"] for line in shown)
    assert "\n".join(shown) in (DOCS / "tuned_gap.md").read_text()
