"""The example in docs/scaling_rules.md is what the kept results say."""

import shutil
from pathlib import Path

from analysis.data.load import load_sweep
from analysis.reporting.scaling_rules import report

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_shows_the_kept_results(tmp_path: Path) -> None:
    kept = shutil.copytree(DOCS / "kept" / "scaling_rules_digits", tmp_path / "kept")  # figures are written beside it
    said = report(load_sweep(kept))
    page = (DOCS / "scaling_rules.md").read_text()
    shown = next(block for block in page.split("```") if block.startswith("\nRetuned:")).strip("\n").splitlines()
    assert len(shown) > 20
    assert shown == said[-len(shown) :]
