"""The heat map over learning rate and warmup: its means, and the curves of sharpness beside it."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import record
from matplotlib.figure import Figure

from analysis.charts.learning_rate_heatmap import learning_rate_heatmap
from analysis.charts.style import LINE_COLOURS, legend_key, rank_colours, rendered
from analysis.charts.warmup_heatmap import _legend, along, curve_of, warmup_heatmap
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
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "30\nsteps"]
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
    warmups = sweep_of((16,), range(11))
    with pytest.raises(UserError, match="at most 10 warmups for this figure, got 11"):
        warmup_heatmap(load_sweep(write_sweep(warmups, "warmups")))


def test_what_diverged_keeps_its_place_and_is_marked(write_sweep: Write) -> None:
    """Batch 512 diverged everywhere, batch 16 at rate 0.01 without warmup, and with warmup 2 in one replicate."""
    records = sweep_of()
    for entry in records:
        trial = entry.trial
        lost = trial["learning_rate"] == 0.01 and (trial["warmup_epochs"], trial["seed"]) != (2, 0)
        if trial["batch_size"] == 512 or lost:
            trial |= {"status": "diverged", "test_accuracy": None}
    sweep = load_sweep(write_sweep(records))
    figure = warmup_heatmap(sweep)
    assert [text.get_text() for text in figure.axes[0].texts] == ["†", "93.0†", "90.0", "92.0"]
    assert [text.get_text() for text in figure.axes[2].texts] == ["†"] * 4
    assert "†: trials of this cell diverged" in figure._supxlabel.get_text()  # type: ignore[attr-defined]
    third = [record(0.8, batch_size=16, learning_rate=0.1, seed=0, row={"status": "diverged", "test_accuracy": None})]
    by_rate = learning_rate_heatmap(load_sweep(write_sweep([*records, *third], "rates")))
    assert [text.get_text() for text in by_rate.axes[0].texts] == ["†", "93.0†", "†", "91.0", "†"]
    assert [label.get_text() for label in by_rate.axes[0].get_xticklabels()] == ["16", "512"]


def test_values_off_scale_stay_inside_their_cells(write_sweep: Write) -> None:
    """A loss of 1e30 in one cell, and an infinite and a huge eigenvalue, which count as not measured."""
    records = sweep_of((16,), range(6))
    for entry in records:
        trial = entry.trial
        loss = 1e30 if (trial["learning_rate"], trial["warmup_epochs"]) == (0.01, 0) else 0.0123
        trial |= {"metric": "mse", "metric_unit": "", "metric_direction": "lower", "task": "regression"}
        trial |= {"test_metric": loss, "test_accuracy": None, "train_accuracy": None}
        if trial["learning_rate"] == 0.01:
            entry.measures[-1]["value"], entry.measures[-2]["value"] = np.inf, 1e200
    figure = warmup_heatmap(load_sweep(write_sweep(records)))
    rendered(figure, ["png"])
    left, right = figure.axes
    assert left.texts[0].get_text() == "1e+30"
    assert {text.get_text() for text in left.texts[1:]} == {"0.0123"}
    width = left.get_window_extent().width / 6
    assert max(text.get_window_extent().width for text in left.texts) < width
    assert right.get_ylim()[1] < 1e3  # e^4 16 sqrt(2)


def test_the_legend_keeps_each_kind_in_rows_of_its_own() -> None:
    figure = Figure()
    keys = {"rate": [legend_key(str(k)) for k in range(9)], "warmup": [legend_key("w")]}
    _legend(figure, keys)
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    columns = [texts[place : place + 3] for place in range(0, len(texts), 3)]
    assert columns[:3] == [["rate", "", "warmup"], ["0", "7", "w"], ["1", "8", ""]]
    assert columns[3:] == [[str(k), "", ""] for k in range(2, 7)]


def test_more_rates_than_colours_have_colours_of_their_own() -> None:
    assert rank_colours([0.1, 0.01]) == {0.01: LINE_COLOURS[0], 0.1: LINE_COLOURS[1]}
    assert len(set(rank_colours([float(k) for k in range(12)]).values())) == 12


def test_the_command_writes_the_figure(write_sweep: Write, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(sweep_of())
    assert main([str(folder)]) == 0
    assert "warmup_heatmap.png" in capsys.readouterr().out
    assert (folder / "figures" / "warmup_heatmap.svg").stat().st_size > 10_000
