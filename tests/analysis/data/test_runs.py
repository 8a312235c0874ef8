"""Runs from elsewhere: every layout gives the same frames, and what cannot be read is one line."""

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import grid, law, write
from narrow import not_none

from analysis import steps_to_result
from analysis.data.batch_sizes import with_batch_size
from analysis.data.batch_unit import EXAMPLES
from analysis.data.foreign_runs import read_events, read_wandb
from analysis.data.load import load_sweep
from analysis.data.runs import Runs, direction_of, read_csv, read_frame, read_results
from analysis.questions.steps_to_result import critical_words
from analysis.questions.steps_to_result import steps_to_result as steps_to_result_of
from trainables.runtime.errors import UserError

CURVES = {  # (batch size, learning rate): the loss after 10, 20 and 30 steps
    (16, 0.1): (1.0, 0.6, 0.4),
    (16, 0.2): (0.9, 0.5, 0.3),
    (64, 0.1): (0.7, 0.3, 0.2),
    (64, 0.2): (0.8, 0.2, 0.1),
}
NAMES = {key: f"run-{number}" for number, key in enumerate(CURVES)}


@pytest.fixture
def rows() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"run": NAMES[key], "batch_size": key[0], "learning_rate": key[1], "step": step, "val_loss": loss}
            for key, losses in CURVES.items()
            for step, loss in zip((10, 20, 30), losses, strict=True)
        ]
    )


@pytest.fixture
def csv(tmp_path: Path, rows: pd.DataFrame) -> Path:
    rows.to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


def same(found: Runs) -> bool:
    """Whether the frames hold CURVES."""
    about = {run: (row["batch_size"], row["text"]) for run, row in found.about.iterrows()}
    values = {run: tuple(part["value"].round(6)) for run, part in found.curves.groupby("run")}
    expected = {(size, f"learning_rate {rate:g}"): losses for (size, rate), losses in CURVES.items()}
    return {about[run]: values[run] for run in about} == expected


def test_a_csv_file(csv: Path) -> None:
    found = read_csv(csv, "val_loss", None, {})
    assert same(found)
    assert found.direction == "lower"
    assert found.about["replicate"].eq(0).all()


@pytest.mark.parametrize(("separator", "decimal"), [(";", "."), (";", ","), ("\t", "."), (", ", ".")])
def test_other_separators_and_decimal_commas(tmp_path: Path, rows: pd.DataFrame, separator: str, decimal: str) -> None:
    text = rows.assign(betas='"0.9,0.95"').to_csv(index=False, sep="|", decimal=decimal, quoting=3)
    (tmp_path / "runs.csv").write_text("\ufeff" + text.replace("|", separator))
    assert same(read_csv(tmp_path / "runs.csv", "val_loss", None, {}))


def test_a_csv_file_with_other_names_in_another_order(tmp_path: Path, rows: pd.DataFrame) -> None:
    renamed = rows.rename(columns={"batch_size": "bs", "step": "global_step"}).sample(frac=1, random_state=0)
    renamed.to_csv(tmp_path / "runs.csv", index=False)
    assert same(read_csv(tmp_path / "runs.csv", "val_loss", None, {"batch_size": "bs", "step": "global_step"}))


def test_a_column_takes_the_place_of_one_that_has_its_name(tmp_path: Path, rows: pd.DataFrame) -> None:
    """Exports have both a `step` of their own and the trainer's."""
    rows.assign(global_step=rows["step"], step=range(len(rows))).to_csv(tmp_path / "runs.csv", index=False)
    assert same(read_csv(tmp_path / "runs.csv", "val_loss", None, {"step": "global_step"}))


def test_one_column_may_have_two_of_our_names(tmp_path: Path, rows: pd.DataFrame) -> None:
    rows.drop(columns="run").assign(name=rows["run"]).to_csv(tmp_path / "runs.csv", index=False)
    found = read_csv(tmp_path / "runs.csv", "val_loss", None, {"run": "name", "seed": "name"})
    assert len(found.about) == len(CURVES)


