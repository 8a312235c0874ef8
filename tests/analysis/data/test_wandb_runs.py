"""Exports of Weights & Biases in which runs could be lost or mixed up."""

from pathlib import Path

import pytest

from analysis.data.foreign_runs import read_wandb
from analysis.questions.steps_to_result import steps_to_result
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


TABLE = "Name,batch_size,seed\na,16,0\nb,16,1\nc,64,0\n"


@pytest.mark.parametrize(("axis", "named"), [("train/global_step", None), ("updates", "updates")])
def test_the_x_axis_of_a_chart_of_wandb(tmp_path: Path, axis: str, named: str | None) -> None:
    """The Trainer of transformers has train/global_step; any other column has to be named."""
    (tmp_path / "chart.csv").write_text(f"{axis},a - loss,b - loss,c - loss\n1,0.9,0.9,0.9\n2,0.5,0.4,0.3\n")
    (tmp_path / "table.csv").write_text(TABLE)
    columns = {} if named is None else {"step": named}
    found = read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "loss", None, columns)
    assert found.curves["step"].tolist() == [1, 2] * 3
    assert found.notes == ()


def test_a_chart_of_wandb_that_is_not_over_updates(tmp_path: Path) -> None:
    (tmp_path / "chart.csv").write_text("epoch,a - loss,a - _step\n1,0.9,10\n")
    (tmp_path / "table.csv").write_text(TABLE)
    with pytest.raises(UserError, match="a chart over steps, got epoch as the x axis in"):
        read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "loss", None)
    (tmp_path / "chart.csv").write_text("Step,a - loss\n1,0.9\n")
    axis, absent = read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "loss", None).notes
    assert axis.startswith("Step of W&B counts the calls of wandb.log")
    assert absent == "2 of 3 runs of table.csv are not in chart.csv, so they are left out"


def test_a_run_of_wandb_that_only_logged_nan_counts_as_one_that_misses_the_goal(tmp_path: Path) -> None:
    (tmp_path / "chart.csv").write_text("global_step,a - loss,b - loss,c - loss\n1,0.9,NaN,0.9\n2,0.5,NaN,0.3\n")
    (tmp_path / "table.csv").write_text(TABLE)
    found = steps_to_result(read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "loss", None), 0.6)
    assert [(row.reached, row.tried, row.steps is None) for row in found.rows] == [(1, 2, True), (1, 1, False)]


def test_runs_of_wandb_that_are_named_by_numbers(tmp_path: Path) -> None:
    (tmp_path / "chart.csv").write_text("Step,01 - val_loss,2 - val_loss\n1,0.5,0.4\n")
    (tmp_path / "table.csv").write_text("Name,batch_size\n01,16\n2,64\n")
    found = read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "val_loss", None)
    assert found.about["batch_size"].to_dict() == {"01": 16, "2": 64}


def test_a_run_of_wandb_without_a_batch_size_is_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / "chart.csv").write_text("global_step,a - loss,b - loss,c - loss\n1,0.9,0.1,0.9\n2,0.5,0.1,0.3\n")
    (tmp_path / "table.csv").write_text(TABLE.replace("b,16,1", "b,,"))
    found = read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "loss", None)
    assert [*found.about.index] == ["a", "c"]
    assert {*found.curves["run"]} == {"a", "c"}
    assert found.notes == ("1 of 3 runs have no batch size, so they are left out",)


def test_only_runs_of_the_chart_of_wandb_need_names_of_their_own(tmp_path: Path) -> None:
    """A name twice among runs that are not in the chart used to stop the import."""
    (tmp_path / "chart.csv").write_text("global_step,a - loss,b - loss\n1,0.9,0.9\n2,0.5,0.4\n")
    (tmp_path / "table.csv").write_text(TABLE + "c,64,1\n")
    found = read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "loss", None)
    assert found.notes[:1] == ("2 of 4 runs of table.csv are not in chart.csv, so they are left out",)
    (tmp_path / "table.csv").write_text(TABLE + "a,64,1\n")
    with pytest.raises(UserError, match="names that tell runs apart, got 'a' twice"):
        read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "loss", None)
