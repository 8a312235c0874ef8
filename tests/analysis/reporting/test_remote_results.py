"""What analyses say of results on remote storage, and write there, is what they say of the same results in a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from made_up import copied, grid

from analysis.data.load import load_sweep
from analysis.reporting.optimizer_ladder import ladder_lines
from analysis.reporting.report import write_report
from analysis.reporting.tuned_steps import tuned_steps_lines
from trainables.storage.folders import AnyPath, is_there, place

KEPT = Path(__file__).resolve().parents[3] / "docs" / "kept"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("kept", "lines_of"),
    [("steps_to_result_digits", tuned_steps_lines), ("optimizer_ladder_digits", ladder_lines)],
)
def test_a_search(kept: str, lines_of: Callable[[AnyPath], Sequence[str]], tmp_path: Path) -> None:
    said: list[list[str]] = []
    for target in (tmp_path / "here", place(f"mock://{tmp_path}/there")):
        folder = copied(KEPT / kept, target)
        said.append([line.replace(str(folder), "FOLDER") for line in lines_of(folder)])
        figures = [part for part in said[-1][-1].replace(",", " ").split() if part.startswith("figures/")]
        assert figures
        assert all(is_there(folder / "figures" / name.removeprefix("figures/")) for name in figures)
    assert said[0] == said[1]


@pytest.mark.usefixtures("undrawn")
def test_a_report(write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    folder = copied(write_sweep(grid()), place(f"mock://{tmp_path}/there"))
    path = write_report(load_sweep(folder))
    assert path == folder / "report.html"
    assert path.exists()
