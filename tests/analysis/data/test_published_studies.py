"""The layout of Shallue et al. 2019: which trials count, and what a trial that diverged may lack."""

import json
from pathlib import Path

import pytest

from analysis import steps_to_result
from analysis.data.foreign_runs import read_studies
from analysis.questions.steps_to_result import steps_to_result as steps_to_result_of
from trainables.runtime.errors import UserError

LOSSES = {
    (16, 0.1): (1.0, 0.6, 0.4),
    (16, 0.2): (0.9, 0.5, 0.3),
    (64, 0.1): (0.7, 0.3, 0.2),
    (64, 0.2): (0.8, 0.2, 0.1),
}
CURVE = "step,val/loss\n10,0.9\n20,0.2\n"


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """16/1, 16/2, 64/1 and 64/2, and in each study a trial that did not end."""
    for size in (16, 64):
        (tmp_path / str(size)).mkdir()
        (tmp_path / str(size) / "study.json").write_text(json.dumps({"batch_size": size, "train_steps": 30}))
        for number, rate in enumerate((0.1, 0.2), 1):
            rows = zip((10, 20, 30), LOSSES[size, rate], strict=True)
            add(
                tmp_path / f"{size}/{number}",
                "COMPLETE",
                rate,
                "step,val/loss\n" + "".join(f"{s},{v}\n" for s, v in rows),
            )
        add(tmp_path / f"{size}/9", "INCOMPLETE", 0.2, CURVE)
    return tmp_path


def add(folder: Path, status: str, rate: float, curve: str | None) -> None:
    folder.mkdir()
    about = {"parameters": {"learning_rate": rate}, "status": status, "trial_id": 1}
    (folder / "metadata.json").write_text(json.dumps(about))
    if curve is not None:
        (folder / "measurements.csv").write_text(curve)


def test_the_published_layout(studies: Path) -> None:
    found = read_studies(studies, "val/loss", None)
    assert found.about["batch_size"].to_dict() == {"16/1": 16, "16/2": 16, "64/1": 64, "64/2": 64}
    assert found.about["text"].to_list() == ["learning_rate 0.1", "learning_rate 0.2"] * 2
    assert [tuple(curve) for _, curve in found.curves.groupby("run")["value"]] == [*LOSSES.values()]
    with pytest.raises(UserError, match=r"must be a column of 16/1/measurements\.csv, got 'x'; such as val/loss"):
        read_studies(studies, "x", "lower")
    (studies / "16/1/measurements.csv").write_text("global,val/loss\n1,0.5\n")
    with pytest.raises(UserError, match=r"a column 'step' in 16/1/measurements\.csv, got global, val/loss"):
        read_studies(studies, "val/loss", None)


@pytest.mark.parametrize(
    "curve", ["step,val/loss\n", "step,train/loss\n1,9.0\n", "", "\n", None],
    ids=["no rows", "another metric", "empty", "an empty line", "no file"],
)  # fmt: skip
def test_a_trial_that_diverged_before_its_first_value_misses_the_goal(
    studies: Path, curve: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """One such trial used to stop the import of all others."""
    add(studies / "16/0", "INFEASIBLE", 0.5, curve)  # the first that is read
    add(studies / "64/8", "INFEASIBLE", 0.2, CURVE)  # diverged after it was at the goal
    rows = steps_to_result_of(read_studies(studies, "val/loss", None), 0.3).rows
    assert [(row.batch_size, row.reached, row.tried) for row in rows] == [(16, 1, 3), (64, 3, 3)]
    assert steps_to_result.main([str(studies), "--metric", "val/loss", "--goal", "0.3"]) == 0
    assert "note: 1 of 6 runs have no val/loss, so they reach no goal" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"must be a column of 16/1/measurements\.csv, got 'x'; such as val/loss"):
        read_studies(studies, "x", "lower")


@pytest.mark.parametrize(("curve", "says"), [
    ("", "must be a CSV file"), (None, "must be a CSV file"), ("step,val/loss\n", "must have rows, got none"),
    ("step,train/loss\n1,9.0\n", r"must be a column of 16/0/measurements\.csv, got 'val/loss'; such as train/loss"),
])  # fmt: skip
def test_a_trial_that_is_complete_has_values(studies: Path, curve: str | None, says: str) -> None:
    add(studies / "16/0", "COMPLETE", 0.5, curve)
    with pytest.raises(UserError, match=says):
        read_studies(studies, "val/loss", None)


def test_studies_in_which_every_trial_diverged_are_one_error_line(tmp_path: Path) -> None:
    (tmp_path / "16").mkdir()
    (tmp_path / "16/study.json").write_text('{"batch_size": 16}')
    add(tmp_path / "16/1", "INFEASIBLE", 0.5, "")
    with pytest.raises(UserError, match="`metric` val/loss must have values in"):
        read_studies(tmp_path, "val/loss", None)


def test_a_study_without_a_batch_size_is_left_out(studies: Path) -> None:
    (studies / "64/study.json").write_text("{}")
    found = read_studies(studies, "val/loss", None)
    assert [*found.about.index] == ["16/1", "16/2"]
    assert "2 of 4 runs have no batch size, so they are left out" in found.notes
