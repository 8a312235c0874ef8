"""Which rows of a folder enter a result: one version of the code, one setting of each measure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_up import record

from analysis.data.load import comparable, load_sweep, measures_of
from analysis.data.progress import read_progress
from analysis.reporting.summary import summary_lines
from trainables.records.record_files import Record

BOX = {"measure": "box_sharpness", "method": "strong", "epsilon": 1e-3, "space": "full", "epoch": 20}
EIG = {"measure": "hessian_max_eig", "method": "lanczos", "space": "full", "epoch": 20}
FLOAT64 = {"examples": 512, "dtype": "float64", "batch_norm": "running"}
FLOAT32 = {"examples": 100, "dtype": "float32", "batch_norm": "running"}


def test_older_versions_are_left_out_of_every_number(write_sweep: Callable[..., Path]) -> None:
    def versions(*pairs: Any) -> list[Record]:
        return [
            record(
                accuracy,
                batch_size=size,
                seed=seed,
                row={"numbers_version": version, "trial_id": f"{version}{seed}{size}"},
            )
            for version, accuracy in pairs
            for seed in (0, 1)
            for size in (16, 64)
        ]

    old, both = (
        load_sweep(write_sweep(versions((8, 0.5)), "old")),
        load_sweep(write_sweep(versions((8, 0.5), (9, 0.9)))),
    )
    assert len(comparable(old)) == 4  # alone it is readable in full, and nothing is said
    assert old.notes == ()
    assert comparable(both)["test_accuracy"].tolist() == [0.9] * 4
    assert set(both.measures["trial_id"]) == set(both.trials["trial_id"])
    assert both.notes == (
        "4 trials of an older version of this code (numbers_version below 9) are left out of every result.",
    )
    text = " ".join(summary_lines(both))
    assert "4 trials of an older version of this code" in text
    assert "4 trials ended: 4 completed" in text
    assert read_progress(both.folder).ended == 4
    unrecorded = load_sweep(write_sweep(versions((None, 0.5), (9, 0.9)), "unrecorded"))
    assert comparable(unrecorded)["test_accuracy"].tolist() == [0.9] * 4


def test_mixed_libraries_are_told_in_one_line(write_sweep: Callable[..., Path]) -> None:
    assert load_sweep(write_sweep([record(), record(batch_size=64)], "same")).notes == ()
    new = {"torch_version": "2.9.1", "device": "NVIDIA H100"}
    records = [record(), record(batch_size=64), record(batch_size=128, row=new)]
    assert load_sweep(write_sweep(records)).notes == (
        "Trials ran with different versions or devices and agree to rounding only: device NVIDIA H100 (1), cpu (2); "
        "PyTorch 2 (2), 2.9.1 (1).",
    )


def test_one_setting_of_each_measure(write_sweep: Callable[..., Path]) -> None:
    """The one that most trials have, also in the columns of trials.parquet; a trial that has another keeps it."""
    first = [{**BOX, **FLOAT64, "value": 1.0}, {**EIG, **FLOAT64, "value": 2.0}]
    second = [{**BOX, **FLOAT32, "value": 10.0}, {**EIG, **FLOAT32, "value": None, "error": "why"}]
    records = [
        record(seed=0, sharpness=10.0, found=[*first, *second]),
        record(seed=1, sharpness=1.0, found=first),
        record(seed=2, sharpness=10.0, found=second),
    ]
    sweep = load_sweep(write_sweep(records))
    frame = comparable(sweep).set_index("seed")
    assert frame["box_sharpness"].to_dict() == {0: 1.0, 1: 1.0, 2: 10.0}
    assert frame["hessian_max_eig"].to_dict() == {0: 2.0, 1: 2.0, 2: 20.0}
    assert not sweep.measures.duplicated(["trial_id", "measure", "method", "epsilon", "epoch"]).any()
    assert len({measure.column for measure in measures_of(sweep)}) == len(measures_of(sweep)) == 5
    assert len(frame["matched_set"].unique()) == 3  # one for each seed
    assert sweep.notes == (
        "Measured under several settings, of which the most frequent is used: box_sharpness, hessian_max_eig "
        "(measures.parquet has all).",
    )
