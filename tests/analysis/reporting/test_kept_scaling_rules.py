"""The examples in docs/scaling_rules.md are what the kept results say."""

import shutil
from pathlib import Path

import pytest

from analysis.data.load import load_sweep
from analysis.reporting.scaling_rules import report

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(
    ("folder", "place"), [("scaling_rules_digits", 0), ("scaling_rules_ema", 1), ("scaling_rules_gpt", 2)]
)
def test_the_page_shows_the_kept_results(tmp_path: Path, folder: str, place: int) -> None:
    kept = shutil.copytree(DOCS / "kept" / folder, tmp_path / "kept")  # figures are written beside it
    said = report(load_sweep(kept))
    page = (DOCS / "scaling_rules.md").read_text()
    blocks = [block for block in page.split("```") if block.startswith("\nRetuned:")]
    shown = blocks[place].strip("\n").splitlines()
    assert len(shown) > 20
    assert shown == said[-len(shown) :]
