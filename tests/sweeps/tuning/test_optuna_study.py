"""An Optuna study by itself: its points, its rounds and budget, early stopping, and what it calls the best."""

import math
from pathlib import Path
from typing import Any

import pytest

from sweeps.tuning.optuna_study import Budget, Outcome, Point, Rules, TuningStudy, open_storage
from sweeps.tuning.run import objective_of
from sweeps.tuning.search_space import Space
from sweeps.tuning.under_tune import curve_of, is_judged, judged_epoch
from trainables.runtime.errors import UserError

SPACE = Space(learning_rate=(1e-3, 1e-1), warmup_epochs=(0.0, 2.0), weight_decay=(0.0, 0.0))


def new_study(storage: Any, *, resume: bool = False, budget: Budget | None = None, **rules: Any) -> TuningStudy:
    declared: dict[str, Any] = {
        "space": SPACE,
        "objective": "validation_accuracy",
        "seed": 1,
        "round_size": 4,
        "grace_epochs": 2,
    }
    budget = budget or Budget(trials=12)
    return TuningStudy("study", storage, Rules(**(declared | rules)), budget, subject="x", resume=resume)


def test_a_round_asked_for_in_part_is_completed(tmp_path: Path) -> None:
    """A driver killed between two questions, or between the values of one trial."""
    whole = new_study(open_storage("sqlite://"))
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = new_study(open_storage(url))
    study._study.ask()  # no value of it yet
    again = new_study(open_storage(url), resume=True)
    assert again.proposals() == whole.proposals()
    assert [number for number, _ in again.proposals()] == [0, 1, 2, 3]


def test_the_storage_is_read_after_writing_only() -> None:
    """Tune asks what may start in every step of its loop; each reading of a database took 30 ms of the driver."""
    storage = open_storage("sqlite://")
    study, readings = new_study(storage), 0
    read = storage.get_all_trials

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal readings
        readings += 1
        return read(*arguments, **options)

    study._study._storage.get_all_trials = counted  # type: ignore[method-assign]
    first = study.proposals()
    assert readings > 0
    readings = 0
    for _ in range(10):
        assert study.proposals() == first
        assert (study.planned, study.ended, study.is_finished, study.best()) == (12, 0, False, None)
    assert readings == 0
    study.report(0, [Point(2, 1.0, 0.5)])
    study.end(0, Outcome("t0", "completed", 3, 30, 1.0, 0.6))
    assert (study.ended, study.best()) == (1, first[0])
    assert study.proposals() == first[1:]
    assert study.rows()[0]["validation_metric"] == 0.6
    assert study._asked()[0].intermediate_values == {2: 0.5}


