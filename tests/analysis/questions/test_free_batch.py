"""The largest batch that costs nothing, and the threshold batch: worked by hand."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import failed, record
from narrow import not_none
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.charts.free_batch import free_batch_figure
from analysis.charts.threshold_batch import threshold_figure
from analysis.data.load import load_sweep
from analysis.paper.keskar_figure4 import keskar_figure4
from analysis.questions.free_batch import free_batch
from analysis.questions.threshold_batch import fit_threshold, threshold_batch, threshold_sentence
from trainables.records.tables import Record
from trainables.runtime.errors import UserError


def trials(accuracies: Mapping[tuple[int, float], Iterable[float | None]], **config: Any) -> list[Record]:
    """A record for each {(batch size, learning rate): accuracy of seed 0, 1, ...}."""
    return [
        record(accuracy, batch_size=size, learning_rate=rate, seed=seed, split_seed=seed, **config)
        for (size, rate), found in accuracies.items()
        for seed, accuracy in enumerate(found)
        if accuracy is not None
    ]


PLAIN = {
    (16, 0.01): [0.90, 0.92, 0.94],
    (32, 0.01): [0.901, 0.919, 0.939],  # loses -0.1, 0.1, 0.1
    (64, 0.01): [0.893, 0.921, 0.938],  # 0.7, -0.1, 0.2: not shown
    (128, 0.01): [0.899, 0.919, 0.938],  # 0.1, 0.1, 0.2, but comes after
}


def test_matched_by_hand(write_sweep: Callable[..., Path]) -> None:
    found = not_none(free_batch(load_sweep(write_sweep(trials(PLAIN)))))
    assert (found.reference, found.margin, found.chosen_by) == (16, 0.005, None)
    lost = [-0.001, 0.001, 0.001]
    upper = np.mean(lost) + stats.t.ppf(0.975, 2) * stats.sem(lost)  # 4.30 * 0.00067
    assert found.rows[0].upper == pytest.approx(upper)
    assert [row.free for row in found.rows] == [True, False, True]
    assert found.largest_noninferior_batch == 32  # the sequence ends at 64
    wide = not_none(free_batch(load_sweep(write_sweep(trials(PLAIN), "wide")), margin=0.02))
    assert wide.largest_noninferior_batch == 128


def test_one_replicate_and_one_batch_size_show_nothing(write_sweep: Callable[..., Path]) -> None:
    one = load_sweep(write_sweep(trials({key: values[:1] for key, values in PLAIN.items()}), "one"))
    found = not_none(free_batch(one))
    assert found.largest_noninferior_batch == 16
    assert {(row.upper, row.free) for row in found.rows} == {(None, None)}
    assert free_batch(one, "tuned") is None
    single = load_sweep(write_sweep(trials({(16, 0.01): [0.9, 0.8]}), "single"))
    assert free_batch(single) is None
    with pytest.raises(UserError, match="two batch sizes or more"):
        free_batch_figure(single)
    with pytest.raises(UserError, match="`margin` must be"):
        free_batch(one, "matched", 0.0)


TUNED: dict[tuple[int, float], list[float | None]] = {
    (16, 0.01): [0.90, 0.92, 0.94],
    (16, 0.1): [0.80, 0.80, 0.80],
    (64, 0.01): [0.80, 0.81, 0.80],
    (64, 0.1): [0.90, 0.92, 0.93],
}


def test_each_batch_size_at_its_own_setting_by_hand(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(trials(TUNED)))
    # Matched, 0.01 loses 0.10, 0.11, 0.14 and 0.1 gains 0.10, 0.12, 0.13: nothing on average.
    assert not_none(not_none(free_batch(sweep)).rows[0].lost).value == pytest.approx(0, abs=1e-12)
    tuned = not_none(free_batch(sweep, "tuned"))
    assert tuned.chosen_by == "other replicates"
    assert not_none(tuned.rows[0].lost).value == pytest.approx(0.01 / 3)  # 0.01 for 16, 0.1 for 64: loses 0, 0, 0.01
    assert "its own setting, by other replicates" in [
        text.get_text() for text in free_batch_figure(sweep).legends[0].get_texts()
    ]


def test_the_choice_does_not_see_the_replicate_it_is_judged_on(write_sweep: Callable[..., Path]) -> None:
    # At batch 64 rate 0.1 is lucky in seed 0 alone: seeds 1 and 2 choose by seed 0 and each other, seed 0 by the rest.
    lucky: dict[tuple[int, float], list[float | None]] = {
        **TUNED,
        (64, 0.01): [0.90, 0.90, 0.90],
        (64, 0.1): [0.98, 0.85, 0.85],
    }
    tuned = not_none(free_batch(load_sweep(write_sweep(trials(lucky))), "tuned"))
    # Seed 0: others say 0.90 > 0.85, so it gets 0.90. Seeds 1, 2: 0.90 < (0.98 + 0.85) / 2, so they get 0.85.
    assert not_none(tuned.rows[0].lost).value == pytest.approx(np.mean([0.90 - 0.90, 0.92 - 0.85, 0.94 - 0.85]))


def test_a_setting_that_diverged_elsewhere_is_not_chosen(write_sweep: Callable[..., Path]) -> None:
    holes = {**TUNED, (64, 0.1): [0.90, 0.92, None]}
    tuned = not_none(free_batch(load_sweep(write_sweep(trials(holes))), "tuned"))
    # Seeds 0 and 1 see no trial of rate 0.1 in seed 2 and take 0.01; seed 2 would take 0.1 and has none: left out.
    assert not_none(tuned.rows[0].lost).value == pytest.approx(np.mean([0.90 - 0.80, 0.92 - 0.81]))
    assert not_none(tuned.rows[0].lost).replicates == 2


def test_a_validation_set_chooses_and_the_test_set_has_no_part(write_sweep: Callable[..., Path]) -> None:
    validation = {key: [0.9 if key in {(16, 0.1), (64, 0.01)} else 0.5] * 3 for key in TUNED}
    records = trials(TUNED) + trials(validation, validation_size=50)
    sweep = load_sweep(write_sweep(records))
    tuned = not_none(free_batch(sweep, "tuned"))
    assert tuned.chosen_by == "validation"
    assert not_none(tuned.rows[0].lost).value == pytest.approx(np.mean([0.8 - 0.80, 0.8 - 0.81, 0.8 - 0.80]))
    # and what was measured on the validation set enters no other number
    assert not_none(not_none(free_batch(sweep)).rows[0].lost).trials == 6


def broken_line(sizes: ArrayLike, threshold: float, level: float, slope: float) -> NDArray[np.float64]:
    return level - slope * np.maximum(0, np.log2(np.asarray(sizes) / threshold))


@pytest.mark.parametrize("threshold", [16.0, 50.0, 128.0])
def test_an_exact_broken_line_is_found_again(threshold: float) -> None:
    sizes = np.array([16.0, 32, 64, 128, 256])
    found = fit_threshold(sizes, broken_line(sizes, threshold, 0.9, 0.01))
    assert found == pytest.approx((threshold, 0.9, 0.01), rel=0.02)


def test_the_fit_is_that_of_least_squares_at_every_threshold() -> None:
    sizes = 2 ** np.arange(4.0, 11.0)
    y = broken_line(sizes, 60, 0.9, 0.01) + 0.003 * np.random.default_rng(0).normal(size=7)
    best = (np.inf, 0.0)
    for threshold in 2 ** np.linspace(4, 9, 2001):
        design = np.column_stack([np.ones(7), -np.maximum(0, np.log2(sizes / threshold))])
        best = min(best, (np.linalg.lstsq(design, y, rcond=None)[1][0], threshold))
    threshold, level, slope = fit_threshold(sizes, y)
    assert threshold == pytest.approx(best[1], rel=0.01)
    assert np.sum((y - broken_line(sizes, threshold, level, slope)) ** 2) == pytest.approx(best[0], rel=1e-3)


def test_what_does_not_fall_has_no_threshold() -> None:
    assert fit_threshold(np.array([16.0, 32, 64, 128]), np.array([0.90, 0.91, 0.92, 0.93]))[2] == 0.0


def falling(threshold: float, noise: float, slope: float = 0.01, seeds: int = 5) -> list[Record]:
    sizes, random = [16, 32, 64, 128, 256], np.random.default_rng(0)
    line = broken_line(sizes, threshold, 0.9, slope)
    split = 0.02 * random.normal(size=seeds)
    return trials(
        {(size, 0.01): y + split + noise * random.normal(size=seeds) for size, y in zip(sizes, line, strict=True)}
    )


def test_a_sweep_that_falls_has_a_threshold_with_an_interval(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(falling(64, 0.001)))
    found = threshold_batch(sweep)
    assert not_none(found.threshold).value == pytest.approx(64, rel=0.2)
    assert not_none(not_none(found.threshold).interval).low > 16
    assert not_none(not_none(found.threshold).interval).holds(64)
    assert not_none(found.slope.interval).holds(0.01)
    assert threshold_sentence(sweep).startswith("Test accuracy is flat up to a batch size of about")
    assert "percentage points with each doubling" in threshold_figure(sweep).get_supxlabel()


def test_a_threshold_that_could_be_nearly_anywhere_is_withheld(write_sweep: Callable[..., Path]) -> None:
    """A clear fall whose beginning is not known: the seeds fall from different batch sizes on."""
    sizes, starts = [16, 32, 64, 128, 256], [16, 32, 96, 128]
    lines = np.array([broken_line(sizes, start, 0.9, 0.01) for start in starts])
    records = trials({(size, 0.01): lines[:, rank] for rank, size in enumerate(sizes)})
    sweep = load_sweep(write_sweep(records))
    found = threshold_batch(sweep)
    ends = not_none(not_none(found.threshold).interval)
    assert np.log(ends.high / ends.low) > 0.5 * np.log(256 / 16)
    assert not found.is_located
    assert threshold_sentence(sweep).startswith("No threshold batch size can be given: test accuracy falls")
    figure = threshold_figure(sweep)
    assert len(figure.axes[0].lines) == 1  # the points alone


def test_a_fall_from_the_smallest_batch_on_is_no_threshold(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(falling(16, 0.0002)))
    found = threshold_batch(sweep)
    assert not_none(found.threshold).value == 16
    assert not found.is_located
    assert threshold_sentence(sweep).startswith(
        "No threshold batch size: test accuracy falls from the smallest, 16, on"
    )
    assert len(threshold_figure(sweep).axes[0].lines) == 1  # the points alone
    figure = keskar_figure4(sweep)
    assert not [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert "No threshold batch size" in " ".join(figure.get_supxlabel().split())


def test_a_threshold_of_survivors_says_of_how_many(write_sweep: Callable[..., Path]) -> None:
    records, lost = falling(64, 0.001), {"status": "diverged", "flags": ["diverged"], "test_accuracy": 0.1}
    config: dict[str, Any] = {"batch_size": 256, "seed": 0, "split_seed": 0}
    held = [entry for entry in records if any(entry.trial[name] != value for name, value in config.items())]
    beyond = [record(row=lost, batch_size=512, seed=seed, split_seed=seed) for seed in range(5)]
    sentence = threshold_sentence(load_sweep(write_sweep([*held, record(row=lost, **config), *beyond])))
    assert "Only 4 of 5 settings and replicates completed at every batch size." in sentence
    assert sentence.endswith("No trial completed at batch 512.")
    assert "Only" not in threshold_sentence(load_sweep(write_sweep(records, "whole")))


def test_three_replicates_are_too_few_for_a_threshold(write_sweep: Callable[..., Path]) -> None:
    """Three seeds, or three of five that completed at every batch size: the others have no part in the interval."""
    three = load_sweep(write_sweep(falling(64, 0.0005, seeds=3), "three"))
    lost = {"status": "diverged", "flags": ["diverged"], "test_accuracy": 0.1}
    left = [
        entry for entry in falling(64, 0.0005) if (entry.trial["batch_size"], entry.trial["seed"] < 2) != (256, True)
    ]
    left += [record(row=lost, batch_size=256, seed=seed, split_seed=seed) for seed in (0, 1)]
    for sweep in (three, load_sweep(write_sweep(left, "left"))):
        found = threshold_batch(sweep)
        assert (found.threshold, found.slope.replicates) == (None, 3)
        assert threshold_sentence(sweep).startswith(
            "No threshold batch size is given: with fewer than 4 replicates that completed at every batch size (here "
            "3) its 95 % interval holds too rarely. Add --seeds."
        )
        assert len(threshold_figure(sweep).axes[0].lines) == 1  # the points alone
    assert threshold_sentence(sweep).endswith("Only 3 of 5 settings and replicates completed at every batch size.")


def test_noise_alone_is_no_threshold(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(falling(64, 0.02, slope=0.0)))
    assert threshold_batch(sweep).threshold is None
    assert "not significantly worse" in threshold_sentence(sweep)


def test_a_threshold_needs_four_batch_sizes_with_a_setting_in_common(write_sweep: Callable[..., Path]) -> None:
    few = load_sweep(write_sweep(trials({key: PLAIN[key] for key in list(PLAIN)[:3]}), "few"))
    with pytest.raises(UserError, match=r"^`results` must hold at least 4 batch sizes .* got 3"):
        threshold_batch(few)
    apart = {(size, rate): [0.9, 0.8] for size, rate in ((16, 0.1), (32, 0.2), (64, 0.3), (128, 0.4))}
    with pytest.raises(UserError, match="in common"):
        threshold_batch(load_sweep(write_sweep(trials(apart), "apart")))
    with pytest.raises(UserError, match="got 0"):
        threshold_batch(load_sweep(write_sweep([failed("boom")], "failed")))
