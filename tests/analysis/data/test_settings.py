"""Settings and results in tables from elsewhere: results beside the configuration leave the known answer as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import steps_to_result
from analysis.data.batch_sizes import with_batch_size
from analysis.data.column_names import is_hyperparameter, is_result
from analysis.data.foreign_runs import read_wandb
from analysis.data.runs import Runs, read_csv, renamed
from analysis.data.settings import choose_settings
from analysis.questions.steps_to_result import steps_to_result as steps_to_result_of
from trainables.runtime.errors import UserError

SIZES, RATES, SEEDS = (16, 64, 256), (0.01, 0.03), (0, 1, 2, 3)
STEPS = np.arange(0, 101, 10)


def runs_table() -> pd.DataFrame:
    """Two settings with four seeds at each batch size: the loss falls by `speed` a step."""
    rng = np.random.default_rng(0)
    rows = [
        {"Name": f"run-{size}-{rate}-{seed}", "batch_size": size, "learning_rate": rate, "seed": seed}
        for size in SIZES
        for rate in RATES
        for seed in SEEDS
    ]
    table = pd.DataFrame(rows)
    speed = 0.02 * (1 + 10 * table["learning_rate"]) * table["batch_size"] ** 0.3
    return table.assign(speed=speed * np.exp(0.1 * rng.standard_normal(len(table))))


def with_results(table: pd.DataFrame) -> pd.DataFrame:
    """What W&B's export of the runs table holds beside the configuration."""
    rng, count = np.random.default_rng(1), len(table)
    return table.assign(
        State="finished", User="me", Tags="", Notes="", Sweep="", Hostname=rng.choice(["a", "b"], count),
        ID=[f"x{number}" for number in range(count)],
        Created=[f"2026-01-01T00:{number:02d}" for number in range(count)],
        Runtime=rng.integers(100, 200, count), _step=100, _runtime=rng.random(count), _timestamp=rng.random(count),
        output_dir=[f"out/{number}" for number in range(count)], best_epoch=rng.integers(5, 9, count),
        grad_norm=rng.random(count), skipped_updates=rng.integers(0, 4, count), epoch=10,
        **{
            "End Time": rng.random(count), "train/loss": rng.random(count), "val/acc": rng.random(count).round(2),
            "val/loss": rng.random(count), "val/loss.min": rng.random(count), "trainer/global_step": 100,
        },
    )  # fmt: skip


def curve(speed: float) -> Any:
    return 4 - speed * STEPS


def read_as_wandb(folder: Path, table: pd.DataFrame, **options: Any) -> Runs:
    chart = {f"{row.Name} - val/loss": curve(row.speed) for row in table.itertuples()}
    pd.DataFrame({"trainer/global_step": STEPS, **chart}).to_csv(folder / "chart.csv", index=False)
    table.drop(columns="speed").to_csv(folder / "table.csv", index=False)
    return read_wandb(folder / "chart.csv", folder / "table.csv", "val/loss", None, **options)


def read_as_csv(folder: Path, table: pd.DataFrame, **options: Any) -> Runs:
    about = table.drop(columns=["val/loss"], errors="ignore").rename(columns={"Name": "run"})
    rows = [about.assign(step=step, **{"val/loss": 4 - about["speed"] * step}) for step in STEPS]
    pd.concat(rows).drop(columns="speed").to_csv(folder / "runs.csv", index=False)
    return read_csv(folder / "runs.csv", "val/loss", None, {}, **options)


@pytest.mark.parametrize("read", [read_as_wandb, read_as_csv])
@pytest.mark.parametrize("seed", ["seed", "train.random_seed", None])
def test_results_in_the_table_do_not_change_the_answer(tmp_path: Path, read: Any, seed: str | None) -> None:
    table = runs_table()
    expected = steps_to_result_of(read(tmp_path, table), 3.0)
    assert [row.setting for row in expected.rows] == ["learning_rate 0.03"] * 3
    for row in expected.rows:  # the loss is linear: it falls by 1 after 1 / speed steps
        assert row.steps is not None
        assert row.steps.replicates == 4
        own = table[(table["batch_size"] == row.batch_size) & (table["learning_rate"] == 0.03)]
        assert row.steps.value == pytest.approx(np.exp(np.log(1 / own["speed"]).mean()), rel=1e-6)
    full = with_results(table)
    full = full.drop(columns="seed") if seed is None else full.rename(columns={"seed": seed})
    if seed is None:
        full = full.drop(columns="skipped_updates")  # only seeds tell small whole numbers from settings
    if read is read_as_csv:  # without the columns that only W&B has
        full = full.drop(
            columns=["State", "User", "Tags", "Notes", "Sweep", "Hostname", "Runtime", "End Time", "Created"]
        )
    found = read(tmp_path, full)
    assert steps_to_result_of(found, 3.0) == expected
    left_out = next(note for note in found.notes if "not as settings" in note)
    for name in ("train/loss", "val/acc", "best_epoch", "grad_norm"):
        assert name in left_out
    assert any("no seed is known" in note and "4 of batch 16" in note for note in found.notes) == (seed is None)
    assert any("the seed is the column train.random_seed" in note for note in found.notes) == (
        seed == "train.random_seed"
    )


