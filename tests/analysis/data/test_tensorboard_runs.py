"""Runs of TensorBoard: what their paths and hyperparameters say, and which runs are replicates."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from analysis.data.foreign_runs import read_events, settings_in_path
from analysis.data.runs import Runs
from analysis.questions.steps_to_result import StepsToResult, steps_to_result
from trainables.runtime.errors import UserError

pytest.importorskip("tensorboard")

LOSSES = (2.0, 1.0, 0.5)
ONE_DEVICE = {"gradient_accumulation_steps": 1, "world_size": 1}
NAMED = r"bs(?P<batch_size>\d+)_lr(?P<learning_rate>[\d.]+)"


def write(folder: Path, hparams: Mapping[str, Any] | None = None, losses: tuple[float, ...] = LOSSES) -> None:
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams as summaries

    with SummaryWriter(str(folder)) as writer:
        for place, loss in enumerate(losses):
            writer.add_scalar("val/loss", loss, 10 * place)
        for summary in summaries(dict(hparams), {}) if hparams else ():
            writer.file_writer.add_summary(summary)


def grid(folder: Path, seeds: tuple[int | None, ...]) -> None:
    """Three learning rates at each of two batch sizes; the higher one is faster."""
    for size in (16, 64):
        for place, rate in enumerate((0.01, 0.02, 0.03)):
            for seed in seeds:
                name = f"bs{size}_lr{rate}" + ("" if seed is None else f"_s{seed}")
                write(folder / name, losses=(2.0, 1.0 - 0.2 * place - 0.01 * (seed or 0), 0.3))


def answer(runs: Runs) -> StepsToResult:
    return steps_to_result(runs, 0.5)


def test_runs_without_a_seed_are_settings_of_their_own(tmp_path: Path) -> None:
    grid(tmp_path, (None,))
    found = read_events(tmp_path, "val/loss", None, r"bs(\d+)")
    assert len(found.notes) == 1
    assert "without a known seed are not replicates" in found.notes[0]
    for row in answer(found).rows:
        assert row.steps is not None
        assert row.steps.interval is None
        assert row.steps.replicates == 1
        assert row.setting == f"run folder bs{row.batch_size}_lr0.03"
    named = read_events(tmp_path, "val/loss", None, NAMED)
    assert named.notes == ()
    assert [row.setting for row in answer(named).rows] == ["learning_rate 0.03"] * 2


def test_groups_with_names_are_seeds_and_settings(tmp_path: Path) -> None:
    grid(tmp_path, (7, 3, 5))
    found = read_events(tmp_path, "val/loss", None, NAMED + r"_s(?P<seed>\d+)")
    assert found.notes == ()
    assert found.about["replicate"].to_dict()["bs16_lr0.01_s7"] == 2
    for row in answer(found).rows:
        assert row.steps is not None
        assert row.steps.replicates == 3
        assert row.steps.interval is not None
        assert row.setting == "learning_rate 0.03"
    with pytest.raises(UserError, match=r"one seed for runs bs16_lr0\.01_s3 and bs16_lr0\.02_s3; add the setting"):
        read_events(tmp_path, "val/loss", None, r"bs(\d+).*_s(?P<seed>\d+)")
    with pytest.raises(UserError, match="got learning_rat; did you mean learning_rate"):
        read_events(tmp_path, "val/loss", None, NAMED, named=["learning_rat"])


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (r"bs(\d+", "must be a regular expression, got"),
        (r"bs\d+", "must have one group that is the batch size"),
        (r"width(\d+)", r"must have one group that is the batch size in the runs' paths, .* for bs16_lr0\.01"),
        (r"(?P<batch_size>bs\d+)", r"such as \(\?P<batch_size>\\d\+\) and \(\?P<seed>\\d\+\), got"),
        (r"bs16(\d+)?", "must have one group that is the batch size in the runs' paths"),
    ],
)
def test_patterns_that_find_no_batch_size(tmp_path: Path, pattern: str, says: str) -> None:
    grid(tmp_path, (None,))
    with pytest.raises(UserError, match=says):
        read_events(tmp_path, "val/loss", None, pattern)


def test_runs_whose_path_is_not_as_the_pattern_are_left_out_and_told(tmp_path: Path) -> None:
    grid(tmp_path, (0, 1))
    for name in ("baseline", "bsall_lr0.01_s2"):
        write(tmp_path / name)
    found = read_events(tmp_path, "val/loss", None, r"bs(?P<batch_size>[^_]+)_lr(?P<lr>[\d.]+)_s(?P<seed>\d+)")
    assert len(found.about) == 12
    assert found.notes == ("2 of 14 runs have no such path as --batch-pattern, so they are left out",)


def test_values_in_a_path() -> None:
    assert settings_in_path("a/bs16_lr1e-3_adam", r"bs(\d+)_lr(?P<lr>[^_]+)_(?P<optimizer>\w+)") == {
        "batch_size": 16, "lr": 0.001, "optimizer": "adam"
    }  # fmt: skip
    assert settings_in_path("s3", r"s(?P<seed>\d+)") == {"seed": 3}  # the batch size may be a hyperparameter


def test_hyperparameters_may_be_in_the_folder_above(tmp_path: Path) -> None:
    for size in (16, 64):
        write(tmp_path / f"run{size}", {"batch_size": size, "learning_rate": 0.1, "seed": 0}, losses=())
        write(tmp_path / f"run{size}" / "validation")
    found = read_events(tmp_path, "val/loss", None)
    assert found.about["batch_size"].to_dict() == {"run16/validation": 16, "run64/validation": 64}
    write(tmp_path / "run16")  # now a run of its own, so nothing says the batch size of the one below it
    found = read_events(tmp_path, "val/loss", None)
    assert found.about["batch_size"].to_dict() == {"run16": 16, "run64/validation": 64}


def test_the_final_value_of_add_hparams_is_no_run(tmp_path: Path) -> None:
    """It would reach every goal at its first and only step."""
    from torch.utils.tensorboard import SummaryWriter

    for size in (16, 64):
        with SummaryWriter(str(tmp_path / f"run{size}")) as writer:
            for place, loss in enumerate(LOSSES):
                writer.add_scalar("val/loss", loss, 10 * place)
            writer.add_hparams({"batch_size": size, "lr": 0.1}, {"val/loss": LOSSES[-1]})
    found = read_events(tmp_path, "val/loss", None)
    assert [*found.about.index] == ["run16", "run64"]
    assert [row.steps.value for row in answer(found).rows if row.steps is not None] == pytest.approx([20, 20])


def test_runs_that_never_logged_the_metric_are_misses(tmp_path: Path) -> None:
    """A run that diverges before its first evaluation; its settings are in its folder, below it or in its path."""
    from torch.utils.tensorboard import SummaryWriter

    for size in (16, 64):
        write(tmp_path / f"run{size}", {"batch_size": size, "lr": 0.1, "seed": 0})
        write(tmp_path / f"late{size}", {"batch_size": size, "lr": 0.2, "seed": 0}, losses=())
        with SummaryWriter(str(tmp_path / f"lost{size}")) as writer:
            writer.add_scalar("train/loss", 9.0, 1)
            writer.add_hparams({"batch_size": size, "lr": 0.4, "seed": 0}, {"train/loss": 9.0})
    write(tmp_path / "junk", losses=())
    found = read_events(tmp_path, "val/loss", None)
    assert [(row.reached, row.tried) for row in answer(found).rows] == [(1, 3), (1, 3)]
    assert found.notes == ("4 of 6 runs have no val/loss, so they reach no goal",)

    for name in ("bs16_lr0.1_s0/validation", "bs16_lr0.1_s1/validation", "bs64_lr0.1_s0", "bs64_lr0.1_s1"):
        write(tmp_path / "named" / name)
    for name in ("bs16_lr0.1_s0/train", "bs64_lr0.9_s0", "junk"):  # a part of a run, a run, and nothing
        write(tmp_path / "named" / name, losses=())
    named = read_events(tmp_path / "named", "val/loss", None, NAMED + r"_s(?P<seed>\d+)")
    assert [(row.reached, row.tried) for row in answer(named).rows] == [(2, 2), (2, 3)]


def test_runs_without_a_batch_size_are_left_out_and_told(tmp_path: Path) -> None:
    """With the metric, with other hyperparameters, or without either: each used to stop the import of all others."""
    write(tmp_path / "alone", {"lr": 0.1, "seed": 0})
    with pytest.raises(UserError, match="must say each run's batch size"):
        read_events(tmp_path, "val/loss", None)
    for size in (16, 64):
        write(tmp_path / f"run{size}", {"per_device_train_batch_size": size, "lr": 0.1, "seed": 0, **ONE_DEVICE})
    write(tmp_path / "nothing")
    write(tmp_path / "no metric", {"lr": 0.1, "seed": 0}, losses=())
    found = read_events(tmp_path, "val/loss", None)
    assert found.about["batch_size"].to_dict() == {"run16": 16, "run64": 64}
    assert found.notes[1:] == ("3 of 5 runs have no batch size, so they are left out",)


def test_a_run_that_was_started_again_counts_once(tmp_path: Path) -> None:
    """The first attempt has the hyperparameters of the second and no value. Its seed used to stop the import."""
    for name, losses in {"first": (), "second": LOSSES}.items():
        write(tmp_path / name, {"batch_size": 16, "lr": 0.1, "seed": 0}, losses)
    found = read_events(tmp_path, "val/loss", None)
    assert [*found.about.index] == ["second"]
    assert found.notes == (
        "1 of 2 runs have no val/loss, and another run has their setting and seed, so they are left out",
    )


def test_the_batch_size_of_a_device_may_be_renamed(tmp_path: Path) -> None:
    for size in (16, 64):
        write(tmp_path / f"run{size}", {"per_device_train_batch_size": size, "seed": 0})
    with pytest.raises(UserError, match="must say the batch size of all devices"):
        read_events(tmp_path, "val/loss", None)
    found = read_events(tmp_path, "val/loss", None, columns={"batch_size": "per_device_train_batch_size"})
    assert sorted(found.about["batch_size"]) == [16, 64]
