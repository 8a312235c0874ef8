"""The examples in docs/planning.md are what the kept pilot and sequential sweeps say."""

import re
import shutil
from pathlib import Path

import pytest

from analysis.data.load import load_sweep
from analysis.questions.free_batch import free_batch
from analysis.questions.replicates_needed import replicates_needed
from sweeps.cli.throughput_options import parse
from sweeps.studies.planning import plan_lines
from sweeps.studies.throughput import run_throughput

DOCS = Path(__file__).parents[3] / "docs"
KEPT = DOCS / "kept"


def page() -> str:
    return " ".join((DOCS / "planning.md").read_text().split())


def test_the_plan() -> None:
    sweep = load_sweep(KEPT / "pilot_digits")
    lines = plan_lines(replicates_needed(sweep, 0.8, 4), sweep.metric, sweep.batch_unit, "pilot", at_once=2)
    table = lines[(first := next(place for place, line in enumerate(lines) if line.startswith("batch"))) : first + 4]
    assert [line.split()[0] for line in table] == ["batch", "32", "64", "300"]
    assert "\n".join(table) in (DOCS / "planning.md").read_text()
    assert "is at least 76 %" in "".join(lines)
    assert "80 % needs 95 replicates" in "".join(lines)
    assert "their power is at least 76 %, and a power of 80 % needs 95 replicates" in page()
    assert "--max-replicates 92" in "".join(lines)


@pytest.mark.parametrize(
    ("folder", "largest", "replicates", "told"),
    [("decided_digits", 64, [48, 92, 48], [64, 300]), ("decided_mnist", 16, [19, 9, 9], [64])],
)
def test_the_losses_over_all_looks(folder: str, largest: int, replicates: list[int], told: list[int]) -> None:
    found = free_batch(load_sweep(KEPT / folder))
    assert found is not None
    assert found.largest_noninferior_batch == largest
    assert [row.compared for row in found.rows] == replicates
    for row in found.rows:
        if row.batch_size in told:
            assert row.lost is not None
            assert row.lost.interval is not None
            low, high = (100 * end for end in (row.lost.interval.low, row.lost.interval.high))
            assert f"loses {100 * row.lost.value:.2f} points ({low:.2f} to {high:.2f})" in page()


def test_the_times_to_the_goal(tmp_path: Path) -> None:
    kept = shutil.copytree(KEPT / "decided_mnist", tmp_path / "kept")  # figures are written beside it
    options = parse(["--sweep", str(kept), "--goal", "0.38", "--price-per-hour", "2"])
    lines = [line for line in map(str, run_throughput(options)) if "examples/s" in line]
    assert len(lines) == 4
    for line in lines:
        found = re.match(r"  batch (\d+): (.*?\)) s, .*?\), (.*?\)) examples at (.*?\)) examples/s", line)
        assert found is not None
        size, seconds, examples, speed = found.groups()
        assert f"| {size} | {examples} | {speed} | {seconds} |" in page()
