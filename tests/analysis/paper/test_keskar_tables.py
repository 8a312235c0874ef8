"""The paper's numbers, and what the table says of sweeps whose answer is known."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import record
from narrow import not_none

from analysis.data.load import load_sweep
from analysis.keskar_tables import main
from analysis.paper.keskar2017 import accuracy, sharpness
from analysis.paper.keskar_figure4 import keskar_figure4, write_figure4
from analysis.paper.keskar_tables import keskar_tables, table_lines, write_keskar_tables
from trainables.records.tables import Record
from trainables.runtime.errors import UserError

LOSS = (0.012, 0.020, 0.016)  # of LB against SB, by seed
RATIO = (3.0, 16 / 3, 4.0)


def two_batches(
    loss: Sequence[float] = LOSS, ratio: Sequence[float] = RATIO, model: str = "f1", sizes: Sequence[int] = (16, 512)
) -> list[Record]:
    """A network at two batch sizes, a seed for each difference."""
    records = []
    for seed, (lost, times) in enumerate(zip(loss, ratio, strict=True)):
        for large, size in enumerate(sizes):
            records.append(
                record(
                    0.95 - 0.01 * seed - large * lost, sharpness=0.5 * times**large, batch_size=size, seed=seed,
                    split_seed=seed, model=model,
                )
            )  # fmt: skip
    return records


def row(table: pd.DataFrame, **values: Any) -> pd.Series:
    for name, value in values.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_the_papers_numbers() -> None:
    assert accuracy().loc[("C1", "SB"), "test_accuracy"] == 80.04
    assert accuracy().loc[("F2", "LB"), ["train_accuracy", "train_std"]].tolist() == [98.35, 2.08]
    assert sharpness().loc[("C1", "LB", "full", 1e-3)].tolist() == [707.23, 43.04]
    assert sharpness().loc[("C4", "SB", "subspace100", 5e-4)].tolist() == [1.89, 0.33]
    assert (len(accuracy()), len(sharpness())) == (12, 48)
    assert not accuracy().index.has_duplicates
    assert not sharpness().index.has_duplicates
    by_regime = sharpness()["sharpness"].unstack("regime")
    assert (by_regime["LB"] > by_regime["SB"]).all()


def test_both_conclusions_hold(write_sweep: Callable[..., Path]) -> None:
    table = keskar_tables(load_sweep(write_sweep(two_batches())))
    found = row(table, quantity="test accuracy")
    assert (found["paper_SB"], found["paper_LB"], found["paper_effect"]) == pytest.approx((98.03, 97.81, 0.22))
    assert (found["SB"], found["SB_std"]) == pytest.approx((94.0, 1.0))
    half = 4.302652729911275 * 0.4 / 3**0.5  # t(0.975, 2) s / sqrt(n) of 1.2, 2.0 and 1.6 points
    assert (found["effect"], found["effect_low"], found["effect_high"]) == pytest.approx((1.6, 1.6 - half, 1.6 + half))
    t = 1.6 / (0.4 / 3**0.5)
    assert found["confidence"] == pytest.approx(0.5 * (1 + t / (2 + t * t) ** 0.5))  # Student's t, 2 degrees of freedom
    assert (found["verdict"], found["conclusion"]) == ("holds", "LB generalizes worse")
    box = row(table, quantity="box sharpness", method="strong", epsilon=1e-3)
    assert box["effect"] == pytest.approx(4.0)
    assert box["effect_low"] == pytest.approx(4 * 0.75 ** (4.302652729911275 / 3**0.5))
    assert (box["paper_SB"], box["paper_LB"], box["verdict"]) == (1.23, 205.14, "holds")
    said = " ".join(table_lines(table))
    assert "LB generalizes worse: F1 on digits 512: holds (99.0 %)." in said
    assert "98.03" in said


def test_reversed_not_clear_and_one_replicate(write_sweep: Callable[..., Path]) -> None:
    reverse = keskar_tables(load_sweep(write_sweep(two_batches(loss=[-x for x in LOSS], ratio=[1 / x for x in RATIO]))))
    accuracy_row = row(reverse, quantity="test accuracy")
    assert accuracy_row["verdict"] == "reversed"
    assert accuracy_row["confidence"] < 0.025
    unclear = keskar_tables(load_sweep(write_sweep(two_batches(loss=(0.02, -0.02, 0.01)), "unclear")))
    assert row(unclear, quantity="test accuracy")["verdict"] == "not significant"
    one = keskar_tables(load_sweep(write_sweep(two_batches(loss=(0.02,), ratio=(2.0,)), "one")))
    assert row(one, quantity="test accuracy")["verdict"] == "one replicate"
    assert "one replicate" in " ".join(table_lines(one))


def test_networks_stand_apart_and_one_that_is_not_the_papers_has_no_number_of_it(
    write_sweep: Callable[..., Path],
) -> None:
    records = [*two_batches(), *two_batches(model="mlp", sizes=(32, 128))]
    records[-1].trial["flags"] = ["missed target loss"]
    table = keskar_tables(load_sweep(write_sweep(records)))
    mlp = row(table, network="mlp", quantity="test accuracy")
    assert (mlp["batch_size_SB"], mlp["batch_size_LB"], mlp["off_target"]) == (32, 128, 1)
    assert np.isnan(mlp["paper_SB"])
    assert "1 of mlp on digits 512" in " ".join(table_lines(table))


def test_the_subspace_of_the_paper_is_met_by_both_of_ours(write_sweep: Callable[..., Path]) -> None:
    records = two_batches()
    for entry, space in itertools.product(records, ("unit subspace of 100", "gaussian subspace of 100")):
        large = entry.trial["batch_size"] == 512
        entry.measures.append(
            {
                "measure": f"box_sharpness_{space.split()[0]}_subspace", "method": "strong", "epsilon": 1e-3,
                "space": space, "value": 3.0 if large else 1.0, "converged": True,
            }
        )  # fmt: skip
    table = keskar_tables(load_sweep(write_sweep(records)))
    for space in ("unit subspace of 100", "gaussian subspace of 100"):
        found = row(table, space=space)
        assert (found["paper_SB"], found["paper_LB"]) == (0.11, 9.22)
        assert found["effect"] == pytest.approx(3.0)
        assert found["verdict"] == "no spread"  # the same ratio in every seed has no interval


def test_one_batch_size_is_one_line(write_sweep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(two_batches(sizes=(16, 16)))
    assert main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert "of one network at two batch sizes" in error
    assert error.count("\n") == 1
    assert not (folder / "figures").exists()
    with pytest.raises(UserError, match="two batch sizes or more"):
        keskar_figure4(load_sweep(folder))


def test_the_files(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(two_batches()))
    lines = write_keskar_tables(sweep)
    written = pd.read_csv(sweep.folder / "figures" / "keskar_tables.csv")
    assert lines[-1].endswith("figures/keskar_tables.csv")
    assert written["network"].eq("F1").all()


def test_figure_4(write_sweep: Callable[..., Path]) -> None:
    """Flat up to 64, then 1 point a doubling; sharpness doubles with every doubling."""
    records = [
        record(
            0.95 - 0.01 * max(0.0, np.log2(size / 64)) + 0.001 * seed * (size > 64),
            sharpness=size / 16 * (1 + 0.1 * seed), batch_size=size, seed=seed, split_seed=seed,
        )
        for size in (16, 32, 64, 128, 256, 512)
        for seed in range(4)
    ]  # fmt: skip
    sweep = load_sweep(write_sweep(records))
    figure = keskar_figure4(sweep)
    left, right = figure.axes
    accuracy_line = next(line for line in left.lines if len(np.asarray(line.get_xdata())) == 6)
    assert list(np.asarray(accuracy_line.get_ydata()))[:3] == pytest.approx([95.0] * 3)
    assert {text.get_text() for text in not_none(right.get_legend()).get_texts()} == {"strong", "paper"}
    assert any(line.get_linestyle() == "--" for line in left.lines)  # the threshold
    lines = [str(line) for line in write_figure4(sweep)]
    assert any(line.startswith("Test accuracy is flat up to a batch size of about ") for line in lines)
    table = pd.read_csv(sweep.folder / "figures" / "keskar_figure4.csv")
    strong = table[table["quantity"] == "box_sharpness"].set_index("batch_size")["mean"]
    assert strong[512] / strong[16] == pytest.approx(32)
