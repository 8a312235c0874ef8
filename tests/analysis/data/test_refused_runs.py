"""Runs from elsewhere that cannot be read: each is refused in one line that says what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from analysis import steps_to_result

BAD = {
    "no such file": (None, ["--metric", "val_loss"], "which is not there"),
    "no metric named": ("run,batch_size,step,val_loss\na,8,1,0.5\n", [], "`metric` must be given"),
    "not its column": ("run,batch_size,step,val_loss\na,8,1,0.5\n", ["--metric", "loss"], "such as val_loss"),
    "no batch size": ("run,step,val_loss\na,1,0.5\n", ["--metric", "val_loss"], "--column batch_size=NAME"),
    "a batch size that changes": (
        "run,batch_size,step,val_loss\na,8,1,0.5\na,9,2,0.5\n",
        ["--metric", "val_loss"],
        "the same all along a run",
    ),
    "no number": ("run,batch_size,step,val_loss\na,x,1,0.5\n", ["--metric", "val_loss"], "whole numbers above 0"),
    "half an example": ("run,batch_size,step,val_loss\na,0.5,1,0.5\n", ["--metric", "val_loss"], "whole numbers"),
    "rows twice": (
        "run,batch_size,step,val_loss\na,8,1,0.5\na,8,1,0.6\n",
        ["--metric", "val_loss"],
        "one row for each run and step",
    ),
    "a value that is no number": (
        "run,batch_size,step,val_loss\na,8,1,0.5\na,8,2,40%\n",
        ["--metric", "val_loss"],
        "`metric` val_loss must be numbers in runs.csv, got 40%",
    ),
    "rows twice without runs": (
        "batch_size,step,val_loss\n8,1,0.5\n8,1,0.5\n",
        ["--metric", "val_loss"],
        "leave out all but one, or add a column `run` that tells runs apart",
    ),
    "a row of no run": (
        "run,batch_size,step,val_loss\na,8,1,0.5\n,8,2,0.4\n",
        ["--metric", "val_loss"],
        "`run` must be given in every row of runs.csv, got none in 1",
    ),
    "a column twice": (
        "run,batch_size,step,val_loss,val_loss\na,8,1,0.5,0.4\n",
        ["--metric", "val_loss"],
        "must have each column once, got 'val_loss' twice",
    ),
    "a metric that is none": (
        "run,batch_size,step,val_loss\na,8,1,0.5\n",
        ["--metric", "batch_size"],
        "`metric` must be a column of results in runs.csv, got 'batch_size'; such as val_loss",
    ),
    "runs that nothing tells apart": (
        "batch_size,step,val_loss\n8,1,0.5\n8,1,0.4\n",
        ["--metric", "val_loss"],
        "got several for run '0' at step 1 in",
    ),
    "empty": ("run,batch_size,step,val_loss\n", ["--metric", "val_loss"], "must have rows"),
    "nothing at all": ("", ["--metric", "val_loss"], "must be a CSV file"),
    "no batch size in any run": (
        "run,batch_size,step,val_loss\na,,1,0.5\nb,,1,0.5\n",
        ["--metric", "val_loss"],
        "`source` must say each run's batch size, got none in runs.csv",
    ),
    "no values": ("run,batch_size,step,val_loss\na,8,1,\n", ["--metric", "val_loss"], "must have values"),
    "unknown direction": ("run,batch_size,step,q\na,8,1,1\n", ["--metric", "q"], "--direction lower or higher"),
    "a goal out of reach": (
        "run,batch_size,step,val_loss\na,8,1,0.5\n",
        ["--metric", "val_loss", "--goal", "0.1"],
        "the best val_loss is 0.5",
    ),
    "more examples than can be counted": (
        f"run,batch_size,step,val_loss\na,{10**31},1,0.5\n",
        ["--metric", "val_loss"],
        "whole numbers above 0, up to 2^53",
    ),
    "a step without end": (
        "run,batch_size,step,val_loss\na,8,1,0.5\na,8,inf,0.4\n",
        ["--metric", "val_loss"],
        "numbers from 0 to 2^53 in runs.csv, got inf",
    ),
    "a margin without end": (
        "run,batch_size,step,val_loss\na,8,1,0.5\n",
        ["--metric", "val_loss", "--margin", "1e-400"],
        "`margin` must be a number above 0",
    ),
    "a column that is not there": (
        "run,batch_size,step,val_loss\na,8,1,0.5\n",
        ["--metric", "val_loss", "--column", "step=iteration"],
        "`column` must name columns of runs.csv, got iteration; it has run, batch_size, step, val_loss",
    ),
    "a column for two": (
        "run,batch_size,step,val_loss\na,8,1,0.5\n",
        ["--metric", "val_loss", "--column", "step=step", "step=val_loss"],
        "`column` must name each column once",
    ),
    "a pattern for a file": (
        "run,batch_size,step,val_loss\na,8,1,0.5\n",
        ["--metric", "val_loss", "--batch-pattern", "b(\\d+)"],
        "`--batch-pattern` is for TensorBoard runs",
    ),
    "a column of no use": (
        "run,batch_size,step,val_loss\na,8,1,0.5\n",
        ["--metric", "val_loss", "--column", "x=y"],
        "`column` must be",
    ),
}


@pytest.mark.parametrize(("content", "options", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, options: list[Any], message: str
) -> None:
    file = tmp_path / "runs.csv"
    if content is not None:
        file.write_text(content)
    assert steps_to_result.main([str(file), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_folder_without_trials_is_named_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trials").mkdir()  # a sweep whose first trial has not ended
    for options in ([], ["--metric", "val_loss"]):
        assert steps_to_result.main([str(tmp_path), *options]) == 2
        assert "must hold trials that ended, TensorBoard runs or " in (error := capsys.readouterr().err)
        assert f"got {tmp_path}, which holds none" in error
