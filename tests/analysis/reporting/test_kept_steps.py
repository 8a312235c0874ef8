"""The example in docs/steps_to_result.md is what the kept results say."""

import dataclasses
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from analysis import steps_to_result
from analysis.questions.tuned_steps import load_tuned_steps
from analysis.reporting.tuned_steps import goal_lines, tuned_steps_lines
from trainables.runtime.errors import UserError

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(("name", "place", "lines"), [("digits", 0, 12), ("momentum", 1, 5), ("gpt", 2, 14)])
def test_the_page_shows_the_kept_results(name: str, place: int, lines: int, tmp_path: Path) -> None:
    kept = shutil.copytree(
        DOCS / "kept" / f"steps_to_result_{name}", tmp_path / "kept"
    )  # figures are written beside it
    said = tuned_steps_lines(kept)
    page = (DOCS / "steps_to_result.md").read_text()
    blocks = [block for block in page.split("```") if block.startswith("\nSteps to")]
    shown = blocks[place].strip().splitlines()
    assert len(shown) == lines
    assert set(shown) <= set(said)


def test_what_is_not_settled_is_said() -> None:
    """A learning rate at the end of its range, and a goal that is reached by the first evaluation."""
    one = load_tuned_steps(DOCS / "kept" / "steps_to_result_digits")[0]
    assert one.found is not None
    assert not any(line.startswith("Not settled") for line in goal_lines(one))
    first, *others = one.found.rows
    rows = (dataclasses.replace(first, is_bound=True), *others)
    at_ends = {"learning_rate": (128, 300), "momentum": (8,)}
    doubted = dataclasses.replace(one, found=dataclasses.replace(one.found, rows=rows), edges=at_ends)
    edges, momentum, early = goal_lines(doubted)[-3:]
    assert momentum.startswith("Not settled: the momentum chosen for batch 8 is at an end")
    assert edges.startswith("Not settled: the learning rate chosen for batch 128, 300 is at an end")
    assert early.startswith("Not settled: runs of batch 8 reach the goal by their first evaluation")
    missed = goal_lines(dataclasses.replace(one, found=None))
    assert missed == [
        "40 of 48 settings reach test_loss <= 0.5, but no batch size's fastest one does in every replicate."
    ]


def test_options_that_ask_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A goal of the search has the same answer alone as beside the others; what a search cannot answer is one line."""
    folder = shutil.copytree(DOCS / "kept" / "steps_to_result_digits", tmp_path / "kept")
    both = tuned_steps_lines(folder)
    assert steps_to_result.main([str(folder), "--goal", "0.5"]) == 0
    said = capsys.readouterr().out.splitlines()
    steps = [line for line in said if line.startswith(("  batch", "Critical", "Within"))]
    assert steps == [line for line in both if line.startswith(("  batch", "Critical", "Within"))][: len(steps)]
    assert len(steps) == 6
    for options, told in (
        (["--goal", "0.4"], "`--goal` must be one that the search chose settings for (0.5 or 0.35), got 0.4"),
        (["--metric", "train_loss"], "`--metric` must be test_loss, by which the search chose its settings"),
        (["--direction", "higher"], "`--direction` must be lower, by which the search chose its settings"),
        (["--margin", "0"], "`margin` must be a number above 0, in units of test_loss, got 0"),
        (["--column", "step=epoch"], "`--column` is for a CSV file or TensorBoard runs"),
        (["--settings"], "`--settings` is for runs from elsewhere"),
    ):
        assert steps_to_result.main([str(folder), *options]) == 2
        assert told in capsys.readouterr().err


def test_over_how_many_seeds_a_search_is_judged_where_some_are_missing(tmp_path: Path) -> None:
    folder = shutil.copytree(DOCS / "kept" / "steps_to_result_digits", tmp_path / "kept")
    trials = pq.read_table(folder / "trials.parquet").to_pandas()
    trials[(trials["batch_size"] != 32) | (trials["seed"] < 2)].to_parquet(folder / "trials.parquet")
    said = tuned_steps_lines(folder)
    few = [line for line in said if line.startswith("  batch 32: ")]
    assert len(few) == 2
    assert all(line.endswith(" (10 of 12 settings reach it), 2 of 5 replicates") for line in few)
    assert all(line.endswith("reach it)") for line in said if line.startswith("  batch 128: "))


def test_a_search_without_trials_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(DOCS / "kept" / "steps_to_result_digits", tmp_path / "kept")
    table = pq.read_table(folder / "tuning.parquet")
    pq.write_table(table.slice(0, 0), folder / "tuning.parquet")
    with pytest.raises(UserError, match=r"must hold trials of a search, got none in .*tuning.parquet"):
        load_tuned_steps(folder)
