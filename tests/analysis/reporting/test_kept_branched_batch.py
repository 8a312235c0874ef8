"""The tables in docs/branched_batch.md are what the kept results say."""

import re
import shutil
from pathlib import Path

import pytest

from analysis.branched_batch import main
from analysis.data.load import load_sweep
from analysis.questions.branched_batch import branched_batch

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("name", "points"), [("digits", 4), ("gpt", 3)])
def test_the_page_shows_the_kept_results(
    name: str, points: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = shutil.copytree(DOCS / "kept" / f"branched_batch_{name}", tmp_path / "kept")
    assert main([str(kept)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    _, _, part = (DOCS / "branched_batch.md").read_text().partition(f"(figures/branched_batch_{name}.png)")
    rows = [line.strip("| ").split(" | ") for line in part.split("\n## ")[0].splitlines() if line.startswith("| ")]
    at_points = [row[1:] for row in rows if len(row) == 4 and " " in row[0] and row[0][0].isdigit()]
    ways = [row for row in rows if row[0].startswith(("constant", "schedule", "Seesaw"))]
    assert (len(at_points), len(ways)) == (points, 4)
    found = branched_batch(load_sweep(kept))

    def shown(size: int | None) -> str:
        return f"none ({found.batch_size})" if size is None else str(size)

    limits = [point.boundary for point in found.points]
    assert at_points == [
        [shown(one.best_guess), shown(one.within), f"from {one.beyond}" if one.beyond else "none"] for one in limits
    ]
    assert not any(point.differs_from_itself for point in found.points)
    for way, steps, loss, *difference in ways:
        assert f"{re.split(',| `', way)[0]}: {steps} steps, loss {loss}" in said
        for value in re.findall(r"[+−][0-9.]+", " ".join(difference)):
            assert value in said