@pytest.mark.parametrize("goal", ["nan", "inf", "-inf"])
def test_goals_are_finite(csv: Path, capsys: pytest.CaptureFixture[str], goal: str) -> None:
    with pytest.raises(SystemExit) as exit:
        steps_to_result.main([str(csv), "--metric", "val_loss", f"--goal={goal}"])
    assert exit.value.code == 2
    assert "must be a finite number" in capsys.readouterr().err
    with pytest.raises(UserError, match="`goal` must be a finite value of val_loss"):
        steps_to_result_of(read_csv(csv, "val_loss", None, {}), float(goal))


def test_options_for_other_sources_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "sweep", law(factors=(1.0,)))
    for options in (["--column", "step=examples"], ["--runs", "runs.csv"], ["--batch-pattern", "b(1)"], ["--settings"]):
        assert steps_to_result.main([str(folder), "--metric", "train_loss", *options]) == 2
        assert f"`{options[0]}` is for" in capsys.readouterr().err


def test_a_csv_file_without_runs(tmp_path: Path, rows: pd.DataFrame) -> None:
    rows.drop(columns="run").to_csv(tmp_path / "runs.csv", index=False)
    assert same(read_csv(tmp_path / "runs.csv", "val_loss", None, {}))


def test_runs_without_a_batch_size_are_left_out_and_told(tmp_path: Path, rows: pd.DataFrame) -> None:
    """They used to stop the import of all others."""
    lost = [{"run": name, "step": 10, "val_loss": 0.01, "learning_rate": 0.3} for name in ("x", "y")]
    pd.concat([rows, pd.DataFrame(lost)]).assign(seed=0).to_csv(tmp_path / "runs.csv", index=False)
    found = read_csv(tmp_path / "runs.csv", "val_loss", None, {})
    assert same(found)
    assert found.notes == ("2 of 6 runs have no batch size, so they are left out",)


@pytest.mark.parametrize("value", ["", "inf"])
def test_a_run_that_was_started_again_counts_once(tmp_path: Path, rows: pd.DataFrame, value: str) -> None:
    """The first attempt crashed before its first value. Its seed used to stop the import."""
    text = rows.assign(seed=0).to_csv(index=False)
    (tmp_path / "runs.csv").write_text(f"{text}crashed,16,0.1,10,{value},0\nlost,16,0.1,10,{value},1\n")
    found = read_csv(tmp_path / "runs.csv", "val_loss", None, {})
    assert sorted(found.about.index) == ["lost", *sorted(NAMES.values())]
    assert found.notes == (
        "1 of 6 runs have no val_loss, and another run has their setting and seed, so they are left out",
        "1 of 6 runs have no val_loss, so they reach no goal",
    )
    (row, _) = steps_to_result_of(found, 0.4).rows
    assert (row.reached, row.tried) == (2, 3)


def test_seeds_are_replicates(tmp_path: Path, rows: pd.DataFrame) -> None:
    both = pd.concat([rows.assign(seed=seed, run=rows["run"] + f" {seed}") for seed in (7, 3)])
    both.to_csv(tmp_path / "runs.csv", index=False)
    found = read_csv(tmp_path / "runs.csv", "val_loss", None, {})
    assert len(found.about) == 8
    assert found.about["replicate"].to_dict()["run-0 3"] == 0
    assert found.about["replicate"].to_dict()["run-0 7"] == 1


def test_settings_are_told_apart_by_all_their_digits(tmp_path: Path) -> None:
    """With seeds they used to be one setting with a seed twice, without seeds replicates of one setting."""
    runs = pd.DataFrame(
        [
            (f"{rate} {seed}", 8, step, 1.0, rate, 0.1 + seed % 2, seed)
            for rate in (0.01, 0.01000001)
            for seed in range(4)
            for step in (1, 2)
        ],
        columns=["run", "batch_size", "step", "loss", "learning_rate", "weight_decay", "seed"],
    )
    for frame in (runs, runs.drop(columns="seed")):
        about = read_frame(tmp_path, frame, "loss", None).about
        assert {*about["text"]} == {
            f"learning_rate {rate}, weight_decay {decay}" for rate in ("0.01", "0.01000001") for decay in ("0.1", "1.1")
        }
        assert about.groupby("setting").size().tolist() == [2] * 4


