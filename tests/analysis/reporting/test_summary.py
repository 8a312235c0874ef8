"""The answer in words: it never says more than the evidence, and it fits 80 columns."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import failed, grid, record
from narrow import not_none

from analysis.data.load import load_sweep
from analysis.reporting.answer import (
    RESCALING,
    answer,
    association_sentence,
    by_batch_size,
    cost_sentence,
    remedy_sentence,
)
from analysis.reporting.headline import cards
from analysis.reporting.page.means import batch_size_charts, switch_charts
from analysis.reporting.summary import summary_lines, with_interval
from analysis.reporting.tables import correlation_rows
from analysis.stats.means import Interval, Mean
from trainables.records.tables import Record


def changed(records: Iterable[Record], **columns: Any) -> list[Record]:
    """The records with columns replaced by functions of the trial."""
    return [
        dataclasses.replace(entry, trial={**entry.trial, **{name: f(entry.trial) for name, f in columns.items()}})
        for entry in records
    ]


def test_table_by_batch_size(write_sweep: Callable[..., Path]) -> None:
    rows = by_batch_size(load_sweep(write_sweep(grid())))
    assert [row.batch_size for row in rows] == [16, 64, 512]
    assert [row.is_reference for row in rows] == [True, False, False]
    # Five doublings at 0.2 points each; splits differ by a point, which pairing removes.
    assert not_none(rows[2].gap).value == pytest.approx(0.01, abs=2e-3)
    gap, level = (not_none(not_none(one).interval) for one in (rows[2].gap, rows[2].level))
    assert not gap.holds(0)
    assert level.high - level.low > 0.02
    assert not_none(rows[2].box_sharpness).value / not_none(rows[0].box_sharpness).value == pytest.approx(
        np.exp(5), rel=0.2
    )


def test_large_batches_and_averages_are_told_in_words(write_sweep: Callable[..., Path]) -> None:
    config: dict[str, Any] = {"train_size": 2_000_000, "measure_examples": 100}
    switch: dict[str, Any] = {"switch_epoch": 5, "switch_batch_size": 1_048_576}
    sizes: list[tuple[int, dict[str, Any]]] = [(16, {}), (1_048_576, {}), (16, switch)]
    records = [
        record(batch_size=size, learning_rate=rate, **config, **more) for size, more in sizes for rate in (0.003, 0.01)
    ]
    sweep = load_sweep(write_sweep(records))
    assert {*switch_charts(sweep)[0]["lines"]} == {"16 → 1048576"}
    assert ", averaged over learning rate first." in " ".join(summary_lines(sweep))


def test_a_clear_gap_is_told(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(grid()))
    sentence, gap = cost_sentence(sweep), not_none(by_batch_size(sweep)[-1].gap)
    interval = not_none(gap.interval)
    assert sentence.startswith("Up to batch 64 test accuracy is non-inferior to batch 16 within 0.5 percentage points")
    ends = f"(95 % CI {100 * interval.low:.2f} to {100 * interval.high:.2f}, 3 replicates: significant)"
    assert f"At the same settings, batch 512 loses {100 * gap.value:.2f} percentage points {ends}" in sentence
    assert "With each batch size tuned separately (by the other replicates), batch 512 loses" in sentence
    assert "With two learning rates, every best one is at an end of the grid" in sentence
    assert sentence.endswith("for new random seeds and data splits of digits, with the settings of this sweep.")


def test_no_gap_is_not_told_as_one(write_sweep: Callable[..., Path]) -> None:
    random = np.random.default_rng(1)
    records = changed(grid(), test_accuracy=lambda trial: 0.9 + random.normal(0, 0.01))
    sentence = cost_sentence(load_sweep(write_sweep(records)))
    assert sentence.startswith("No batch size above 16 is shown to be non-inferior to batch 16 within 0.5 percentage")
    assert ": not significant)" in sentence


def test_a_reversed_gap_is_told(write_sweep: Callable[..., Path]) -> None:
    records = changed(grid(), test_accuracy=lambda trial: 1.8 - trial["test_accuracy"])
    sweep = load_sweep(write_sweep(records))
    sentence, gap = cost_sentence(sweep), not_none(by_batch_size(sweep)[-1].gap)
    interval = not_none(gap.interval)
    assert sentence.startswith("Up to batch 512, the largest tried, test accuracy is non-inferior to batch 16")
    ends = f"(95 % CI {-100 * interval.high:.2f} to {-100 * interval.low:.2f}, 3 replicates: significant)"
    assert f"it gains {-100 * gap.value:.2f} percentage points {ends}" in sentence


def test_the_margin_is_the_readers(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(grid()), margin=5)
    assert cost_sentence(sweep).startswith(
        "Up to batch 512, the largest tried, test accuracy is non-inferior to batch 16 within 5 percentage points"
    )


def test_the_answer_is_three_sentences(write_sweep: Callable[..., Path]) -> None:
    texts = answer(load_sweep(write_sweep(grid())))
    assert len(texts) == 3
    assert texts[2].startswith("Of 2 remedies tried at batch 512, ")


def test_one_replicate_gives_no_interval_and_says_so(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(grid(seeds=[0])))
    assert "1 replicate: no interval" in cost_sentence(sweep)
    assert "no interval" in remedy_sentence(sweep)
    assert "no intervals" in " ".join(summary_lines(sweep))


def many(seeds: Iterable[int] = (0, 1, 2), **columns: Any) -> list[Record]:
    return changed(grid(batch_sizes=[16, 32, 64, 128, 256, 512], switch_epochs=[None], seeds=seeds), **columns)


def test_an_association_is_called_one(write_sweep: Callable[..., Path]) -> None:
    sentence = association_sentence(load_sweep(write_sweep(many())))
    assert sentence.startswith("Sharper minima go with a larger gap: among trials that differ in batch size and")
    assert "; 36 trials in 3 replicates). This is an association, not a cause. After controlling for" in sentence
    assert sentence.endswith(f"{RESCALING}.")


@pytest.mark.parametrize(
    ("own_noise", "shared_noise", "told"),
    [
        (0.0, 1.0, " an association remains: +0."),
        (1.0, 0.0, " there is no significant association: "),
        (0.0, 0.0, ", these trials cannot show whether an association remains."),
    ],
)
def test_what_is_left_beyond_the_hyperparameters_is_told(
    write_sweep: Callable[..., Path], own_noise: float, shared_noise: float, told: str
) -> None:
    generator, records = np.random.default_rng(3), many(seeds=range(6))
    for entry in records:
        own, shared = generator.normal(size=2)
        entry.trial["test_accuracy"] -= 0.005 * shared
        entry.trial["box_sharpness"] = entry.trial["batch_size"] * np.exp(own_noise * own + shared_noise * shared)
    sentence = association_sentence(load_sweep(write_sweep(records)))
    assert f"After controlling for batch size and the other hyperparameters{told}" in sentence


def test_missing_trials_are_counted(write_sweep: Callable[..., Path]) -> None:
    records = many()
    records[-1].trial["status"], records[-2].trial["flags"] = "diverged", ["missed target loss"]
    assert "; 34 of 36 trials in 3 replicates)" in association_sentence(load_sweep(write_sweep(records)))


def test_the_reverse_is_told_too(write_sweep: Callable[..., Path]) -> None:
    sentence = association_sentence(load_sweep(write_sweep(many(box_sharpness=lambda t: 1 / t["box_sharpness"]))))
    assert "a smaller gap" in sentence


def test_nothing_is_claimed_when_the_interval_holds_zero(write_sweep: Callable[..., Path]) -> None:
    random = np.random.default_rng(2)
    sentence = association_sentence(load_sweep(write_sweep(many(box_sharpness=lambda trial: random.uniform()))))
    assert sentence.startswith("There is no significant association between box sharpness and the gap: among trials")
    for claim in ("explain", "predict", "track", "because", "go with a"):
        assert claim not in sentence
    assert RESCALING in sentence


def test_the_largest_eigenvalue_is_judged_where_it_alone_was_measured(
    write_sweep: Callable[..., Path],
) -> None:
    unmeasured = dict.fromkeys(("box_sharpness", "box_sharpness_paper"))
    records = [dataclasses.replace(entry, trial=entry.trial | unmeasured, measures=[]) for entry in grid()]
    sweep = load_sweep(write_sweep(records))
    assert "the rank correlation of the largest Hessian eigenvalue and gap is +" in association_sentence(sweep)
    card = next(card for card in cards(sweep) if card.question == "Is it sharpness?")
    assert card.verdict.startswith("Sharper minima have larger gaps")
    assert card.result.startswith("the largest Hessian eigenvalue and gap: ρ = +")
    table = "\n".join(summary_lines(sweep)).split("rank correlation with the gap")[1]
    assert table.split("\n")[0].strip() == "largest eigenvalue"
    assert " over 3 replicates. Matched: 0 trials" not in " ".join(table.split())
    assert " over 3 replicates. Matched: " in " ".join(table.split())


def test_too_few_trials_claim_nothing(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep([record(0.9, 1.0, batch_size=16), record(0.8, 2.0, batch_size=64)]))
    unknown = (
        "Whether box sharpness and the gap are associated is unknown: one replicate cannot show more than chance ("
    )
    assert association_sentence(sweep).startswith(unknown)


def test_the_gain_of_a_switch_is_paired(write_sweep: Callable[..., Path]) -> None:
    sentence = remedy_sentence(load_sweep(write_sweep(grid())))
    assert "batch 16 for the first 5 epochs: +0" in sentence or "batch 64 for the first 5 epochs: +0" in sentence
    gain = float(sentence.split("epochs: ")[1].split()[0])
    assert 0.2 < gain < 0.4  # one and a half doublings at 0.2 points each, but for noise


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_lines_fit_the_terminal_and_count_everything(
    write_sweep: Callable[..., Path], scale: float, width: int
) -> None:
    records = [*grid(seeds=range(5)), failed("boom", seed=99)]
    records = changed(records, box_sharpness=lambda t: scale * t.get("box_sharpness", 1.0))
    records[0].trial["flags"] = ["missed target loss", "paper method far below strong"]
    lines = summary_lines(load_sweep(write_sweep(records)), width)
    path = next(place for place, line in enumerate(lines) if line.startswith("In "))
    longest = max(len(line) for place, line in enumerate(lines) if place != path)
    assert width - 12 < longest <= width  # a paragraph fills it but for a word
    text = "\n".join(lines)
    if width == 60:  # what does not fit beside follows below
        assert re.search(r"^batch +(box sharpness|largest)", text, re.MULTILINE)
    text = " ".join(text.split())
    assert "50 completed, 0 diverged, 1 failed" in text
    assert "missed target loss 1; paper method far below strong 1" in text
    assert "off target too" in text
    assert "trials.parquet, epochs.parquet, measures.parquet" in text


def test_all_failed(write_sweep: Callable[..., Path]) -> None:
    text = "\n".join(summary_lines(load_sweep(write_sweep([failed("boom"), failed("bang", seed=1)]))))
    assert "0 completed, 0 diverged, 2 failed" in text
    assert "No trial without a switch or a remedy has completed" in text


@pytest.mark.parametrize(
    ("ends", "text"),
    [((0.9982, 1.0811), "1.04 [0.998, 1.08]"), ((0.62, 1.78), "1.04 [0.62, 1.8]"), (None, "1.04")],
)
def test_the_ends_of_a_narrow_interval_are_on_their_side_of_one(ends: tuple[float, float] | None, text: str) -> None:
    assert with_interval(Mean(1.04, None if ends is None else Interval(*ends), 4, 4)) == text


def test_learning_rates_that_agree_in_six_digits_stay_apart(write_sweep: Callable[..., Path]) -> None:
    """One of them used to take the place of the other."""
    sweep = load_sweep(write_sweep(grid(learning_rates=(0.01, 0.01000001))))
    names = {"learning rate 0.01", "learning rate 0.01000001"}
    assert names <= {view for _, _, view, *_ in correlation_rows(sweep)}
    assert "learning rate 0.01000001" in "\n".join(summary_lines(sweep))
    assert all({*chart["lines"]} == names for chart in batch_size_charts(sweep))
