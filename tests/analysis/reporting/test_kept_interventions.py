"""The shares in docs/intervention.md are what the kept experiments say."""

import shutil
from pathlib import Path

import pytest

from analysis.reporting.intervention import report

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_page_shows_the_kept_results(tmp_path: Path, name: str) -> None:
    kept = shutil.copytree(DOCS / "kept" / f"sharpness_intervention_{name}", tmp_path / "kept")
    said = [" ".join(line.split()) for line in report(kept)]
    gap = next(place for place, line in enumerate(said) if line.startswith("Gap of batch"))
    shares = {}
    for line in said[gap + 1 : gap + 7]:
        measure, share = line.removeprefix("through ").split(": ")
        value, interval = share.removesuffix(")").split(" % of the gap (95 % CI ")
        shares[measure] = f"{value} ({interval})"
    assert len(shares) == 6
    page = (DOCS / "intervention.md").read_text()
    for measure, share in shares.items():
        assert f"| {measure} | {share} |" in page
