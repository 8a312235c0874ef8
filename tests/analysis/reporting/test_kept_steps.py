"""The example in docs/steps_to_result.md is what the kept results say."""

import shutil
from pathlib import Path

from analysis.reporting.tuned_steps import tuned_steps_lines

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_shows_the_kept_results(tmp_path: Path) -> None:
    kept = shutil.copytree(DOCS / "kept" / "steps_to_result_digits", tmp_path / "kept")  # figures are written beside it
    said = tuned_steps_lines(kept)
    page = (DOCS / "steps_to_result.md").read_text()
    shown = next(block for block in page.split("```") if block.startswith("\nSteps to")).strip().splitlines()
    assert len(shown) == 12
    assert set(shown) <= set(said)
