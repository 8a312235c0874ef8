"""The examples in docs/optimizer_ladder.md are what the kept results say."""

import shutil
from pathlib import Path

import pytest

from analysis.questions.optimizer_ladder import load_ladder
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
