"""Exports of Weights & Biases in which runs could be lost or mixed up."""

from pathlib import Path

import pytest

from analysis.data.foreign_runs import read_wandb
from trainables.runtime.errors import UserError


@pytest.mark.parametrize(("chart", "told"), [
    ("Step,a - val_loss,a - val_loss\n1,0.5,0.4\n", "must have each column once, got 'a - val_loss' twice"),
    ("Step,a - val_loss\n1,0.5\n1,0.4\n", "must have one row for each run and step, got several for run 'a' at step 1"),
])  # fmt: skip
def test_runs_of_a_chart_of_wandb_that_are_mixed_up(tmp_path: Path, chart: str, told: str) -> None:
    (tmp_path / "chart.csv").write_text(chart)
    (tmp_path / "table.csv").write_text("Name,batch_size\na,16\n")
    with pytest.raises(UserError, match=told):
        read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "val_loss", None)


def test_runs_of_wandb_that_are_named_by_numbers(tmp_path: Path) -> None:
    (tmp_path / "chart.csv").write_text("Step,01 - val_loss,2 - val_loss\n1,0.5,0.4\n")
    (tmp_path / "table.csv").write_text("Name,batch_size\n01,16\n2,64\n")
    found = read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "val_loss", None)
    assert found.about["batch_size"].to_dict() == {"01": 16, "2": 64}
