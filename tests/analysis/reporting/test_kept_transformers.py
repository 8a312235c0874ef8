"""The tables of the small transformers in docs/measured.md are what the kept results say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.data.load import load_sweep

DOCS = Path(__file__).parents[3] / "docs"


def best_cells(name: str, best: str, **columns: tuple[str, str]) -> pd.DataFrame:
    """`columns` of the learning rate whose mean is `best`, idxmin or idxmax, at each of four batch sizes."""
    trials = load_sweep(DOCS / "kept" / name).trials
    trials = trials.assign(log_eigenvalue=np.log(trials["hessian_max_eig"]))
    cells = trials.groupby(["batch_size", "learning_rate"]).agg(steps=("steps", "first"), **columns)
    found = cells.loc[getattr(cells.groupby("batch_size")["mean"], best)()]
    assert len(found) == 4
    return found


@pytest.mark.parametrize(("name", "unit"), [("gpt_shakespeare", 64), ("seq2seq_cmudict", 1)])  # windows of 64 tokens
def test_the_page_shows_the_kept_results(name: str, unit: int) -> None:
    losses = {"mean": ("test_loss", "mean"), "spread": ("test_loss", "std"), "train": ("train_loss", "mean")}
    page = (DOCS / "measured.md").read_text()
    for (size, rate), row in best_cells(name, "idxmin", **losses).iterrows():
        shown = f"{row['mean']:.3f} ± {row['spread']:.3f} | {row['train']:.3f} |"
        assert f"| {unit * size} | {row['steps']:.0f} | {rate:g} | {shown}" in page


def test_the_page_shows_the_kept_vision_transformer() -> None:
    columns = {
        "mean": ("test_accuracy", "mean"),
        "spread": ("test_accuracy", "std"),
        "train": ("train_accuracy", "mean"),
    }
    page = (DOCS / "measured.md").read_text()
    for (size, rate), row in best_cells(
        "vit_cifar", "idxmax", eigenvalue=("log_eigenvalue", "mean"), **columns
    ).iterrows():
        accuracies = f"{100 * row['mean']:.1f} ± {100 * row['spread']:.1f} | {100 * row['train']:.1f}"
        assert f"| {size} | {row['steps']:.0f} | {rate:g} | {accuracies} | {np.exp(row['eigenvalue']):.0f} |" in page
