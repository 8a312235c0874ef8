"""The example in docs/optimizer_ladder.md is what the kept results say."""

import shutil
from pathlib import Path

from analysis.reporting.optimizer_ladder import ladder_lines

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_shows_the_kept_results(tmp_path: Path) -> None:
    kept = shutil.copytree(
        DOCS / "kept" / "optimizer_ladder_digits", tmp_path / "kept"
    )  # figures are written beside it
    said = ladder_lines(kept)
    page = (DOCS / "optimizer_ladder.md").read_text()
    shown = next(block for block in page.split("```") if block.startswith("\nAt batch")).strip("\n").splitlines()
    assert len(shown) > 20
    assert shown == said[: len(shown)]
