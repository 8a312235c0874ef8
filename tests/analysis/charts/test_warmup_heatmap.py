"""The heat map over learning rate and warmup: its means, and the curves of sharpness beside it."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import record

from analysis.charts.warmup_heatmap import along, curve_of, warmup_heatmap
from analysis.data.load import comparable, load_sweep
from analysis.warmup_heatmap import main
from trainables.records.tables import Record
from trainables.runtime.errors import UserError

Write = Callable[..., Path]
LAST = 4  # epochs; the second replicate ends one epoch earlier


def sweep_of(
    sizes: Sequence[int] = (16, 512),
    warmups: Sequence[float] = (0, 2),
    measure: str = "hessian_max_eig",
    **config: Any,
) -> list[Record]:
    """Accuracy 0.9 + 0.001 (rate / 0.001) + 0.01 warmup - 0.002 seed; sharpness (1 + seed) size e^epoch."""
    method, epsilon = ("lanczos", None) if measure == "hessian_max_eig" else ("strong", 1e-3)
    records = []
    for size, rate, warmup, seed in itertools.product(sizes, (0.001, 0.01), warmups, (0, 1)):
        ends = LAST - seed
        rows = [
            {"measure": measure, "method": method, "epsilon": epsilon, "space": "full", "epoch": epoch,
             "value": (1 + seed) * size * np.exp(epoch)}
            for epoch in range(1, ends + 1)
        ]  # fmt: skip
        found = record(
            accuracy=0.9 + rate + 0.01 * warmup - 0.002 * seed, row={"epochs_done": ends}, found=rows, batch_size=size,
            learning_rate=rate, warmup_epochs=warmup, seed=seed, split_seed=seed, measure_every=1, **config,
        )  # fmt: skip
        records.append(found)
    return records


def test_cells_and_curves(write_sweep: Write) -> None:
    figure = warmup_heatmap(load_sweep(write_sweep(sweep_of())))
    assert len(figure.axes) == 4  # two for each batch size
    for size, (left, right) in zip((16, 512), (figure.axes[:2], figure.axes[2:]), strict=True):
        assert [text.get_text() for text in left.texts] == ["90.9", "92.9", "90.0", "92.0"]  # the larger rate on top
        assert [label.get_text() for label in left.get_xticklabels()] == ["0", "2"]
        assert len(right.lines) == 4
        for line in right.lines:
            assert list(np.asarray(line.get_xdata())) == [1, 2, 3]  # up to the end of the first replicate
            np.testing.assert_allclose(np.asarray(line.get_ydata()), np.sqrt(2) * size * np.exp([1, 2, 3]), rtol=1e-12)
    colours = [line.get_color() for line in figure.axes[1].lines]
    markers = [line.get_marker() for line in figure.axes[1].lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert markers[0] == markers[2] != markers[1] == markers[3]
    titles = " ".join(axes.get_ylabel() for axes in figure.axes)
    assert titles.count("largest Hessian") == 2


def test_box_sharpness_where_there_are_no_eigenvalues(write_sweep: Write) -> None:
    sweep = load_sweep(write_sweep(sweep_of(measure="box_sharpness")))
    measure, moments = along(sweep, comparable(sweep))
    assert measure.column == "box_sharpness"
    assert len(moments) == 8 * (LAST + LAST - 1)
    assert warmup_heatmap(sweep).axes


def test_a_warmup_in_steps_and_a_blank_cell(write_sweep: Write) -> None:
    records = [*sweep_of((16,), (0,)), *sweep_of((16,), (0,), warmup_steps=30)]
    figure = warmup_heatmap(load_sweep(write_sweep(records[:-1])))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "30 steps"]
    (line,) = [one for one in figure.axes[1].lines if len(np.asarray(one.get_xdata())) == LAST]  # of a single replicate
    np.testing.assert_allclose(np.asarray(line.get_ydata()), 16 * np.exp([1, 2, 3, 4]), rtol=1e-12)
    blank = warmup_heatmap(load_sweep(write_sweep(records[:-2], "blank")))
    assert len(blank.axes[0].texts) == 3


def test_a_trial_without_moments_does_not_cut_the_curve(write_sweep: Write) -> None:
    sweep = load_sweep(write_sweep(sweep_of((16,))))
    _, moments = along(sweep, comparable(sweep))
    one = moments["trial_id"].iloc[0]
    assert list(curve_of(moments, [one, "unmeasured"]).index) == list(curve_of(moments, [one]).index)
    assert curve_of(moments, []).empty


def test_what_cannot_be_drawn_is_said(write_sweep: Write, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="at 2 or more warmups, got 1"):
        warmup_heatmap(load_sweep(write_sweep(sweep_of(warmups=(0,)))))
    unmeasured = [Record(entry.trial, entry.epochs, []) for entry in sweep_of((16,))]
    folder = write_sweep(unmeasured, "unmeasured")
    assert main([str(folder)]) == 2
    assert "hessian_max_eig or box_sharpness measured along the run (--measure-every 1)" in capsys.readouterr().err
    many = sweep_of([2**power for power in range(7)])
    with pytest.raises(UserError, match="at most 6 batch sizes for this figure, got 7"):
        warmup_heatmap(load_sweep(write_sweep(many, "many")))


def test_the_command_writes_the_figure(write_sweep: Write, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(sweep_of())
    assert main([str(folder)]) == 0
    assert "warmup_heatmap.png" in capsys.readouterr().out
    assert (folder / "figures" / "warmup_heatmap.svg").stat().st_size > 10_000