def test_exports_of_wandb(tmp_path: Path, rows: pd.DataFrame) -> None:
    wide = rows.pivot(index="step", columns="run", values="val_loss").add_suffix(" - val/loss")
    for name in list(wide):
        wide[f"{name}__MIN"] = wide[f"{name}__MAX"] = wide[name]
    wide.rename_axis(index="Step").reset_index().to_csv(tmp_path / "chart.csv", index=False)
    table = rows.drop_duplicates("run").rename(columns={"run": "Name"})[["Name", "batch_size", "learning_rate"]]
    table.assign(State="finished", **{"val/loss": 0.5}).to_csv(tmp_path / "table.csv", index=False)
    assert same(read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "val/loss", None))
    with pytest.raises(UserError, match=r"a chart of Weights & Biases needs the export of the runs table too"):
        read_csv(tmp_path / "chart.csv", "val/loss", None, {})
    with pytest.raises(UserError, match=r"a chart of val/acc, with Step and columns 'NAME - val/acc', got val/loss in"):
        read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "val/acc", "higher")
    table.drop(columns="batch_size").to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(UserError, match="must say each run's batch size"):
        read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "val/loss", None)
    table.iloc[1:].to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(UserError, match="must hold every run of the chart, got none named 'run-0'"):
        read_wandb(tmp_path / "chart.csv", tmp_path / "table.csv", "val/loss", None)


@pytest.mark.parametrize(("best", "notes"), [((0.9, 0.8), 0), ((90.0, 80.0), 0), ((90.0, 0.8), 1)])
def test_fractions_beside_percentages_are_told(best: tuple[float, float], notes: int) -> None:
    frame = pd.DataFrame({"run": ["a", "b"], "batch_size": [8, 16], "step": 1, "val_acc": best})
    found = read_frame(Path("runs"), frame, "val_acc", None).notes
    assert list(found) == ["val_acc stays at or below 1 in 1 of 2 runs: are all in the same unit?"] * notes


def test_folders_of_tensorboard(tmp_path: Path, rows: pd.DataFrame) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for run, part in rows.groupby("run"):
        with SummaryWriter(str(tmp_path / f"{run}-bs{part['batch_size'].iloc[0]}")) as writer:
            for row in part.itertuples():
                writer.add_scalar("val/loss", row.val_loss, row.step)
            hparams = {"batch_size": int(part["batch_size"].iloc[0]), "learning_rate": part["learning_rate"].iloc[0]}
            writer.add_hparams(hparams, {"result": 0.0})  # in a folder below
    assert same(read_events(tmp_path, "val/loss", None))
    found = read_events(tmp_path, "val/loss", None, r"bs(\d+)")
    assert sorted(found.about["batch_size"]) == [16, 16, 64, 64]
    with pytest.raises(UserError, match="must have one group that is the batch size in the runs' paths"):
        read_events(tmp_path, "val/loss", None, "width(.)")
    with pytest.raises(UserError, match="must be a scalar of the event files, got 'val/acc'; such as"):
        read_events(tmp_path, "val/acc", "higher")


def test_of_several_batch_sizes_the_whole_one_counts() -> None:
    """`batch_size` itself first, then the global one, before that of each device, wherever they stand."""
    about = pd.DataFrame({"per_device_train_batch_size": [8], "global_batch_size": [64]}, index=["a"])
    assert with_batch_size(about, Path("x"))[0]["batch_size"].tolist() == [64]
    both = about.assign(batch_size=32)
    assert with_batch_size(both, Path("x"))[0]["batch_size"].tolist() == [32]


@pytest.mark.parametrize(
    ("metric", "direction"),
    [("val_loss", "lower"), ("val/mape", "lower"), ("val/mAP", "higher"), ("test_accuracy", "higher")],
)
def test_the_direction_is_in_a_word_of_the_name(metric: str, direction: str) -> None:
    assert direction_of(metric) == direction


@pytest.mark.parametrize("metric", ["score", "brierscore", "q"])
def test_a_name_that_says_nothing_needs_a_direction(metric: str) -> None:
    with pytest.raises(UserError, match="`direction` must be given"):
        direction_of(metric)


