"""`python -m trainables.sharpness` on a trial's weights and on weights of one's own; its mistakes in one line."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.measures.by_name import MEASURES
from trainables.measures.command import main
from trainables.measuring import OF_STEPS
from trainables.records.tables import Record, compact, write_record
from trainables.sharpness import ModelLoss, hessian_eigenvalues
from trainables.trial import Trial


@pytest.fixture(scope="module")
def sweep(
    tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., TrialConfig], digits: Source
) -> tuple[Path, Record]:
    """A results folder with one trial and its weights; returns the weights' file and the trial's record."""
    tmp_path = tmp_path_factory.mktemp("sweep")
    for part in ("trials", "weights"):
        (tmp_path / part).mkdir()
    small = {"epochs": 20, "model_options": '{"widths": [4]}', "batch_size": 20, "measure_examples": 40}
    trial = Trial(make_config(**small, measures=",".join(MEASURES)), digits)
    trial.train()
    trial.measure()
    record = trial.record()
    write_record(tmp_path, record)
    compact(tmp_path)
    weights = tmp_path / "weights" / f"{record.trial['trial_id']}.pt"
    trial.save_weights(weights)
    return weights, record


def finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def test_every_measure_gives_the_trials_own_numbers(
    sweep: tuple[Path, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, record = sweep
    files = ["--json", str(tmp_path / "rows.json"), "--parquet", str(tmp_path / "rows.parquet")]
    assert main([str(weights), "--measures", *MEASURES, *files]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == len(rows) == len(record.measures) - 1
    assert {row["measure"] for row in rows} == set(MEASURES)
    of_trial = [row for row in record.measures if row["method"] != "adam"]  # its moments are not among the weights
    for row, own in zip(rows, of_trial, strict=True):
        same = ("measure", "method", "epsilon", "scale", "value", "stderr", "evaluations", "converged")
        assert {name: row.get(name) for name in same} == {name: finite(own.get(name)) for name in same}
    assert "hessian_max_eig" in capsys.readouterr().out


def test_interrupted(
    sweep: tuple[Path, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By SIGINT inside the third measure, and inside the first."""

    def interrupt(loss: ModelLoss, context: object) -> list[dict[str, object]]:
        signal.raise_signal(signal.SIGINT)
        return []

    monkeypatch.setitem(MEASURES, "m_sharpness", interrupt)
    names, file = ["hessian_max_eig", "hessian_min_eig", "m_sharpness", "hessian_trace"], tmp_path / "rows.json"
    assert main([str(sweep[0]), "--measures", *names, "--json", str(file)]) == 130
    assert [row["measure"] for row in json.loads(file.read_text())] == names[:2]
    captured = capsys.readouterr()
    assert "hessian_min_eig" in captured.out
    assert captured.err == "Interrupted: measures that had ended are kept.\n"
    file.unlink()
    assert main([str(sweep[0]), "--measures", "m_sharpness", "--json", str(file)]) == 130
    assert not file.exists()


def test_weights_and_data_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_code.py").write_text(
        "import torch\n"
        "def build(input_shape, num_classes, width=4):\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width), torch.nn.Tanh(),\n"
        "                               torch.nn.Dropout(), torch.nn.Linear(width, num_classes))\n"
        "def load():\n"
        "    inputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))\n"
        "    return inputs, (inputs[:, 0] > 0).long(), inputs[:5], (inputs[:5, 0] > 0).long()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import own_code  # type: ignore[import-not-found]

    network = own_code.build((3,), 2, width=3)
    torch.save(network.state_dict(), "own.pt")
    own = ["own.pt", "--model", "own_code:build", "--model-options", "width=3", "--dataset", "own_code:load"]
    steps = ["--learning-rate", "0.1", "--momentum", "0.9", "--batch-size", "4"]
    names = ["box_sharpness", "hessian_max_eig", "relative_flatness", "gradient_noise_scale", *sorted(OF_STEPS)]
    assert main([*own, *steps, "--measures", *names, "--json", "rows.json"]) == 0
    rows = json.loads(Path("rows.json").read_text())
    assert {row["measure"] for row in rows} == set(names)
    assert [row["method"] for row in rows if row["measure"] == "stability"] == ["plain", "momentum"]
    value = next(row["value"] for row in rows if row["measure"] == "hessian_max_eig")
    loss = ModelLoss(network, *own_code.load()[:2])
    assert value == float(hessian_eigenvalues(loss, loss.params).values[0])
    assert main([*own, "--examples", "10", "--batch-norm", "recalibrated", "--dtype", "float32"]) == 0
    assert "box_sharpness" in capsys.readouterr().out


def test_mistakes(sweep: tuple[Path, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, _ = sweep
    foreign, broken = weights.with_name("foreign.pt"), weights.with_name("broken.pt")
    torch.save({"weight": torch.ones(3)}, foreign)
    broken.write_bytes(weights.read_bytes()[:100])
    state = torch.load(weights, weights_only=True)
    torch.save(state, tmp_path / "own.pt")
    as_mlp, own = (
        ["--model", "mlp", "--dataset", "digits", "--model-options", "widths=4"],
        str(tmp_path / "own.pt"),
    )
    diverged = str(tmp_path / "diverged.pt")
    torch.save({name: math.nan * value for name, value in state.items()}, diverged)
    for arguments, message in [
        ([str(weights), "--measures", "softness"], "`measures` must be among box_sharpness"),
        ([str(weights), "--examples", "301"], "`examples` must be between 1 and the 300"),
        ([str(broken)], "`weights` must be a state_dict"),
        ([str(tmp_path / "absent.pt")], "`weights` must be a state_dict"),
        ([str(foreign)], "belongs to no trial in the tables"),
        ([str(foreign), "--model", "mlp", "--dataset", "digits"], "`weights` must fit the model mlp"),
        ([str(foreign), "--model", "mlp"], "`dataset` must be given with `model`"),
        (
            [str(foreign), "--model", "mlp", "--dataset", "digits", "--device", "abacus"],
            "`device` must be one that torch has",
        ),
        ([str(weights), "--json", str(tmp_path / "nowhere" / "rows.json")], "`json` must be a file in a folder"),
        ([str(weights), "--batch-norm", "batch"], "`batch_size` must be 2 or more"),
        ([diverged, *as_mlp], "`weights` must give a finite loss on the data, got nan"),
        ([own, *as_mlp, "--measures", "stability"], "`learning_rate` must be given for the measure stability"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_measure_that_fails_costs_its_own_rows(
    sweep: tuple[Path, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(torch.load(sweep[0], weights_only=True), tmp_path / "own.pt")
    own = [str(tmp_path / "own.pt"), "--model", "mlp", "--dataset", "digits", "--model-options", '{"widths": [4]}']
    file = tmp_path / "rows.json"
    assert main([*own, "--measures", "stability", "gaussian_sharpness", "--json", str(file)]) == 2
    reason = "`learning_rate` must be given for the measure stability, got none"
    assert capsys.readouterr().err == f"trainables.sharpness: error: stability: {reason}\n"
    failed, *others = json.loads(file.read_text())
    assert (failed["measure"], failed["value"], failed["error"]) == ("stability", None, reason)
    assert [row["measure"] for row in others] == ["gaussian_sharpness"] * 2
    assert all(row["value"] is not None for row in others)
