"""The example on MNIST in docs/planning.md is what the kept sequential sweep says."""

import re
import shutil
from pathlib import Path

from analysis.data.load import load_sweep
from analysis.questions.free_batch import free_batch
from sweeps.cli.throughput_options import parse
from sweeps.studies.throughput import run_throughput

DOCS = Path(__file__).parents[3] / "docs"
KEPT = DOCS / "kept" / "decided_mnist"


def page() -> str:
    return " ".join((DOCS / "planning.md").read_text().split())


def test_the_losses_over_all_looks() -> None:
    found = free_batch(load_sweep(KEPT))
    assert found is not None
    assert found.largest_noninferior_batch == 16
    assert [row.compared for row in found.rows] == [19, 9, 9]
    lost = found.rows[0].lost
    assert lost is not None
    assert lost.interval is not None
    low, high = (100 * end for end in (lost.interval.low, lost.interval.high))
    assert f"it loses {100 * lost.value:.2f} points ({low:.2f} to {high:.2f})" in page()


def test_the_times_to_the_goal(tmp_path: Path) -> None:
    kept = shutil.copytree(KEPT, tmp_path / "kept")  # figures are written beside it
    options = parse(["--sweep", str(kept), "--goal", "0.38", "--price-per-hour", "2"])
    lines = [line for line in map(str, run_throughput(options)) if "examples/s" in line]
    assert len(lines) == 4
    for line in lines:
        found = re.match(r"  batch (\d+): (.*?\)) s, .*?\), (.*?\)) examples at (.*?\)) examples/s", line)
        assert found is not None
        size, seconds, examples, speed = found.groups()
        assert f"| {size} | {examples} | {speed} | {seconds} |" in page()