def test_what_was_written_before_an_error_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that fails on the way leaves the study with what the storage holds, not with what was read before."""
    study = new_study(open_storage("sqlite://"))
    study.proposals()
    assert study._asked()[0].user_attrs == {}
    monkeypatch.setattr(study._study, "tell", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        study.end(0, Outcome("t0", "completed", 3, 30, 1.0, 0.6))
    assert study._asked()[0].user_attrs["outcome"]["trial_id"] == "t0"


def test_median_rule_by_hand() -> None:
    """Four trials of the first round reach 0.5, 0.6, 0.7, 0.8 at epoch 2; the median 0.65 decides in the second."""
    study = new_study(open_storage("sqlite://"))
    numbers = [number for number, _ in study.proposals()]
    for number, accuracy in zip(numbers, (0.5, 0.6, 0.7, 0.8), strict=True):
        curve = [Point(2, 1.0, accuracy)]
        study.report(number, curve)
        assert not study.should_stop(number, curve)  # nobody of an earlier round
        study.end(number, Outcome(f"t{number}", "completed", 3, 30, 1.0, accuracy + 0.1))
    second = study.proposals()[0][0]
    assert study.should_stop(second, [Point(2, 1.0, 0.64)])
    assert not study.should_stop(second, [Point(2, 1.0, 0.66)])
    # at epoch 4 the four, which ended after 3, count with their ends: the median is 0.75
    assert study.should_stop(second, [Point(2, 1.0, 0.66), Point(4, 1.0, 0.7)])
    assert not study.should_stop(second, [Point(2, 1.0, 0.66), Point(4, 1.0, 0.76)])
    assert not study.should_stop(second, [Point(2, 1.0, 0.79), Point(4, 1.0, 0.2)])  # its best so far
    assert study.should_stop(second, [Point(2, math.nan, 0.9)])  # diverging


def test_a_metric_of_which_less_is_better() -> None:
    """Nats of 1.5, 1.6, 1.7, 1.8 at epoch 2: the median 1.65 decides in the second round; the lowest is the best."""
    study = new_study(open_storage("sqlite://"), objective="validation_nats", maximize=False)
    numbers = [number for number, _ in study.proposals()]
    for number, nats in zip(numbers, (1.5, 1.6, 1.7, 1.8), strict=True):
        study.report(number, [Point(2, 1.0, nats)])
        study.end(number, Outcome(f"t{number}", "completed", 3, 30, 1.0, nats - 0.1))
    second = study.proposals()[0][0]
    assert study.should_stop(second, [Point(2, 1.0, 1.66)])
    assert not study.should_stop(second, [Point(2, 1.0, 1.64)])
    best = study.best()
    assert best is not None
    assert best[0] == numbers[0]
    assert {row.get("validation_accuracy") for row in study.rows()} == {None}
    assert study.rows()[0]["validation_metric"] == 1.4


def test_the_objective_is_the_metric_of_the_task() -> None:
    assert objective_of("metric", "classification") == ("validation_accuracy", True)
    assert objective_of("accuracy", "classification") == ("validation_accuracy", True)
    assert objective_of("loss", "classification") == ("validation_loss", False)
    assert objective_of("metric", "language") == ("validation_nats", False)
    assert objective_of("metric", "binary") == ("validation_auc", True)
    with pytest.raises(UserError, match=r"`--objective` must be metric \(nats, the primary one of language\) or loss"):
        objective_of("accuracy", "language")


def test_a_study_of_an_earlier_version_goes_on() -> None:
    """It has declared nothing of the direction, and its outcomes have an accuracy."""
    storage = open_storage("sqlite://")
    study = new_study(storage)
    assert "maximize" not in study._study.user_attrs["declared"]
    number = study.proposals()[0][0]
    study.end(number, Outcome("a", "completed", 5, 50, 0.4, 0.8))
    frozen = study._study.get_trials(deepcopy=False)[number]
    old = {name.replace("metric", "accuracy"): value for name, value in frozen.user_attrs["outcome"].items()}
    frozen.user_attrs["outcome"] = old
    row = study.rows()[0]
    assert row["validation_metric"] == row["validation_accuracy"] == 0.8
    new_study(storage, resume=True)


def test_where_early_stopping_looks() -> None:
    assert [epoch for epoch in range(100) if judged_epoch(epoch - 1, epoch, 5)] == [5, 10, 20, 40, 80]
    assert judged_epoch(4.8, 5.3, 5) == 5  # with rows within epochs: the first one at or after it
    assert judged_epoch(5.3, 9.9, 5) is None
    rows: list[dict[str, Any]] = [
        {"epoch": epoch, "test_loss": epoch, "test_metric": 0.5} for epoch in (2.5, 5.5, 9.5, 10)
    ]
    assert [(point.epoch, point.loss) for point in curve_of(rows, 5)] == [(5, 5.5), (10, 10)]
    rows.insert(1, {"epoch": 5, "test_loss": None, "test_metric": None})  # without a look at the validation examples
    assert [(point.epoch, point.loss) for point in curve_of(rows, 5)] == [(5, 5.5), (10, 10)]
    assert [is_judged(rows[:count], 5) for count in range(1, 6)] == [False, False, True, False, True]


@pytest.mark.parametrize("objective", ["validation_accuracy", "validation_loss"])
def test_diverged_failed_and_stopped_trials_are_told(objective: str) -> None:
    study = new_study(open_storage("sqlite://"), objective=objective, maximize=objective == "validation_accuracy")
    numbers = [number for number, _ in study.proposals()]
    study.end(numbers[0], Outcome("a", "diverged", 2, 20, None, 0.1))
    study.end(numbers[1], Outcome("b", "failed"))
    study.report(numbers[2], [Point(2, 0.9, 0.2)])
    study.end(numbers[2], Outcome("c", "stopped", 2, 20, 0.9, 0.2))
    assert study.best() is None
    study.end(numbers[3], Outcome("d", "completed", 5, 50, 0.4, 0.8))
    best = study.best()
    assert best is not None
    assert best[0] == numbers[3]
    states = [trial.state.name for trial in study._study.get_trials()[:4]]
    assert states == ["COMPLETE", "FAIL", "PRUNED", "COMPLETE"]
    worst = study._study.get_trials()[0].value
    assert worst == (-math.inf if objective == "validation_accuracy" else math.inf)
    assert [row["status"] for row in study.rows()] == ["diverged", "failed", "stopped", "completed"]
    assert len(study.proposals()) == 4  # the sampler goes on with an infinite value and a failed trial


def test_ties_in_accuracy_go_to_the_lower_loss() -> None:
    study = new_study(open_storage("sqlite://"))
    for (number, _), loss in zip(study.proposals(), (0.4, 0.3, 0.2, 0.5), strict=True):
        study.end(number, Outcome(f"t{number}", "completed", 5, 50, loss, 0.9 if loss != 0.2 else 0.8))
    best = study.best()
    assert best is not None
    assert best[0] == 1


def test_a_budget_of_steps_is_equal_but_for_the_last_round() -> None:
    study = new_study(open_storage("sqlite://"), budget=Budget(steps=100), round_size=2)
    steps = {0: 30, 1: 30, 2: 30, 3: 30}
    while proposals := study.proposals():
        assert study.planned >= len(study.rows()) + len(proposals)
        for number, _ in proposals:
            study.end(number, Outcome(f"t{number}", "completed", 1, steps[number], 0.1, 0.9))
    assert study.is_finished
    assert study.planned == study.ended == 4  # 60 after the first round, 120 after the second


def test_startup_points_fill_every_eighth_of_every_range() -> None:
    space = Space(learning_rate=(1e-4, 1e-1), warmup_epochs=(0.0, 8.0), weight_decay=(1e-6, 1e-3))
    points = space.startup_points(3)
    assert sorted(int(point["warmup_epochs"]) for point in points) == list(range(8))
    assert sorted(int(8 * math.log10(point["learning_rate"] / 1e-4) / 3) for point in points) == list(range(8))
    assert points == space.startup_points(3) != space.startup_points(4)


def test_edges_of_the_space() -> None:
    space = Space(learning_rate=(1e-4, 1e-1), warmup_epochs=(0.0, 10.0), weight_decay=(1e-6, 1e-2))
    inside = {"learning_rate": 3e-3, "warmup_epochs": 5.0, "weight_decay": 1e-4}
    assert space.edges(inside) == []
    assert space.edges(inside | {"learning_rate": 1.1e-4}) == ["learning_rate"]
    assert space.edges(inside | {"learning_rate": 0.09}) == ["learning_rate"]
    assert space.edges(inside | {"warmup_epochs": 0.0, "weight_decay": 1e-6}) == []  # ends by nature
    assert space.edges(inside | {"warmup_epochs": 9.9, "weight_decay": 9e-3}) == ["warmup_epochs", "weight_decay"]
