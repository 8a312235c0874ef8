"""The tables in docs/branched_batch.md are what the kept results say."""

import re
import shutil
from pathlib import Path

import pytest

from analysis.branched_batch import main

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["digits", "gpt"])
def test_the_page_shows_the_kept_results(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = shutil.copytree(DOCS / "kept" / f"branched_batch_{name}", tmp_path / "kept")
    assert main([str(kept)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    _, _, part = (DOCS / "branched_batch.md").read_text().partition(f"(figures/branched_batch_{name}.png)")
    rows = [line.strip("| ").split(" | ") for line in part.split("\n## ")[0].splitlines() if line.startswith("| ")]
    at_points = [row for row in rows if len(row) == 4 and " " in row[0] and row[0][0].isdigit()]
    ways = [row for row in rows if row[0].startswith(("constant", "schedule", "Seesaw"))]
    assert (len(at_points), len(ways)) == ({"digits": 4, "gpt": 3}[name], 4)
    for _, by_means, _, beyond in at_points:
        tokens = r"(?: \(\d+ tokens\))?"
        guess = f"up to batch {by_means}{tokens}" if by_means.isdigit() else "no larger batch size"
        limit = "none significantly beyond it"
        if beyond != "none":
            limit = f"beyond it from batch {beyond.split()[-1]}{tokens} on"
        assert re.search(f"{guess} by the means[^:]*; {limit}|{guess} by the means[^:]*{limit}", said)
    for way, steps, loss, *difference in ways:
        assert f"{re.split(',| `', way)[0]}: {steps} steps, loss {loss}" in said
        for found in re.findall(r"[+−][0-9.]+", " ".join(difference)):
            assert found in said