def table_of(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns, index=[f"run {number}" for number in range(len(next(iter(columns.values()))))])


def settings_of(about: pd.DataFrame, named: list[str] | None = None) -> set[str]:
    return {*choose_settings(Path("x.csv"), about, named)[0]} - {"batch_size", "seed"}


def test_settings_of_unknown_names_are_kept() -> None:
    """Of a grid with seeds, of a grid without, and of a random search with one seed."""
    foo = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert settings_of(table_of(batch_size=[8] * 6, foo=foo, seed=[0, 1] * 3)) == {"foo"}
    assert settings_of(table_of(batch_size=[8, 64] * 3, foo=foo)) == {"foo"}
    drawn = [0.31, 0.32, 0.33, 0.34, 0.35, 0.36]
    about = table_of(batch_size=[8] * 6, foo=drawn, seed=[0] * 6)
    assert settings_of(about) == {"foo"}
    assert "taken as settings, because runs agree in seed" in choose_settings(Path("x.csv"), about, None)[1][0]
    assert settings_of(table_of(batch_size=[8] * 6, learning_rate=drawn)) == {"learning_rate"}  # its name is known
    assert settings_of(table_of(batch_size=[8] * 6, foo=drawn)) == set()


def test_texts_flags_and_second_seeds() -> None:
    about = table_of(
        batch_size=[8] * 4, optimizer=["sgd", "sgd", "adam", "adam"], nesterov=[True, True, False, False],
        path=["a", "b", "c", "d"], seed=[0, 1] * 2, data_seed=[100, 101] * 2,
    )  # fmt: skip
    assert settings_of(about) == {"optimizer", "nesterov"}


def test_settings_may_be_named(tmp_path: Path) -> None:
    table = with_results(runs_table())
    found = read_as_wandb(tmp_path, table, named=["learning_rate", "Hostname"])
    assert found.about["text"].iloc[0].startswith("learning_rate 0.01, Hostname ")
    assert found.notes == ()
    with pytest.raises(
        UserError, match=r"must name columns of table\.csv .*got learning_rat; did you mean learning_rate"
    ):
        read_as_wandb(tmp_path, table, named=["learning_rat"])
    plain = runs_table()[["Name", "batch_size", "learning_rate", "speed"]]
    assert read_as_csv(tmp_path, plain, named=[]).about["text"].eq("").all()
    with pytest.raises(UserError, match="that do not change during a run, got val/loss; it has learning_rate"):
        read_as_csv(tmp_path, plain, named=["val/loss"])


def test_the_name_of_a_run_may_be_its_seed(tmp_path: Path) -> None:
    table = runs_table().assign(seed=42)
    with pytest.raises(UserError, match=r"got one seed for runs run-16-0\.01-0 and run-16-0\.01-1"):
        read_as_wandb(tmp_path, table)
    found = read_as_wandb(tmp_path, table, columns={"seed": "Name"})
    assert found.about.groupby(["batch_size", "text"]).size().eq(4).all()


def test_the_command_prints_notes_and_takes_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_as_wandb(tmp_path, with_results(runs_table()))
    command = [
        str(tmp_path / "chart.csv"),
        "--runs",
        str(tmp_path / "table.csv"),
        "--metric",
        "val/loss",
        "--goal",
        "3",
    ]
    assert steps_to_result.main(command) == 0
    said = capsys.readouterr()
    assert said.err.startswith("note: taken as results or names, not as settings: best_epoch, grad_norm")
    assert said.err.count("\n") == 1
    assert steps_to_result.main([*command, "--settings", "learning_rate"]) == 0
    assert capsys.readouterr() == (said.out, "")


