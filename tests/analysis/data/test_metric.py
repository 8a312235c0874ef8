"""Other metrics than accuracy: the same answer for a metric and for its negative, in its own words and unit."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import grid, judged_by, record
from matplotlib.text import Text
from narrow import not_none

from analysis import free_batch as free_batch_command
from analysis import summary as summary_command
from analysis.data.load import BOX_STRONG, MAX_EIG, Sweep, comparable, load_sweep
from analysis.data.metric import ACCURACY, Metric, metric_of
from analysis.data.progress import progress_of
from analysis.questions.association import TARGETS, associate
from analysis.questions.free_batch import free_batch
from analysis.questions.leaderboard import leaderboard, leaderboard_frame
from analysis.questions.remedies import remedies
from analysis.questions.threshold_batch import threshold_batch, threshold_sentence
from analysis.reporting.answer import answer, by_batch_size, cost_sentence, remedy_sentence
from analysis.reporting.headline import headline_lines
from analysis.reporting.page.data import page_data
from analysis.reporting.report import FIGURES
from analysis.reporting.summary import summary_lines
from analysis.stats.means import mean_over_replicates, paired_difference, ratio_of_means
from trainables.records.tables import Record
from trainables.runtime.errors import UserError

NATS = "nats", "nats per token"


def trials(sizes: Sequence[int] = (16, 64, 128, 512)) -> list[Record]:
    """Four batch sizes, two learning rates, four replicates, and label smoothing as a remedy."""
    random = np.random.default_rng(1)
    return [
        record(
            0.9 + 0.01 * seed - 0.00007 * size + (0.01 if smoothing else 0) + random.normal(0, 1e-3),
            1 + size / 100 + random.random() / 10,
            batch_size=size,
            learning_rate=rate,
            seed=seed,
            split_seed=seed,
            label_smoothing=smoothing,
        )
        for size in sizes
        for rate in (0.01, 0.1)
        for seed in range(4)
        for smoothing in ((0.0, 0.1) if size > 16 else (0.0,))
    ]


@pytest.fixture
def mirrored(write_sweep: Callable[..., Path]) -> tuple[Sweep, Sweep]:
    """The same trials, once judged by a metric of which more is better, and once by its negative."""
    first = write_sweep(trials(), "first")
    second = shutil.copytree(first, first.with_name("second"))
    up, down = judged_by(first, "merit", "marks", 2.0, 3.0), judged_by(second, "demerit", "marks", -2.0, -3.0)
    return load_sweep(up, margin=0.01), load_sweep(down, margin=0.01)


def same(first: Any, second: Any) -> None:
    """Whether two answers agree in every field; floats may be of another sign of zero."""
    assert json.dumps(dataclasses.asdict(first), default=str) == json.dumps(dataclasses.asdict(second), default=str)


def test_the_negative_of_a_metric_gives_the_same_answers(mirrored: tuple[Sweep, Sweep]) -> None:
    up, down = mirrored
    assert (up.metric.direction, down.metric.direction) == ("higher", "lower")
    for comparison in ("matched", "tuned"):
        found = free_batch(up, comparison)
        assert found is not None
        assert len(found.rows) == 3
        same(found, free_batch(down, comparison))
    assert not_none(free_batch(up)).largest_noninferior_batch < 512  # so that the sequence ends somewhere
    assert len(remedies(up)) == 3
    for first, second in zip(remedies(up), remedies(down), strict=True):
        same(first, second)
    assert remedies(up)[0].helps
    same(threshold_batch(up), threshold_batch(down))
    for target in TARGETS:
        for measure in (BOX_STRONG, MAX_EIG):
            same(associate(up, measure, target), associate(down, measure, target))
        boards = [leaderboard_frame(leaderboard(sweep, target)) for sweep in mirrored]
        pd.testing.assert_frame_equal(*boards)
    for row, other in zip(by_batch_size(up), by_batch_size(down), strict=True):
        assert row.gap == other.gap
        assert not_none(row.level).value == -not_none(other.level).value


def test_the_stored_gaps_are_those_of_the_score(mirrored: tuple[Sweep, Sweep]) -> None:
    for sweep in mirrored:
        frame = comparable(sweep)
        frame = frame[frame["is_plain"]]
        score = frame[sweep.metric.score]
        keys = [frame["learning_rate"], frame["split_seed"]]
        reference = score.where(frame["batch_size"] == 16).groupby(keys).transform("max")
        np.testing.assert_allclose(frame["large_batch_gap"], reference - score, atol=1e-12)


def test_the_answer_in_nats_by_hand(write_sweep: Callable[..., Path]) -> None:
    """Loss of 1.50, 1.60 at batch 16; 1.502, 1.601 at 32; 1.53, 1.64 at 64."""
    losses = {16: [1.5, 1.6, 1.7], 32: [1.502, 1.601, 1.7], 64: [1.53, 1.64, 1.73]}
    records = [
        record(-loss, batch_size=size, seed=seed, split_seed=seed, row={"train_accuracy": -1.0})
        for size, found in losses.items()
        for seed, loss in enumerate(found)
    ]
    sweep = load_sweep(judged_by(write_sweep(records), *NATS, 0.0, -1.0))
    sentence = cost_sentence(sweep)
    # 0.001 + 4.303 * 0.001 / sqrt(3), and 0.0333 + 4.303 * 0.00577 / sqrt(3)
    assert (
        "Up to batch 32 test loss is non-inferior to batch 16 within 0.01 nats per token: it is 0.001 nats per "
        in sentence
    )
    assert "(95 % CI −0.001 to 0.003, 3 replicates: not significant)" in sentence
    assert "At the same settings, batch 64 is 0.033 nats per token worse (95 % CI 0.019 to 0.048, 3" in sentence
    assert not_none(by_batch_size(sweep)[2].gap).value == pytest.approx(0.1 / 3)
    assert not_none(by_batch_size(sweep)[2].level).value == pytest.approx(4.9 / 3)
    assert not_none(free_batch(sweep)).margin == 0.01


def test_changes_are_told_in_the_direction_of_the_metric(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(judged_by(write_sweep(trials()), *NATS, 2.0, -1.0))
    gain = remedies(sweep)[0].gain
    assert gain.value > 0
    sentence = remedy_sentence(sweep)
    low, high = -not_none(gain.interval).high, -not_none(gain.interval).low
    assert (
        f"changes test loss by −{gain.value:.3f} nats per token" in sentence or f": −{gain.value:.3f} nats" in sentence
    )
    assert f"{low:.3f} to {high:.3f}".replace("-", "−") in sentence
    assert "Test loss is flat up to" in threshold_sentence(sweep)
    assert "rises by" in threshold_sentence(sweep)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "unit", "offset", "slope"),
    [
        (*NATS, 2.0, -1.0),
        pytest.param("mse", "squared units of the labels", 4e-6, -3e-6, marks=pytest.mark.slow),
        pytest.param("auc", "points", 0.0, 1.0, marks=pytest.mark.slow),
        pytest.param("hit", "", 0, 5, marks=pytest.mark.slow),
    ],
)
def test_every_text_names_the_metric(
    write_sweep: Callable[..., Path], metric: str, unit: str, offset: float, slope: float
) -> None:
    sweep = load_sweep(judged_by(write_sweep([*trials(), *grid(seeds=(3, 4))]), metric, unit, offset, slope))
    texts = [*summary_lines(sweep), *answer(sweep)]
    page = page_data(sweep, progress_of(sweep.trials, sweep.folder))
    shown = {key: value for key, value in page.items() if key != "trials"}
    for draw in FIGURES.values():
        try:
            figure = draw(sweep)
        except UserError as error:
            texts.append(str(error))
            continue
        texts += [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]
        figure.draw_without_rendering()
    assert not [text for text in [*texts, json.dumps(shown)] if re.search(r"accurac|\bnan\b", text, re.IGNORECASE)]
    if unit != "points":
        assert not [text for text in texts if re.search(r"%\s*points|percentage", text)]


def test_old_rows_are_accuracy(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(trials()))
    assert sweep.metric == ACCURACY
    assert sweep.trials["test_metric"].equals(sweep.trials["test_accuracy"])
    assert set(sweep.trials["metric"]) == {"accuracy"}


def test_two_metrics_are_looked_at_alone(write_sweep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = judged_by(write_sweep(trials()), *NATS, 2.0, -1.0, share=slice(44, None))
    both = load_sweep(folder)
    assert len(both.trials) == 44
    assert both.metric.name == "accuracy"
    assert both.notes[0] == (
        "These results are of classification (accuracy). Trials of another task or primary metric are left out: "
        "12 of classification (nats); `--metric` shows them."
    )
    other = load_sweep(folder, metric="nats")
    assert len(other.trials) == 12
    assert other.metric.unit == "nats per token"
    with pytest.raises(UserError, match=r"must be a primary metric of these trials \(accuracy, nats\), got f1"):
        load_sweep(folder, metric="f1")
    assert summary_command.main([str(folder), "--metric", "nats"]) == 0
    assert "12 trials ended" in capsys.readouterr().out
    assert free_batch_command.main([str(folder)]) == 0
    assert "note: These results are of classification (accuracy)." in capsys.readouterr().err


def test_trials_that_failed_early_belong_to_any_metric() -> None:
    about = {"task": "language", "metric": "nats", "metric_unit": "nats per token", "metric_direction": "lower"}
    rows = pd.DataFrame([{**about, "test_metric": 1.5}, {"test_metric": None}])
    kept, metric, note = metric_of(rows)
    assert len(kept) == 2
    assert metric == Metric("nats", "nats per token", "lower", 0.01, 3)
    assert note is None


def test_margins(
    write_sweep: Callable[..., Path], capsys: pytest.CaptureFixture[str], refusal: Callable[..., str]
) -> None:
    folder = write_sweep(trials())
    assert load_sweep(folder, margin=2.5).metric.margin == 0.025  # percentage points
    assert summary_command.main([str(folder), "--margin", "9"]) == 0
    assert "Up to batch 512, the largest tried, test accuracy is non-inferior" in capsys.readouterr().out
    for wrong in ("0", "-1", "nan", "inf"):
        assert "--margin" in refusal(summary_command.main, [str(folder), "--margin", wrong])
    judged_by(folder, "mse", "squared units of the labels", 4.0, -3.0)
    sweep = load_sweep(folder)
    assert {row.free for row in not_none(free_batch(sweep)).rows} == {None}
    assert cost_sentence(sweep).startswith(
        "No batch size was tested for non-inferiority to batch 16, because MSE has no default margin; set one in "
        "squared units of the labels with `--margin`. At the same settings, batch 512 is 0.1"
    )
    assert "within 5 squared units of the labels" in cost_sentence(load_sweep(folder, margin=5))


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_intervals_scale_with_the_metric(scale: float) -> None:
    """Nothing knows that an accuracy lies in [0, 1]: all of 1e-9 times the values gives 1e-9 times the answers."""
    values = scale * np.array([1.0, 1.3, 0.8, 1.1])
    frame = pd.DataFrame({"replicate": range(4), "matched_set": range(4), "test_metric": values, "test_size": 10})
    other = frame.assign(test_metric=scale * np.array([0.9, 1.1, 0.75, 1.0]))
    mean = not_none(mean_over_replicates(frame, "test_metric"))
    gap = not_none(paired_difference(frame, other, "test_metric"))
    half = 3.182446 * np.std([0.1, 0.2, 0.05, 0.1], ddof=1) / 2
    assert (not_none(mean.interval).high + not_none(mean.interval).low) / 2 / scale == pytest.approx(1.05)
    assert (not_none(gap.interval).high - not_none(gap.interval).low) / 2 / scale == pytest.approx(half, rel=1e-6)
    ratio = not_none(ratio_of_means(frame["test_metric"], other["test_metric"]))
    assert not_none(ratio.interval).low < ratio.value < not_none(ratio.interval).high


def test_what_differs_by_rounding_alone_has_no_interval() -> None:
    frame = pd.DataFrame({"replicate": range(3), "matched_set": range(3), "test_metric": [0.3, 0.1 + 0.2, 0.3]})
    assert not_none(mean_over_replicates(frame, "test_metric")).interval is None
    assert not_none(paired_difference(frame, frame.assign(test_metric=0.2), "test_metric")).interval is None


def test_no_negative_zero_and_no_verdict_where_replicates_agree_exactly(write_sweep: Callable[..., Path]) -> None:
    """Losses of 1.5 and 1.6 at both batch sizes but for 1e-5: the gap is 0.000, and has no interval."""
    records = [record(-loss - extra, batch_size=size, seed=seed, split_seed=seed)
               for seed, loss in enumerate((1.5, 1.625)) for size, extra in ((16, 2**-20), (64, 0.0))]  # fmt: skip
    sweep = load_sweep(judged_by(write_sweep(records), *NATS, 0.0, -1.0))
    assert sweep.metric.signed(-1e-5) == "+0.000"
    verdict = headline_lines(sweep, width=300)[1]
    assert verdict == "How large? Unknown: all replicates agree exactly, which gives no interval"
