"""docs/gpu.md has the tables of the kept run, docs/kept/gpu/gpu.json, as benchmarks/gpu.py writes them."""

import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

PROJECT = Path(__file__).parents[2]


def test_the_page_has_the_tables_of_the_kept_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which the script adds
    page = (PROJECT / "docs" / "gpu.md").read_text(encoding="utf-8")
    rebuilt = runpy.run_path(str(PROJECT / "docs" / "rebuild_gpu.py"))["rebuilt"](page)
    assert "147 of 147 checks passed" in rebuilt
    assert page == rebuilt


def test_two_trials_of_c1_had_the_same_numbers_and_the_page_has_those_of_their_ends() -> None:
    data = PROJECT / "docs" / "paper" / "data"
    pair, alone = (
        pd.read_parquet(data / name / "epochs.parquet") for name in ("tables_c1_equal_loss", "tables_c1_epochs")
    )
    sizes = pd.read_parquet(data / "tables_c1_equal_loss" / "trials.parquet").set_index("trial_id")["batch_size"]
    small, large = (pair[pair["trial_id"].map(sizes) == size].reset_index(drop=True) for size in (256, 5000))
    columns = ["epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "distance"]
    pd.testing.assert_frame_equal(large[columns], alone.head(len(large))[columns], check_exact=True)
    assert len(large) == 97
    last = [100 * epochs["test_accuracy"].tail(10).mean() for epochs in (small, large)]
    page = " ".join((PROJECT / "docs" / "paper" / "1-tables.md").read_text(encoding="utf-8").split())
    assert (
        f"it is {last[1]:.1f} % on average, SB's {last[0]:.1f} %, so the difference is {last[0] - last[1]:.1f} points"
        in page
    )
