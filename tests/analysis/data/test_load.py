"""analysis.data.load and analysis.questions.association: which trials are compared with which."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_up import failed, grid, record
from narrow import not_none

from analysis.data.load import (
    BOX_STRONG,
    MEASURES,
    attempted,
    axes,
    chosen_on_validation,
    comparable,
    constants,
    load_sweep,
    measures_of,
    number_of,
    rows_of,
)
from analysis.questions.association import associate
from trainables.runtime.errors import UserError


def test_axes_and_constants(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(grid()))
    varying = axes(sweep.trials)
    assert varying["batch_size"] == [16, 64, 512]
    assert varying["switch_epoch"] == [5, None]
    assert isinstance(varying["switch_epoch"][0], int)
    fixed = constants(sweep.trials)
    assert fixed["dataset"] == "digits"
    assert fixed["momentum"] is None
    assert not set(varying) & set(fixed)


def test_sweep_json_is_optional_and_may_be_broken(write_sweep: Callable[..., Path]) -> None:
    folder = write_sweep(grid())
    assert load_sweep(folder).command is None
    (folder / "sweep.json").write_text("{")
    assert load_sweep(folder).command is None
    (folder / "sweep.json").write_text(json.dumps({"command": ["a", "b c"], "started_at": "now", "planned": 9}))
    sweep = load_sweep(folder)
    assert (sweep.command, sweep.started_at, sweep.planned, sweep.name) == (("a", "b c"), "now", 9, "sweep")


def test_a_folder_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^`results` must"):
        load_sweep(tmp_path)
    with pytest.raises(UserError, match=r"^`results` must"):
        load_sweep(tmp_path / "missing")


def test_only_completed_trials_enter_each_once(write_sweep: Callable[..., Path]) -> None:
    copy = {"flags": ["ended before its switch"]}
    records = [
        record(batch_size=16),
        record(batch_size=64, row={"flags": ["missed target loss", "paper method far below strong"]}),
        record(batch_size=64, switch_epoch=30, switch_batch_size=512, row=copy),
        record(batch_size=512, row={"status": "diverged", "flags": ["diverged"]}),
        failed("boom", batch_size=128),
    ]
    frame = comparable(load_sweep(write_sweep(records))).set_index("batch_size")
    assert sorted(frame.index) == [16, 64]
    assert frame["off_target"].to_dict() == {16: False, 64: True}
    assert frame["is_reference"].to_dict() == {16: True, 64: False}
    assert frame["box_sharpness_5e-4"].tolist() == [0.5, 0.5]


def test_reference_trials_are_those_whose_gaps_cancel(write_sweep: Callable[..., Path]) -> None:
    frame = comparable(load_sweep(write_sweep(grid())))
    references = frame[frame["is_reference"]]
    assert set(references["batch_size"]) == {16}
    assert not references["is_switched"].any()
    assert references["large_batch_gap"].abs().max() == 0
    assert (frame[~frame["is_reference"]]["large_batch_gap"].abs() > 0).all()


def test_groups(write_sweep: Callable[..., Path]) -> None:
    frame = comparable(load_sweep(write_sweep(grid())))
    # 512 with a switch to 512 is no switch: 2 rates x (3 + 2) configurations, 2 rates x 3 seeds matched sets
    assert frame["configuration"].nunique() == 10
    assert frame["matched_set"].nunique() == 6
    assert (frame.groupby("configuration")["replicate"].nunique() == 3).all()
    assert (frame.groupby("matched_set")[["learning_rate", "seed"]].nunique() == 1).all(axis=None)


def test_all_failed_is_empty_but_sound(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep([failed("boom", batch_size=size) for size in (16, 32)]))
    assert comparable(sweep).empty
    assert associate(sweep, BOX_STRONG).matched.value is None


def test_references_enter_the_matched_correlation_only(write_sweep: Callable[..., Path]) -> None:
    association = associate(load_sweep(write_sweep(grid())), BOX_STRONG)
    assert association.matched.trials == 30
    assert association.pooled.trials == 24  # 6 references are left out
    assert {rate: part.trials for rate, part in association.within_learning_rate.items()} == {
        0.003: 12,
        0.01: 12,
    }
    assert not_none(association.matched.value) > 0.9


def test_difficulty_of_splits_does_not_enter_a_correlation(write_sweep: Callable[..., Path]) -> None:
    """Adding any constant to the accuracies of one split leaves it alone, as replicates are taken one by one."""
    easier = [
        dataclasses.replace(entry, trial={**entry.trial, "test_accuracy": entry.trial["test_accuracy"] - 0.3})
        if entry.trial["seed"] == 1
        else entry
        for entry in grid()
    ]
    plain, shifted = (load_sweep(write_sweep(records, name)) for name, records in (("a", grid()), ("b", easier)))
    for target in ("large_batch_gap", "test_error"):
        first, second = (associate(sweep, BOX_STRONG, target) for sweep in (plain, shifted))
        assert (first.matched, first.pooled) == (second.matched, second.pooled)


def test_off_target_trials_are_in_the_second_number_only(write_sweep: Callable[..., Path]) -> None:
    records = grid()
    records[-1].trial["flags"] = ["train accuracy below 99.9 %"]
    association = associate(load_sweep(write_sweep(records)), BOX_STRONG)
    assert association.matched.trials == 29
    assert association.matched_with_off_target.trials == 30


def test_plain_trials_have_neither_switch_nor_remedy_and_alone_are_references(write_sweep: Callable[..., Path]) -> None:
    records = [
        record(batch_size=16),
        record(batch_size=16, sam_radius=0.05),
        record(batch_size=64),
        record(batch_size=64, clip_norm=1.0),
        record(batch_size=16, switch_epoch=5, switch_batch_size=64),
    ]
    frame = comparable(load_sweep(write_sweep(records)))
    assert frame["is_plain"].sum() == 2
    assert frame.loc[frame["is_reference"], "batch_size"].tolist() == [16]
    assert frame["remedy_set"].nunique() == frame["setting"].nunique() == 1
    assert frame.groupby("remedy")["matched_set"].nunique().tolist() == [1, 1, 1]
    assert frame["matched_set"].nunique() == 3


def test_trials_with_a_validation_set_choose_and_are_not_counted(write_sweep: Callable[..., Path]) -> None:
    records = [record(0.9), record(0.8, batch_size=64), record(0.1, validation_size=50)]
    sweep = load_sweep(write_sweep(records))
    assert comparable(sweep)["test_accuracy"].tolist() != chosen_on_validation(sweep)["test_accuracy"].tolist() == [0.1]
    assert len(comparable(sweep)) == 2
    alone = load_sweep(write_sweep(records[2:], "alone"))
    assert len(comparable(alone)) == 1  # nothing was tested: they are all there is


def test_measures_are_those_of_the_final_weights_one_for_each_setting(write_sweep: Callable[..., Path]) -> None:
    ball = {"measure": "ball", "method": "ascent", "space": "full"}
    found = [
        {**ball, "scale": 0.5, "value": 1.0, "epoch": 20, "seconds": 2.0},
        {**ball, "scale": 0.5, "value": 9.0, "epoch": 10},
        {**ball, "scale": 2.0, "value": 3.0, "epoch": 20},
        {"measure": "trace", "method": "deflated", "space": "full", "value": 4.0, "epoch": 20},
    ]
    sweep = load_sweep(write_sweep([record(found=found), record(batch_size=64)]))
    further = {measure.column: measure for measure in measures_of(sweep) if measure not in MEASURES}
    assert sorted(further) == ["ball_ascent_0.5", "ball_ascent_2", "trace"]
    row = comparable(sweep).set_index("batch_size").loc[16]
    assert (row["ball_ascent_0.5"], row["ball_ascent_2"], row["trace"]) == (1.0, 3.0, 4.0)
    assert rows_of(sweep, further["ball_ascent_0.5"])["seconds"].tolist() == [2.0]


def rows_at(space: str, value: float, name: str = "layer_max_eig", **further: Any) -> dict[str, Any]:
    return {"measure": name, "method": "lanczos", "space": space, "value": value, "epoch": 20} | further


def test_every_layer_has_a_column_and_a_label_of_its_own(write_sweep: Callable[..., Path]) -> None:
    found = [rows_at("0", 1.0), rows_at("2", 2.0), rows_at("0", 3.0, "layer_trace"), rows_at("2", 4.0, "layer_trace")]
    found.append(rows_at("4.weight", 5.0, "relative_flatness"))
    sweep = load_sweep(write_sweep([record(found=found)]))
    columns = ("layer_max_eig_0", "layer_max_eig_2", "layer_trace_0", "layer_trace_2", "relative_flatness")
    further = {measure.column: measure for measure in measures_of(sweep) if measure not in MEASURES}
    assert tuple(further) == columns
    assert comparable(sweep).loc[0, list(columns)].tolist() == [1, 2, 3, 4, 5]
    assert further["layer_max_eig_2"].label == "largest Hessian eigenvalue of a layer, 2"
    assert rows_of(sweep, further["layer_max_eig_2"])["value"].tolist() == [2]


@pytest.mark.parametrize("value", [1e101, -1e308])
def test_metrics_too_large_for_their_squares_are_missing(write_sweep: Callable[..., Path], value: float) -> None:
    kept = record(test_accuracy := 0.9, 1e300, batch_size=64)
    sweep = load_sweep(write_sweep([record(value, 1.0), kept]))
    assert sweep.trials["test_accuracy"].isna().tolist() == [size == 16 for size in sweep.trials["batch_size"]]
    assert sweep.trials["test_accuracy"].max() == test_accuracy
    assert sweep.trials["box_sharpness"].max() == 1e300


@pytest.mark.parametrize("seconds", [-1.0, 1e10, 1e300])
def test_times_that_no_trial_takes_are_missing(write_sweep: Callable[..., Path], seconds: float) -> None:
    sweep = load_sweep(write_sweep([record(row={"train_seconds": seconds}), record(batch_size=64)]))
    assert sweep.trials.set_index("batch_size")["train_seconds"].isna().to_dict() == {16: True, 64: False}


def test_a_value_by_no_method_is_no_measure(write_sweep: Callable[..., Path]) -> None:
    nameless = [{**rows_at("full", value, "trace"), "method": None, "scale": value} for value in (1.0, 2.0)]
    sweep = load_sweep(write_sweep([record(found=nameless)]))
    assert [measure for measure in measures_of(sweep) if measure not in MEASURES] == []


def test_a_trial_measured_in_several_ways_counts_in_one_of_them(write_sweep: Callable[..., Path]) -> None:
    usual = {"dtype": "float64", "examples": 512, "batch_norm": "running", "seed": 0, "split": "train"}
    for way in ({"examples": 64}, {"dtype": "float32"}, {"batch_norm": "batch"}, {"seed": 1}, {"split": "test"}):
        both = [rows_at("full", 2.0, "trace", **usual | way), rows_at("full", 1.0, "trace", **usual)]
        once = [rows_at("full", 9.0, "trace", **usual)]
        sweep = load_sweep(write_sweep([record(found=both), record(batch_size=64, found=once)], str(way)))
        assert [measure.column for measure in measures_of(sweep) if measure not in MEASURES] == ["trace"]
        assert comparable(sweep).set_index("batch_size")["trace"].to_dict() == {16: 1.0, 64: 9.0}
        assert len(sweep.notes) == 1


def test_measures_taken_in_one_way_by_each_trial_share_a_column(write_sweep: Callable[..., Path]) -> None:
    """As where the examples follow from the size of the training set."""
    records = [
        record(batch_size=size, found=[rows_at("full", 1.0, "trace", examples=n)]) for size, n in ((16, 300), (64, 600))
    ]
    sweep = load_sweep(write_sweep(records))
    assert [measure.column for measure in measures_of(sweep) if measure not in MEASURES] == ["trace"]
    assert comparable(sweep)["trace"].tolist() == [1, 1]


def test_what_comparable_gives_may_be_changed(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep([record(), record(batch_size=64)]))
    frame = comparable(sweep)
    frame["test_accuracy"] = 0.0
    assert comparable(sweep)["test_accuracy"].tolist() == [0.9, 0.9]


def test_attempted_holds_what_did_not_complete_in_the_groups_of_what_did(write_sweep: Callable[..., Path]) -> None:
    lost = {"status": "diverged", "flags": ["diverged"]}
    records = [record(batch_size=16), record(batch_size=64), record(batch_size=64, learning_rate=0.1, row=lost)]
    sweep = load_sweep(write_sweep([*records, failed("boom", batch_size=16, learning_rate=0.1)]))
    frame = attempted(sweep)
    assert sorted(frame["status"]) == ["completed", "completed", "diverged", "failed"]
    assert frame.groupby("learning_rate")["matched_set"].nunique().to_dict() == {0.01: 1, 0.1: 1}
    assert set(comparable(sweep)["matched_set"]) < set(frame["matched_set"])


def test_numbers_of_settings_are_those_of_a_grouping() -> None:
    columns = {"a": [2.0, 1.0, None, 1.0, 2.0], "b": ["y", "x", "x", None, "y"], "c": [True] * 5}
    frame = pd.DataFrame(columns, index=[5, 6, 7, 8, 9])
    expected = frame.groupby(["a", "b", "c"], dropna=False).ngroup()
    assert number_of(frame, ("a", "b", "c")).to_dict() == expected.to_dict() == {5: 2, 6: 0, 7: 3, 8: 1, 9: 2}
    assert number_of(frame, []).tolist() == [0] * 5


def test_seeds_with_the_same_initial_weights_are_no_replicates(write_sweep: Callable[..., Path]) -> None:
    """They are the same network in another order of the data; on splits of their own they count."""
    records = [
        record(batch_size=b, seed=s, split_seed=p, row={"initial_weights": "w"})
        for b in (16, 64)
        for s in (1, 0)
        for p in (0, 1)
    ]
    records += [record(batch_size=16, seed=s, split_seed=5, row={"initial_weights": f"w{s}"}) for s in (0, 1)]
    sweep = load_sweep(write_sweep(records))
    frame = comparable(sweep)
    found = sorted(zip(frame["batch_size"], frame["seed"], frame["split_seed"], strict=True))
    assert found == [(16, 0, 0), (16, 0, 1), (16, 0, 5), (16, 1, 5), (64, 0, 0), (64, 0, 1)]
    (line,) = [note for note in sweep.notes if "initial weights" in note]
    assert line.startswith("4 trials with the initial weights of another seed are left out")


def test_settings_of_another_version_are_others(write_sweep: Callable[..., Path]) -> None:
    """A loaded sweep has one version; what tells settings apart is still every column of MATCHED."""
    sweep = load_sweep(write_sweep([record(seed=seed) for seed in range(2)]))
    assert comparable(sweep)["setting"].tolist() == [0, 0]
    mixed = dataclasses.replace(sweep, trials=sweep.trials.assign(numbers_version=[1, 2]))
    assert comparable(mixed)["setting"].tolist() == [0, 1]
