"""`python -m trainables.sharpness` on a trial's weights and on weights of one's own; its mistakes in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.measures import MEASURES
from trainables.sharpness.__main__ import main
from trainables.tables import Record, compact, write_record
from trainables.trial import Trial


@pytest.fixture
def sweep(tmp_path: Path, make_config: Callable[..., TrialConfig], digits: Source) -> tuple[Path, Record]:
    """A results folder with one trial and its weights; returns the weights' file and the trial's record."""
    for part in ("trials", "weights"):
        (tmp_path / part).mkdir()
    trial = Trial(make_config(epochs=30, model_options='{"widths": [8]}', measures=",".join(MEASURES)), digits)
    trial.train()
    trial.measure()
    record = trial.record()
    write_record(tmp_path, record)
    compact(tmp_path)
    weights = tmp_path / "weights" / f"{record.trial['trial_id']}.pt"
    trial.save_weights(weights)
    return weights, record


def test_every_measure_gives_the_trials_own_numbers(
    sweep: tuple[Path, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, record = sweep
    files = ["--json", str(tmp_path / "rows.json"), "--parquet", str(tmp_path / "rows.parquet")]
    assert main([str(weights), "--measures", *MEASURES, *files]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == len(rows) == len(record.measures)
    assert {row["measure"] for row in rows} == set(MEASURES)
    for row, own in zip(rows, record.measures, strict=True):
        same = ("measure", "method", "epsilon", "scale", "value", "stderr", "evaluations", "converged")
        assert {name: row.get(name) for name in same} == {name: own.get(name) for name in same}
    assert "hessian_max_eig" in capsys.readouterr().out


def test_weights_of_ones_own(
    sweep: tuple[Path, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, _ = sweep
    (tmp_path / "own_network.py").write_text(
        "from trainables.models import build_model\n"
        "def build(input_shape, num_classes): return build_model('mlp', input_shape, num_classes, widths=[8])\n"
    )
    monkeypatch.chdir(tmp_path)
    options = [
        "--model",
        "own_network:build",
        "--dataset",
        "digits",
        "--examples",
        "50",
        "--measures",
        "hessian_max_eig",
    ]
    assert main([str(weights), *options]) == 0
    assert "hessian_max_eig" in capsys.readouterr().out


def test_mistakes(sweep: tuple[Path, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, _ = sweep
    torch.save({"weight": torch.ones(3)}, tmp_path / "weights" / "foreign.pt")
    (tmp_path / "weights" / "broken.pt").write_bytes(weights.read_bytes()[:100])
    foreign, broken = str(tmp_path / "weights" / "foreign.pt"), str(tmp_path / "weights" / "broken.pt")
    for arguments, message in [
        ([str(weights), "--measures", "softness"], "`measures` must be among box_sharpness"),
        ([str(weights), "--examples", "301"], "`examples` must be between 1 and the 300"),
        ([broken], "`weights` must be a state_dict"),
        ([str(tmp_path / "absent.pt")], "`weights` must be a state_dict"),
        ([foreign], "`weights` must be those of a trial"),
        ([foreign, "--model", "mlp", "--dataset", "digits"], "`weights` must fit the model mlp"),
        ([foreign, "--model", "mlp"], "`dataset` must be given with `model`"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
