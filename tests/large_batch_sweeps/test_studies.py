"""The studies beyond the default sweep in Python: tables and figures of the results that docs/kept holds."""

from pathlib import Path

import made_up
import matplotlib.figure
import pandas as pd
import pytest
from narrow import not_none

import large_batch_sweeps as lbs
from analysis.questions.tuned_steps import load_tuned_steps

KEPT = Path(__file__).resolve().parents[2] / "docs" / "kept"
BY_RESULTS = {  # the estimate that each table is about
    "branched_batch": "excess",
    "data_size": "b_crit",
    "scaling_rules": "gain",
    "sharpness_intervention": "share",
}


def with_interval(frame: pd.DataFrame, name: str) -> None:
    """Some row has the estimate inside its interval, and none has it outside."""
    known = frame.dropna(subset=[f"{name}_low", f"{name}_high"])
    assert len(known)
    assert (known[f"{name}_low"] <= known[name]).all()
    assert (known[name] <= known[f"{name}_high"]).all()


@pytest.mark.parametrize("name", BY_RESULTS)
def test_a_study_of_results(name: str) -> None:
    results = lbs.load_sweep(KEPT / f"{name}_digits")
    with_interval(getattr(lbs, name)(results), BY_RESULTS[name])
    assert isinstance(getattr(lbs.figures, name)(results), matplotlib.figure.Figure)


EXHIBITS = {  # the folder of docs/paper/data, and the estimate that each table is about
    "evolution": ("digits_evolution", "ratio"),
    "keskar_figure4": ("digits_threshold", "mean"),
    "keskar_tables": ("tables_small", "effect"),
    "optimization_issue": ("digits_optimizers", "gap"),
    "paper_remedies": ("digits_remedies", "gain"),
    "resilience": ("digits_resilience", "gap"),
    "warm_start": ("digits_warm_start", "gain"),
}


@pytest.mark.parametrize("name", lbs.paper.__all__)
def test_an_exhibit_of_the_paper(name: str) -> None:
    folder, estimate = EXHIBITS[name]
    results = lbs.load_sweep(KEPT.parent / "paper" / "data" / folder)
    with_interval(getattr(lbs.paper, name)(results), estimate)
    if hasattr(lbs.figures, name):
        assert isinstance(getattr(lbs.figures, name)(results), matplotlib.figure.Figure)


def test_comparisons_with_both_batches() -> None:
    """Those of the large batch: worse and sharper than the small one, itself no gain."""
    frame = lbs.paper.warm_start(lbs.load_sweep(KEPT.parent / "paper" / "data" / "digits_warm_start"))
    large, small = frame.iloc[0], frame.iloc[-1]
    assert (large["worse"], large["sharper"]) == (True, True)
    assert large["gap_low"] > 0
    assert large["ratio_low"] > 1
    assert pd.isna(large["gain"])
    assert small["is_reference"]
    assert pd.isna(small["gap"])
    assert small["gain"] == pytest.approx(large["gap"])


def test_an_optimizer_ladder() -> None:
    folder = KEPT / "optimizer_ladder_digits"
    frame = lbs.optimizer_ladder(folder)
    with_interval(frame, "steps")
    with_interval(frame, "loss")
    assert frame["optimizer"].nunique() > 1
    assert isinstance(lbs.figures.optimizer_ladder(folder), matplotlib.figure.Figure)


def test_steps_and_seconds_to_a_result(tmp_path: Path) -> None:
    results = lbs.load_sweep(made_up.write(tmp_path / "law", made_up.law(factors=(0.9, 1.0, 1.1))))
    with_interval(lbs.time_to_result(results, metric="train_loss", goal=1e-3), "seconds")
    for draw in (lbs.figures.steps_to_result, lbs.figures.time_to_result):
        assert isinstance(draw(results, metric="train_loss", goal=1e-3), matplotlib.figure.Figure)


def test_steps_of_a_search_are_those_of_its_command() -> None:
    """At the settings that the search chose, a row for each of its goals and batch sizes, as on its page."""
    results = lbs.load_sweep(KEPT / "steps_to_result_digits")
    frame = lbs.steps_to_result(results)
    goals = load_tuned_steps(KEPT / "steps_to_result_digits")
    assert list(frame["goal"].unique()) == [one.goal for one in goals] == [0.5, 0.35]
    for one in goals:
        assert one.found is not None
        own = frame[frame["goal"] == one.goal]
        assert own["steps"].dropna().tolist() == [row.steps.value for row in one.found.rows if row.steps is not None]
        assert set(own["b_crit"]) == {not_none(one.found.critical).value}
        assert own["reached"].tolist() == [row.reached for row in one.found.rows]
    assert len(lbs.steps_to_result(results, goal=0.35)) == 4
    assert isinstance(lbs.figures.steps_to_result(results), matplotlib.figure.Figure)
    with pytest.raises(lbs.UserError, match=r"must be one that the search chose settings for \(0.5 or 0.35\), got 0.4"):
        lbs.steps_to_result(results, goal=0.4)
    with pytest.raises(lbs.UserError, match="must be test_loss, by which the search chose its settings"):
        lbs.figures.steps_to_result(results, metric="train_loss")


def test_the_threshold(tmp_path: Path) -> None:
    records = made_up.grid(batch_sizes=(16, 32, 64, 128, 512), seeds=range(5), switch_epochs=(None,))
    frame = lbs.threshold_batch(lbs.load_sweep(made_up.write(tmp_path / "grid", records)))
    assert len(frame) == 1
    with_interval(frame, "slope")
    with_interval(frame, "fall")


@pytest.mark.parametrize("name", ["tuned_gap", "optimizer_ladder"])
def test_a_folder_without_the_search_is_one_line(tmp_path: Path, name: str) -> None:
    for ask in (getattr(lbs, name), getattr(lbs.figures, name)):
        with pytest.raises(lbs.UserError, match="results"):
            ask(tmp_path)


@pytest.mark.parametrize("name", ["landscape", "parametric"])
def test_minima_without_weights_are_one_line(tmp_path: Path, name: str) -> None:
    results = lbs.load_sweep(made_up.write(tmp_path / "grid", made_up.grid()))
    with pytest.raises(lbs.UserError):
        getattr(lbs.figures, name)(results)
