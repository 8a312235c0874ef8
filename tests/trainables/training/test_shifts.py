"""The shifted test sets: what they are, that a trial has its metric on them, and that they extend a trained trial."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from narrow import as_a
from torch import Tensor

from trainables.check import check_trial
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.flag_names import FAILED_MEASURE
from trainables.records.resume import incomplete_trials
from trainables.records.tables import Record, compact, read_tables, record_of, write_record
from trainables.runtime.errors import UserError
from trainables.runtime.time_limit import TimeLimitError
from trainables.training import shifts
from trainables.training.shifts import SEVERITIES, blur, contrast, noise, shifted
from trainables.trial import Trial, run_trial

Make = Callable[..., TrialConfig]


def images(count: int = 4, size: int = 9) -> torch.Tensor:
    return torch.rand(count, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_noise_has_its_size_and_is_the_same_each_time() -> None:
    plain = torch.zeros(100, 1, 50, 50, dtype=torch.float64)
    plain[0, 0, 0, 0] = 2.0  # the range
    change = noise(plain, 0.2) - plain
    assert float(change.std()) == pytest.approx(0.4, rel=0.01)  # of 250 000 draws: to 0.14 %
    assert torch.equal(noise(plain, 0.2), noise(plain, 0.2))


def test_blur_is_a_gaussian_average() -> None:
    point = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    point[0, 0, 10, 10] = 1.0
    spread = blur(point, 2.0 / 21)[0, 0]  # two pixels
    steps = torch.arange(21, dtype=torch.float64) - 10
    row = torch.exp(-(steps**2) / 8)
    row[steps.abs() > 6] = 0.0  # three standard deviations
    torch.testing.assert_close(spread, torch.outer(row, row) / row.sum() ** 2, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(blur(torch.full((1, 2, 9, 9), 0.3), 0.12), torch.full((1, 2, 9, 9), 0.3))


def test_contrast_keeps_the_mean_of_each_image() -> None:
    plain = images()
    found = contrast(plain, 0.3)
    torch.testing.assert_close(found.mean((1, 2, 3)), plain.mean((1, 2, 3)))
    torch.testing.assert_close(found.std((1, 2, 3)), 0.3 * plain.std((1, 2, 3)))


@pytest.mark.parametrize("name", SEVERITIES)
def test_values_stay_in_their_range_and_the_images_as_they_are(name: str) -> None:
    plain = images()
    before = plain.clone()
    for severity in SEVERITIES[name][1]:
        found = shifted(plain, name, severity)
        assert not torch.equal(found, plain)
        assert plain.min() <= found.min()
        assert found.max() <= plain.max()
    assert torch.equal(plain, before)


def test_a_trial_has_its_metric_on_each(make_config: Make, digits: Source) -> None:
    config = make_config(shifts="noise,contrast", epochs=2, measures="")
    trial = Trial(config, digits)
    trial.train()
    record = trial.record()
    found = json.loads(record.trial["metrics"])
    names = [name for name in found if "noise" in name or "contrast" in name]
    assert len(names) == 6
    data, model = trial.training.data, trial.training.model.eval()
    with torch.no_grad():
        right = model(shifted(as_a(Tensor, data.test_inputs), "noise", 0.2)).argmax(1) == data.test_labels
    assert found["test_accuracy_noise_0.2"] == pytest.approx(float(right.double().mean()), abs=1e-12)
    plain = run_trial(dataclasses.replace(config, shifts=None), digits).trial
    assert plain["trial_id"] == record.trial["trial_id"]
    assert plain["test_accuracy"] == record.trial["test_accuracy"]


@pytest.mark.parametrize("has_weights", [True, False])
def test_a_trained_trial_is_extended(has_weights: bool, make_config: Make, digits: Source, tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    plain = make_config(epochs=2, measures="hessian_max_eig")
    trial = Trial(plain, digits)
    trial.train()
    trial.measure()
    weights = tmp_path / "weights.pt"
    trial.save_weights(weights)
    write_record(tmp_path, trial.record())
    compact(tmp_path)

    wanted = dataclasses.replace(plain, shifts="noise,blur")
    (missing,) = incomplete_trials(tmp_path, [wanted])
    assert (missing.measures, missing.shifts) == ("", "noise,blur")
    again = Trial(missing, digits, known=record_of(read_tables(tmp_path), plain.trial_id))
    if has_weights:
        assert again.load_weights(weights)
    again.train()
    again.measure()
    extended: Record = again.record()
    write_record(tmp_path, extended)
    compact(tmp_path)

    at_once: dict[str, Any] = run_trial(wanted, digits).trial
    row = read_tables(tmp_path).trials.to_pylist()[0]
    for name in ("shifts", "measures", "test_accuracy", "hessian_max_eig"):
        assert row[name] == at_once[name], name
    assert json.loads(row["metrics"]) == json.loads(at_once["metrics"])
    assert incomplete_trials(tmp_path, [wanted, plain]) == []
    assert len(extended.measures) == 1


def test_what_is_no_image_is_refused_in_one_line(make_config: Make) -> None:
    with pytest.raises(UserError, match="`shifts` needs images of shape"):
        shifted(torch.zeros(3, 5), "noise", 0.1)
    with pytest.raises(UserError, match="`shifts` must be one of noise, blur, contrast, got fog"):
        make_config(shifts="noise,fog")


def test_the_check_before_a_sweep_refuses_it(make_config: Make) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(40, 5)).astype(np.float32)
    source = Source("rows", rows, random.integers(0, 2, 40), None, None, 2, scaling=None)
    config = make_config(dataset="rows", train_size=20, test_size=20, measure_examples=20, batch_size=10, shifts="blur")
    with pytest.raises(UserError, match="`shifts` needs images of shape"):
        check_trial(config, source)


def raising(error: Exception) -> Callable[[torch.Tensor, float], torch.Tensor]:
    def change(images: torch.Tensor, severity: float) -> torch.Tensor:
        raise error

    return change


def test_a_shift_that_raises_costs_its_own_results_alone(
    make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(shifts="noise,blur,contrast", epochs=1, measures="hessian_max_eig")
    expected = run_trial(dataclasses.replace(config, shifts="noise,contrast"), digits)
    monkeypatch.setattr(shifts, "SEVERITIES", {**SEVERITIES, "blur": (raising(RuntimeError("no kernel")), (0.1,))})
    trial = Trial(config, digits)
    assert trial.train()
    assert trial.train()  # nothing is tried twice
    trial.measure()
    record = trial.record()
    assert record.trial["status"] == "completed"
    assert record.trial["metrics"] == expected.trial["metrics"]
    assert record.trial["hessian_max_eig"] == expected.trial["hessian_max_eig"]
    (row,) = [row for row in record.measures if row["measure"] == "shift blur"]
    assert (row["value"], row["split"], row["error"]) == (None, "test", "RuntimeError: no kernel")
    assert FAILED_MEASURE in record.trial["flags"]
    assert FAILED_MEASURE not in expected.trial["flags"]
    assert "shift blur" in record.trial["measured"]  # as a measure that fails: not tried again in this setting


def test_time_that_runs_out_in_a_shift_leaves_the_trained_trial(
    make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(shifts="noise,blur,contrast", epochs=1, measures="hessian_max_eig")
    monkeypatch.setattr(
        shifts, "SEVERITIES", {**SEVERITIES, "blur": (raising(TimeLimitError("took too long")), (0.1,))}
    )
    record = run_trial(config, digits)
    assert record.trial["status"] == "completed"
    assert {row["measure"]: row["error"] for row in record.measures} == dict.fromkeys(
        ("shift blur", "shift contrast", "hessian_max_eig"), "took too long"
    )
    assert "noise_0.1" in record.trial["metrics"]