RESULTS = (
    "train/loss val_acc best_epoch val/loss.min test.accuracy valLoss eval_runtime error_rate epoch val/acc1 "
    "val/precision train_samples_per_second trainer/global_step"
)
OTHERS = (
    "learning_rate loss_weight label_smoothing target_loss test_size precision epochs warmup_steps max_steps "
    "entropy_coef optimizer weightDecay"
)


@pytest.mark.parametrize("name", RESULTS.split())
def test_names_of_results(name: str) -> None:
    assert is_result(name)
    assert not is_hyperparameter(name)


@pytest.mark.parametrize("name", OTHERS.split())
def test_names_of_settings(name: str) -> None:
    assert not is_result(name)


def test_the_batch_size_of_a_device_is_multiplied() -> None:
    about = table_of(per_device_train_batch_size=[4, 8], gradient_accumulation_steps=[1, 2], world_size=[2, 4])
    found, notes = with_batch_size(about, Path("x.csv"))
    assert found["batch_size"].tolist() == [8, 64]
    assert [*found] == ["batch_size"]
    assert notes == ("the batch size is per_device_train_batch_size x gradient_accumulation_steps x world_size",)
    of_transformers = about.assign(train_batch_size=[8, 32], n_gpu=1)  # without accumulation
    assert with_batch_size(of_transformers, Path("x.csv"))[0]["batch_size"].tolist() == [8, 64]
    of_deepspeed = table_of(train_micro_batch_size_per_gpu=[4, 4], train_batch_size=[8, 64])
    assert with_batch_size(of_deepspeed, Path("x.csv"))[0]["batch_size"].tolist() == [8, 64]
    mixed = table_of(per_gpu_train_batch_size=[4, 8], accumulate_grad_batches=[2, 1], num_processes=[1, 1])
    assert "per_gpu_train_batch_size" in with_batch_size(mixed, Path("x.csv"))[0]  # 2 x 4 need not be 1 x 8


@pytest.mark.parametrize(
    ("drop", "lacking"),
    [
        ("world_size", r"the number of devices \(world_size, num_processes, n_gpu\) is not in x\.csv"),
        ("gradient_accumulation_steps", r"gradient_accumulation_steps is not in x\.csv"),
    ],
)
def test_the_batch_size_of_a_device_alone_is_refused(drop: str, lacking: str) -> None:
    about = table_of(per_device_train_batch_size=[4], gradient_accumulation_steps=[2], world_size=[2])
    with pytest.raises(UserError, match=lacking):
        with_batch_size(about.drop(columns=drop), Path("x.csv"))
    with pytest.raises(UserError, match="must say the batch size of all devices"):
        with_batch_size(about.assign(world_size=-1), Path("x.csv"))


def test_which_batch_size() -> None:
    nested = table_of(**{"eval.batch_size": [500, 500], "train.batch_size": [8, 16]})
    assert with_batch_size(nested, Path("x.csv"))[0]["batch_size"].tolist() == [8, 16]
    with pytest.raises(UserError, match=r"must have one batch_size, got data\.batch_size, train\.batch_size"):
        with_batch_size(nested.assign(**{"data.batch_size": 4})[["data.batch_size", "train.batch_size"]], Path("x.csv"))
    _, notes = with_batch_size(table_of(batch_size=[8, 8], gradient_accumulation_steps=[1, 4]), Path("x.csv"))
    assert "if it is not: --column batch_size=batch_size*gradient_accumulation_steps" in notes[0]


def test_a_column_may_be_a_product() -> None:
    about = table_of(micro=[4, 8], accumulated=[2, 4], learning_rate=[0.1, 0.2])
    found = renamed(Path("x.csv"), about, {"batch_size": "micro*accumulated"})
    assert found["batch_size"].tolist() == [8, 32]
    assert {*found} == {"batch_size", "learning_rate"}
    with pytest.raises(UserError, match=r"`column` must name columns of x\.csv, got devices"):
        renamed(Path("x.csv"), about, {"batch_size": "micro*devices"})
    own = table_of(batch_size=[4, 8], accumulated=[2, 4])
    assert renamed(Path("x.csv"), own, {"batch_size": "batch_size*accumulated"})["batch_size"].tolist() == [8, 32]
