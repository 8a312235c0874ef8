"""The studies of the paper's tables, its figure 4 and its parametric plots: their trials, and one of them for real."""

from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from analysis.data.load import load_sweep
from analysis.minima.pairs import minimum_pairs
from sweeps import keskar_tables, minima, threshold_batch


def test_doublings() -> None:
    assert threshold_batch.doublings(8, 300) == [8, 16, 32, 64, 128, 300]
    assert threshold_batch.doublings(64, 5000) == [64, 128, 256, 512, 1024, 2048, 5000]
    assert threshold_batch.doublings(16, 20) == [16, 20]


def planned(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if " seed" in line and "->" not in line]


@pytest.mark.usefixtures("no_estimate", "no_check")
def test_the_tables_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dry-run", "list", "--results", str(tmp_path), "--networks", "mlp", "f1", "--seeds", "0"]
    assert keskar_tables.main(arguments) == 0
    assert [line[1] for line in planned(capsys.readouterr().out)] == ["b16", "b300"] * 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_estimate", "no_check")
def test_the_thresholds_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dry-run", "list", "--results", str(tmp_path), "--seeds", "0", "1", "--batch-sizes", "75", "300"]
    assert threshold_batch.main(arguments) == 0
    assert [line[1] for line in planned(capsys.readouterr().out)] == ["b75", "b150", "b300"] * 2


@pytest.mark.parametrize(
    ("script", "wrong", "said"),
    [
        (keskar_tables, ["--scale", "paper", "--networks", "mlp"], "`--networks` must be among f1"),
        (keskar_tables, ["--scale", "paper", "--networks", "f1"], "`dataset` mnist is not complete"),
        (keskar_tables, ["--model-options", "width=8"], "`--model-options` must be for one network"),
        (minima, ["--batch-sizes", "300", "16"], "`--batch-sizes` must be a small one and a larger one"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    script: ModuleType,
    wrong: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # without data/
    assert script.main([*wrong, "--results", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_minima_keeps_weights_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--seeds", "0", "1", "--epochs", "3", "--train-size", "60", "--model-options", "widths=8"]
    assert minima.main([*arguments, "--no-dashboard", "--results", str(tmp_path)]) == 0
    folder = tmp_path / "minima"
    assert "Along the line between the minima" in capsys.readouterr().out.replace("\n", " ")
    assert len(list((folder / "weights").glob("*.pt"))) == 4
    sweep = load_sweep(folder)
    pair = minimum_pairs(sweep)[0]
    rows = pq.read_table(folder / "profiles.parquet").to_pandas()
    ends = rows[(rows["trial_id"] == pair.small) & (rows["other_trial_id"] == pair.large) & (rows["kind"] == "linear")]
    stored = sweep.trials.set_index("trial_id")
    for alpha, trial in ((0.0, pair.small), (1.0, pair.large)):
        for split in ("train", "test"):
            found = ends[(ends["alpha"] == alpha) & (ends["split"] == split)]
            assert found["loss"].tolist() == [stored.loc[trial, f"{split}_loss"]]
    assert (folder / "figures" / "landscape_contours.png").exists()
