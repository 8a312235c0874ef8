"""The examples in docs/optimizer_ladder.md are what the kept results say."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from narrow import not_none

from analysis.questions.optimizer_ladder import load_ladder
from analysis.questions.steps_to_result import mean_words
from analysis.reporting.optimizer_ladder import ladder_lines

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(
    ("kept", "first"), [("optimizer_ladder_digits", "At batch 300,"), ("optimizer_ladder_gpt", "At batch 128 (")]
)
def test_the_page_shows_the_kept_results(tmp_path: Path, kept: str, first: str) -> None:
    folder = shutil.copytree(DOCS / "kept" / kept, tmp_path / "kept")  # figures are written beside it
    said = ladder_lines(folder)
    page = (DOCS / "optimizer_ladder.md").read_text()
    shown = next(block for block in page.split("```") if block.startswith(f"\n{first}")).strip("\n").splitlines()
    assert len(shown) > 20
    assert shown == said[: len(shown)]


def test_a_run_that_reaches_the_goal_at_once_leaves_the_others_their_losses() -> None:
    """Muon's runs at batch 8 end at their first evaluation, after 504 sequences; batch 128 has seen 512 at its own."""
    (ladder,) = load_ladder(DOCS / "kept" / "optimizer_ladder_gpt")
    assert ladder.examples == 512
    losses = {rung.name: sorted(rung.losses) for rung in ladder.rungs}
    assert losses["adamw"] == [8, 16, 32, 64, 128]
    assert losses["muon adjust_lr_fn=match_rms_adamw"] == [16, 32, 64, 128]


def test_the_table_of_variance_reduction_and_quasi_newton_steps() -> None:
    folder = DOCS / "kept" / "optimizer_ladder_gpt_lbfgs"
    (ladder,) = load_ladder(folder)
    steps = [{row.batch_size: row.steps for row in not_none(rung.tuned.found).rows} for rung in ladder.rungs[:2]]
    assert [rung.tuned.found for rung in ladder.rungs[2:]] == [None, None]
    tuning = pq.read_table(folder / "tuning.parquet").to_pandas()
    lowest = tuning.loc[tuning.groupby(["optimizer", "batch_size"])["validation_loss"].idxmin()]
    best = lowest.set_index(["optimizer", "batch_size"])
    page = (DOCS / "optimizer_ladder.md").read_text()
    for size in steps[0]:
        means = (mean_words(mean) if (mean := found[size]) else "not reached" for found in steps)
        runs = (best.loc[(rung.name, size)] for rung in ladder.rungs[2:])
        losses = (f"{run['validation_loss']:.2f} in {run['steps']} steps" for run in runs)
        assert f"| {' | '.join([str(size), *means, *losses])} |\n" in page