def test_a_frame_of_ones_own_is_checked_as_a_file_is(rows: pd.DataFrame) -> None:
    assert same(read_frame(Path("mine"), rows.drop(columns="run"), "val_loss", None))
    with pytest.raises(UserError, match="must have a column 'step'"):
        read_frame(Path("mine"), rows.drop(columns="step"), "val_loss", None)
    with pytest.raises(UserError, match="one row for each run and step"):
        read_frame(Path("mine"), pd.concat([rows, rows]), "val_loss", None)


def test_the_command_prints_the_answer_and_draws(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert steps_to_result.main([str(csv), "--metric", "val_loss", "--goal", "0.5", "0.35", "--margin", "0.1"]) == 0
    out = capsys.readouterr().out
    assert (csv.parent / "figures" / "steps_to_result.png").stat().st_size > 10_000
    assert "batch 16: 20 steps, 320 examples at learning_rate 0.2 (2 of 2 runs reach it)" in out
    assert "batch 64: 15 steps, 960 examples at learning_rate 0.1 (2 of 2 runs reach it)" in out
    assert "After 480 examples" in out


def test_a_goal_out_of_reach_costs_its_own_answer_only(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(csv), "--metric", "val_loss", "--goal"]
    assert steps_to_result.main([*command, "0.01", "0.5"]) == 0
    said = capsys.readouterr()
    assert "batch 16: 20 steps" in said.out
    assert said.out.count("Steps to val_loss") == 1
    assert (
        "No answer: `goal` must be reached by every replicate of some setting, got 0.01, which none reaches" in said.out
    )
    assert said.err == ""
    assert steps_to_result.main([*command, "0.01", "0.02"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "got 0.01," in said.err
    assert "got 0.02," in said.err


def test_a_results_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The law's sweep: log loss is linear in steps, so the steps to 1e-3 are the law's."""
    folder = write(tmp_path / "sweep", law(factors=(0.9, 1.0, 1.1)))
    assert steps_to_result.main([str(folder), "--metric", "train_loss", "--goal", "0.001"]) == 0
    out = capsys.readouterr().out
    assert "Steps to train_loss <= 0.001, of 12 runs:" in out
    assert (folder / "figures" / "steps_to_result.svg").is_file()


def test_a_sweep_without_epochs(tmp_path: Path) -> None:
    found = load_sweep(write(tmp_path / "sweep", grid(switch_epochs=(None,))))
    with pytest.raises(UserError, match="`metric` test_loss must have values in sweep, got none"):
        read_results(found, "test_loss", None)


def test_examples_are_those_that_trials_have_counted(tmp_path: Path) -> None:
    """Trials that count three times the examples need three times as many; where batches grow there is no B_crit."""
    folder = write(tmp_path / "sweep", law(factors=(0.9, 1.0, 1.1)))
    before = read_results(load_sweep(folder), "train_loss", None)
    epochs = pd.read_parquet(folder / "epochs.parquet")
    epochs["epoch"] *= 3
    grown = epochs["trial_id"] == epochs["trial_id"].iloc[-1]
    epochs.loc[grown, "batch_size"] = 1024
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    shutil.rmtree(other / "trials")
    pq.write_table(pa.Table.from_pandas(epochs, preserve_index=False), other / "epochs.parquet")
    found = read_results(load_sweep(other), "train_loss", None)
    assert not before.about["changes_size"].any()
    assert found.about.index[found.about["changes_size"]].tolist() == epochs.loc[grown, "trial_id"].unique().tolist()
    pd.testing.assert_series_equal(found.curves["examples"], 3 * before.curves["examples"])
    answers = [steps_to_result_of(runs, 1e-3) for runs in (before, found)]
    for one, three in zip(*(answer.rows for answer in answers), strict=True):
        assert one.steps == three.steps
        assert not_none(three.examples).value == pytest.approx(3 * not_none(one.examples).value, rel=1e-12)
    assert answers[0].critical is not None
    assert answers[1].critical is None
    assert critical_words(answers[1], EXAMPLES) == "there is no B_crit: the batch size changes during the training"
