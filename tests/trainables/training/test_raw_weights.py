"""The raw weights of a trial whose weights are an average: evaluated and measured beside it, as the plain trial is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.flag_names import FAILED_MEASURE
from trainables.records.schemas import RAW, RAW_COLUMNS
from trainables.records.tables import Record, compact, record_of, write_record
from trainables.remedies import Remedies
from trainables.training.weight_averaging import WeightAverage
from trainables.trial import Trial, run_trial

Make = Callable[..., TrialConfig]
SMALL = {"epochs": 3, "evaluate_every": "1epochs", "model_options": '{"widths": [4]}', "measure_examples": 50}
EMA, SWA, LAWA = (
    {"average": "ema", "average_decay": 0.9},
    {"average": "swa", "average_from": 0.0},
    {"average": "lawa", "average_last": 2},
)


def values(record: Record, weights: str | None) -> dict[tuple[Any, ...], float]:
    """The value of each measure of these weights, by its setting."""
    rows = [row for row in record.measures if row["weights"] == weights]
    found = {(row["measure"], row.get("method"), row.get("epsilon")): row["value"] for row in rows}
    assert len(found) == len(rows)
    return found


def raw_results(record: Record) -> list[Any]:
    return [record.trial[name] for name in RAW_COLUMNS]


def own_results(record: Record) -> list[Any]:
    return [record.trial[name.removeprefix("raw_")] for name in RAW_COLUMNS]


@pytest.mark.parametrize("remedy", [EMA, SWA, LAWA], ids=lambda remedy: remedy["average"])
def test_they_are_the_plain_trial_to_the_last_bit(make_config: Make, digits: Source, remedy: dict[str, Any]) -> None:
    plain, averaged = (run_trial(make_config(**SMALL, **change), digits) for change in ({}, remedy))
    assert raw_results(averaged) == own_results(plain)
    assert values(averaged, RAW) == values(plain, None)
    assert values(averaged, None).keys() == values(plain, None).keys()
    assert values(averaged, None) != values(plain, None)
    assert averaged.trial["hessian_max_eig"] == values(averaged, None)["hessian_max_eig", "lanczos", None]
    assert raw_results(plain) == [None] * len(RAW_COLUMNS)
    assert values(plain, RAW) == {}


def test_an_average_of_equal_weights_is_the_raw_ones(make_config: Make, digits: Source) -> None:
    found = run_trial(make_config(**SMALL, average="lawa", average_last=1), digits)
    assert raw_results(found) == own_results(found)
    assert values(found, RAW) == values(found, None)


def test_the_average_is_back_after_the_raw_weights() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(Remedies(average="swa", average_from=0.0), model)
    for epoch, value in enumerate((1.0, 2.0, 6.0), start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.take(epoch, at_end_of_epoch=True)
    known = [average.has_raw]
    average.put()
    assert [*known, average.has_raw] == [False, True]
    with average.raw_in_place():
        assert model.weight.item() == 6
    assert model.weight.item() == 3


@pytest.mark.parametrize("trained", [2, 3])
def test_resumed_to_the_same_bits(make_config: Make, digits: Source, tmp_path: Path, trained: int) -> None:
    """From a checkpoint of the training, or from one of its end, whose weights are the average."""
    config = make_config(**SMALL, **EMA)
    whole, trial = run_trial(config, digits), Trial(config, digits)
    for _ in range(trained):
        trial.training.train_epoch()
    trial.save(tmp_path / "checkpoint.pt")
    resumed = Trial(config, digits)
    assert resumed.resume(tmp_path / "checkpoint.pt")
    resumed.train()
    resumed.measure()
    assert raw_results(resumed.record()) == raw_results(whole)
    assert values(resumed.record(), RAW) == values(whole, RAW)


def test_a_final_checkpoint_of_an_older_version_lacks_them(make_config: Make, digits: Source, tmp_path: Path) -> None:
    config = make_config(**SMALL, **EMA)
    trial = Trial(config, digits)
    trial.train()
    trial.save(tmp_path / "checkpoint.pt")
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del state["average"]["raw"]
    torch.save(state, tmp_path / "checkpoint.pt")
    resumed = Trial(config, digits)
    assert resumed.resume(tmp_path / "checkpoint.pt")
    resumed.train()
    resumed.measure()
    assert raw_results(resumed.record()) == [None] * len(RAW_COLUMNS)
    assert values(resumed.record(), RAW) == {}
    assert values(resumed.record(), None)


@pytest.mark.parametrize("weights", [True, False], ids=["kept weights", "trained again"])
def test_measured_further(make_config: Make, digits: Source, tmp_path: Path, weights: bool) -> None:
    """From kept weights only the average can be; trained again both are, each setting once."""
    (tmp_path / "trials").mkdir()
    config = make_config(**SMALL, **EMA, measures="box_sharpness")
    trial = Trial(config, digits)
    trial.train()
    trial.save_weights(tmp_path / "weights.pt")
    trial.measure()
    write_record(tmp_path, trial.record())
    before = record_of(compact(tmp_path), config.trial_id)
    further = make_config(**SMALL, **EMA, measures="box_sharpness,hessian_max_eig")
    again = Trial(further, digits, known=before)
    if not (weights and again.load_weights(tmp_path / "weights.pt")):
        again.train()
    again.measure()
    after = again.record()
    assert {name for name, *_ in values(after, None)} == {"box_sharpness", "hessian_max_eig"}
    assert {name for name, *_ in values(after, RAW)} == {"box_sharpness", *([] if weights else ["hessian_max_eig"])}
    assert raw_results(after) == raw_results(before)


def test_without_a_measure_of_them_the_trial_has_its_own(
    make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(make_config(**SMALL, **EMA, measures="hessian_max_eig"), digits)
    trial.train()
    bound, calls = trial._bound, iter((True, False))

    def fails_second() -> Any:
        if next(calls):
            return bound()
        raise ValueError("no loss")

    monkeypatch.setattr(trial, "_bound", fails_second)
    trial.measure()
    found = trial.record()
    assert found.trial["hessian_max_eig"] is not None
    assert [(row["weights"], row.get("error")) for row in found.measures] == [
        (None, None),
        (RAW, "ValueError: no loss"),
    ]
    assert FAILED_MEASURE in found.trial["flags"]
