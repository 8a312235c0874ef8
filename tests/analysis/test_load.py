"""analysis.load and analysis.association: which trials are compared with which."""

import dataclasses
import json

import pytest
from made_up import failed, grid, record

from analysis.association import associate
from analysis.load import BOX_STRONG, axes, comparable, constants, load_sweep
from trainables.errors import UserError


def test_axes_and_constants(write_sweep):
    sweep = load_sweep(write_sweep(grid()))
    varying = axes(sweep.trials)
    assert varying["batch_size"] == [16, 64, 512]
    assert varying["switch_epoch"] == [5, None]
    assert isinstance(varying["switch_epoch"][0], int)
    fixed = constants(sweep.trials)
    assert fixed["dataset"] == "digits"
    assert fixed["momentum"] is None
    assert not set(varying) & set(fixed)


def test_sweep_json_is_optional_and_may_be_broken(write_sweep):
    folder = write_sweep(grid())
    assert load_sweep(folder).command is None
    (folder / "sweep.json").write_text("{")
    assert load_sweep(folder).command is None
    (folder / "sweep.json").write_text(json.dumps({"command": ["a", "b c"], "started_at": "now", "planned": 9}))
    sweep = load_sweep(folder)
    assert (sweep.command, sweep.started_at, sweep.planned, sweep.name) == (("a", "b c"), "now", 9, "sweep")


def test_a_folder_that_is_no_sweep(tmp_path):
    with pytest.raises(UserError, match=r"^`results` must"):
        load_sweep(tmp_path)
    with pytest.raises(UserError, match=r"^`results` must"):
        load_sweep(tmp_path / "missing")


def test_only_completed_trials_enter_each_once(write_sweep):
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


def test_reference_trials_are_those_whose_gaps_cancel(write_sweep):
    frame = comparable(load_sweep(write_sweep(grid())))
    references = frame[frame["is_reference"]]
    assert set(references["batch_size"]) == {16}
    assert not references["is_switched"].any()
    assert references["large_batch_gap"].abs().max() == 0
    assert (frame[~frame["is_reference"]]["large_batch_gap"].abs() > 0).all()


def test_groups(write_sweep):
    frame = comparable(load_sweep(write_sweep(grid())))
    # 512 with a switch to 512 is no switch: 2 rates x (3 + 2) configurations, 2 rates x 3 seeds matched sets
    assert frame["configuration"].nunique() == 10
    assert frame["matched_set"].nunique() == 6
    assert (frame.groupby("configuration")["replicate"].nunique() == 3).all()
    assert (frame.groupby("matched_set")[["learning_rate", "seed"]].nunique() == 1).all(axis=None)


def test_all_failed_is_empty_but_sound(write_sweep):
    sweep = load_sweep(write_sweep([failed("boom", batch_size=size) for size in (16, 32)]))
    assert comparable(sweep).empty
    assert associate(sweep, BOX_STRONG).matched.value is None


def test_references_enter_the_matched_correlation_only(write_sweep):
    association = associate(load_sweep(write_sweep(grid())), BOX_STRONG)
    assert association.matched.trials == 30
    assert association.pooled.trials == 24  # 6 references are left out
    assert {rate: part.trials for rate, part in association.within_learning_rate.items()} == {
        0.003: 12,
        0.01: 12,
    }
    assert association.matched.value > 0.9


def test_difficulty_of_splits_does_not_enter_the_matched_correlation(write_sweep):
    """Adding any constant to the accuracies of one split leaves it alone; pooled test error changes."""
    easier = [
        dataclasses.replace(entry, trial={**entry.trial, "test_accuracy": entry.trial["test_accuracy"] - 0.3})
        if entry.trial["seed"] == 1
        else entry
        for entry in grid()
    ]
    plain, shifted = (load_sweep(write_sweep(records, name)) for name, records in (("a", grid()), ("b", easier)))
    assert associate(plain, BOX_STRONG).matched == associate(shifted, BOX_STRONG).matched
    pooled = [associate(sweep, BOX_STRONG, "test_error").pooled.value for sweep in (plain, shifted)]
    assert pooled[0] != pooled[1]


def test_off_target_trials_are_in_the_second_number_only(write_sweep):
    records = grid()
    records[-1].trial["flags"] = ["train accuracy below 99.9 %"]
    association = associate(load_sweep(write_sweep(records)), BOX_STRONG)
    assert association.matched.trials == 29
    assert association.matched_with_off_target.trials == 30
