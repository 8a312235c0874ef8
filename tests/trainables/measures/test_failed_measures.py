"""A measure that fails costs its own rows: what was trained is kept, and so are the other measures."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.measures import by_name
from trainables.measures.by_name import MEASURES
from trainables.records.flag_names import FAILED_MEASURE
from trainables.records.tables import Record, read_tables, write_record
from trainables.records.unmeasured import Unmeasured, remove_unmeasured, take_unmeasured
from trainables.runtime.time_limit import TimeLimitError, time_limit
from trainables.trial import Trial, run_trial

Make = Callable[..., TrialConfig]
CLOCKS = ("seconds", "train_seconds", "sharpness_seconds", "finished_at")


@pytest.fixture(scope="module")
def make_config(make_config: Make) -> Make:
    """A trial that is quickly trained and measured."""
    return partial(make_config, epochs=2, measure_examples=50)


def without_clocks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]


def rows_of(record: Record, name: str) -> list[dict[str, Any]]:
    return [row for row in record.measures if row["measure"] == name]


def failing(monkeypatch: pytest.MonkeyPatch, name: str, action: Callable[[], object]) -> None:
    def fail(loss: object, context: object) -> list[dict[str, Any]]:
        action()
        raise AssertionError("the action returned")

    monkeypatch.setitem(MEASURES, name, fail)


def raising(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


NAMES = "box_sharpness,hessian_max_eig,gaussian_sharpness"


@pytest.fixture(scope="module")
def whole(make_config: Make, digits: Source) -> Record:
    return run_trial(make_config(measures=NAMES), digits)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("the derivative for aten::x\nis not implemented"), "RuntimeError: the derivative for aten::x is"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory: CUDA out of memory"),
        (MemoryError(), "out of memory:"),
        (SystemExit("enough"), "SystemExit: enough"),
    ],
)
def test_it_costs_its_own_rows(
    make_config: Make,
    digits: Source,
    whole: Record,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    reason: str,
) -> None:
    failing(monkeypatch, "hessian_max_eig", raising(error))
    record = run_trial(make_config(measures=NAMES), digits)

    (row,) = rows_of(record, "hessian_max_eig")
    assert row["value"] is None
    assert row["error"].startswith(reason)
    assert "\n" not in row["error"]
    for name in ("box_sharpness", "gaussian_sharpness"):
        assert without_clocks(rows_of(record, name)) == without_clocks(rows_of(whole, name))
    assert without_clocks(record.epochs) == without_clocks(whole.epochs)
    changed = {"hessian_max_eig": None, "flags": [*whole.trial["flags"], FAILED_MEASURE]}
    assert without_clocks([record.trial]) == without_clocks([whole.trial | changed])
    assert record.trial["status"] == "completed"


def test_what_cannot_be_bound_has_no_measure_at_all(
    make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_name, "loss_of", lambda *_, **__: raising(ValueError("no running statistics"))())
    record = run_trial(make_config(), digits)
    assert [(row["measure"], row["value"], row["error"]) for row in record.measures] == [
        ("box_sharpness", None, "ValueError: no running statistics"),
        ("hessian_max_eig", None, "ValueError: no running statistics"),
    ]
    assert (record.trial["status"], record.trial["box_sharpness"]) == ("completed", None)
    assert record.trial["test_accuracy"] > 0.5


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()])
def test_an_interruption_is_no_failure_of_a_measure(
    make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    failing(monkeypatch, "hessian_max_eig", raising(error))
    with pytest.raises(type(error)):
        run_trial(make_config(), digits)


def test_the_end_of_a_worker_is_no_failure_of_a_measure(
    make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray ends one by a SystemExit with a message of its own."""
    end = SystemExit()
    end.ray_terminate_msg = "the node is going away"  # type: ignore[attr-defined]
    failing(monkeypatch, "hessian_max_eig", raising(end))
    with pytest.raises(SystemExit):
        run_trial(make_config(), digits)


def test_time_that_runs_out_while_measuring(make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measures made until then are kept, the others have the reason; in the midst of training nothing is kept."""
    failing(monkeypatch, "hessian_max_eig", lambda: time.sleep(60))
    config = make_config(measures="gaussian_sharpness,hessian_max_eig,hessian_trace")
    trial = Trial(config, digits)
    trial.train()
    with time_limit(2.0, "took more than the 2.0 s of --trial-timeout"):
        trial.measure()
    record = trial.record()
    assert all(row["value"] is not None for row in rows_of(record, "gaussian_sharpness"))
    for name in ("hessian_max_eig", "hessian_trace"):
        (row,) = rows_of(record, name)
        assert (row["value"], row["error"]) == (None, "took more than the 2.0 s of --trial-timeout")
    assert record.trial["status"] == "completed"

    along = Trial(make_config(measures=config.measures, measure_every=1), digits)
    with pytest.raises(TimeLimitError), time_limit(2.0, "took too long"):
        along.train()


def test_a_record_is_left_before_the_first_measure(
    make_config: Make, digits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process that is killed while it measures leaves behind, and what is made of it."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "trials").mkdir()
    config = make_config()
    assert take_unmeasured(tmp_path, config.trial_id, "killed") is None
    failing(monkeypatch, "hessian_max_eig", raising(KeyboardInterrupt()))  # stands for the end of the process
    monkeypatch.setattr("trainables.records.unmeasured.SECONDS", 0.0)
    trial = Trial(config, digits)
    trial.train()
    trial.while_measuring = Unmeasured(tmp_path, trial.record)
    with pytest.raises(KeyboardInterrupt):
        trial.measure()

    record = take_unmeasured(tmp_path, config.trial_id, "the worker died\nwith a word")
    assert record is not None
    assert len(rows_of(record, "box_sharpness")) == 4
    assert rows_of(record, "hessian_max_eig")[0]["error"] == "the worker died with a word"
    assert record.trial["box_sharpness"] == trial.record().trial["box_sharpness"]
    write_record(tmp_path, record)
    remove_unmeasured(tmp_path, config.trial_id)
    assert list((tmp_path / "checkpoints").iterdir()) == []
    tables = read_tables(tmp_path)
    (row,) = tables.trials.to_pylist()
    assert (row["status"], row["hessian_max_eig"]) == ("completed", None)
    assert tables.measures["error"].to_pylist() == [None] * 4 + ["the worker died with a word"]
