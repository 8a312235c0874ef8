"""Remedies: gains, shares, costs and flatness, worked by hand; and that nothing else counts a trial with a remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import failed, grid, record
from narrow import not_none
from scipy import stats

from analysis.charts.batch_size_curves import batch_size_curves
from analysis.charts.remedies import remedies_figure
from analysis.data.load import BOX_STRONG, comparable, load_sweep
from analysis.questions.association import associate
from analysis.questions.remedies import remedies
from analysis.reporting.answer import by_batch_size, remedy_sentence
from analysis.stats.rank_correlation import rank_correlation
from trainables.records.tables import Record
from trainables.runtime.errors import UserError

SMALL, LARGE = [0.90, 0.93, 0.91, 0.95], [0.88, 0.905, 0.89, 0.93]  # the gap: 0.02, 0.025, 0.02, 0.02
SAM = [0.891, 0.915, 0.902, 0.941]  # gains 0.011, 0.010, 0.012, 0.011


def trials(
    accuracies: list[float], sharpness: float = 1.0, row: dict[str, Any] | None = None, **config: Any
) -> list[Record]:
    return [
        record(accuracy, sharpness, row, seed=seed, split_seed=seed, **config)
        for seed, accuracy in enumerate(accuracies)
    ]


def plain() -> list[Record]:
    return trials(SMALL, 1.0, {"steps": 1000}, batch_size=16) + trials(LARGE, 4.0, {"steps": 100}, batch_size=256)


def with_sam() -> list[Record]:
    spent = {"train_seconds": 2.0, "steps": 150}
    return plain() + trials(SAM, 2.0, spent, batch_size=256, sam_radius=0.05)


def test_a_remedy_by_hand(write_sweep: Callable[..., Path]) -> None:
    (found,) = remedies(load_sweep(write_sweep(with_sam())))
    assert (found.name, found.batch_size, found.reference, found.trials) == ("sam_radius=0.05", 256, 16, 4)
    assert found.gain.value == pytest.approx(0.011)
    assert not_none(found.share).value == pytest.approx(0.011 / 0.02125)
    assert not_none(not_none(found.share).interval).holds(0.5)
    assert not_none(found.remaining).value == pytest.approx(0.02125 - 0.011)
    assert not_none(found.seconds_ratio).value == pytest.approx(2.0)
    assert not_none(found.steps_ratio).value == pytest.approx(1.5)
    assert not_none(found.box_sharpness_ratio).value == pytest.approx(0.5)
    assert not_none(found.max_eig_ratio).value == pytest.approx(0.5)
    assert found.corrected_p == not_none(found.gain.p_value) < 0.05
    assert found.helps


def test_a_switch_is_a_remedy_of_the_batch_it_goes_on_at_and_all_are_corrected(
    write_sweep: Callable[..., Path],
) -> None:
    started: dict[str, Any] = {"switch_epoch": 5, "switch_batch_size": 256}
    records = with_sam() + trials([0.89, 0.90, 0.89, 0.94], batch_size=16, **started)
    first, second = remedies(load_sweep(write_sweep(records)))
    assert (first.name, second.name) == ("sam_radius=0.05", "batch 16 for the first 5 epochs")
    assert second.gain.value == pytest.approx((0.01 - 0.005 + 0 + 0.01) / 4)
    assert first.corrected_p == pytest.approx(2 * not_none(first.gain.p_value))
    assert not second.helps
    figure = remedies_figure(load_sweep(write_sweep(records, "figure")))
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert ticks == ["batch 16 for the first 5 epochs", "sam_radius=0.05 *"]


def test_gain_gap_and_share_are_over_the_same_settings(write_sweep: Callable[..., Path]) -> None:
    # At rate 0.1, where the remedy was not tried, the gap is far larger: it has no part in the share.
    elsewhere = trials([0.95] * 4, batch_size=16, learning_rate=0.1)
    elsewhere += trials([0.70, 0.71, 0.72, 0.73], batch_size=256, learning_rate=0.1)
    (found,) = remedies(load_sweep(write_sweep(with_sam() + elsewhere)))
    (alone,) = remedies(load_sweep(write_sweep(with_sam(), "alone")))
    assert (found.gap, found.share, found.remaining) == (alone.gap, alone.share, alone.remaining)
    assert not_none(found.share).value == pytest.approx(found.gain.value / not_none(found.gap).value)
    assert not_none(found.gap).value == pytest.approx(found.gain.value + not_none(found.remaining).value)


def test_the_gap_of_a_remedy_leaves_out_settings_that_the_smallest_batch_lacks(
    write_sweep: Callable[..., Path],
) -> None:
    # At rate 0.1 the small batch has no trial: the gain there (0.2) has no part in what is divided by the gap.
    elsewhere = trials([0.70, 0.71, 0.72, 0.73], batch_size=256, learning_rate=0.1)
    elsewhere += trials([0.90, 0.91, 0.92, 0.93], batch_size=256, learning_rate=0.1, sam_radius=0.05)
    (found,) = remedies(load_sweep(write_sweep(with_sam() + elsewhere)))
    assert found.gain.value == pytest.approx(0.011)
    assert not_none(found.share).value == pytest.approx(0.011 / 0.02125)


def test_the_intervals_of_several_remedies_hold_together(write_sweep: Callable[..., Path]) -> None:
    records = with_sam() + trials([0.89, 0.90, 0.89, 0.94], batch_size=256, clip_norm=1.0)
    first, second = remedies(load_sweep(write_sweep(records)))
    (alone,) = remedies(load_sweep(write_sweep(with_sam(), "alone")))
    assert first.gain.comparisons == second.gain.comparisons == 2
    assert first.gain.standard_error == pytest.approx(alone.gain.standard_error)
    half = stats.t.ppf(1 - 0.025 / 2, 3) * alone.gain.standard_error
    assert not_none(first.gain.interval).high == pytest.approx(0.011 + half)
    wider, narrower = (not_none(not_none(one.share).interval) for one in (first, alone))
    assert wider.low < narrower.low
    assert wider.high > narrower.high
    # Holm's first step is Bonferroni's: the best helps exactly where its interval excludes 0.
    assert first.helps == (not_none(first.gain.interval).low > 0)


def test_a_gap_that_is_not_clear_has_no_share(write_sweep: Callable[..., Path]) -> None:
    records = trials(SMALL, batch_size=16) + trials([0.92, 0.91, 0.89, 0.96], batch_size=256)
    (found,) = remedies(load_sweep(write_sweep(records + trials(SAM, batch_size=256, sam_radius=0.05))))
    assert found.share is None


def test_the_sentence_names_the_best_that_is_clear(write_sweep: Callable[..., Path]) -> None:
    sentence = remedy_sentence(load_sweep(write_sweep(with_sam())))
    assert sentence.startswith(
        "The one remedy tried at batch 256 helps: sam_radius=0.05 changes test accuracy by +1.10 percentage points"
    )
    for said in ("52 % of the gap (", "2 times the training time", "0.5 times the box sharpness"):
        assert said in sentence
    useless = plain() + trials([0.9, 0.88, 0.9, 0.92], batch_size=256, clip_norm=1.0)
    sentence = remedy_sentence(load_sweep(write_sweep(useless, "useless")))
    assert "does not help significantly: clip_norm=1" in sentence
    one = [entry for entry in with_sam() if entry.trial["seed"] == 0]
    assert "1 replicate: no interval" in remedy_sentence(load_sweep(write_sweep(one, "one")))
    assert remedy_sentence(load_sweep(write_sweep(plain(), "plain"))).startswith("No remedy was tried")


def test_nothing_to_compare(write_sweep: Callable[..., Path]) -> None:
    for name, records in (("plain", plain()), ("failed", [failed("boom")])):
        sweep = load_sweep(write_sweep(records, name))
        assert remedies(sweep) == ()
        with pytest.raises(UserError, match=r"^`results` must hold completed trials with a remedy"):
            remedies_figure(sweep)


def test_headline_numbers_do_not_count_trials_with_a_remedy(write_sweep: Callable[..., Path]) -> None:
    alone = load_sweep(write_sweep(plain(), "alone"))
    both = load_sweep(write_sweep(with_sam() + trials([0.5] * 4, batch_size=16, sam_radius=0.05), "both"))
    assert [vars(row) for row in by_batch_size(both)] == [vars(row) for row in by_batch_size(alone)]
    assert associate(both, BOX_STRONG).matched == associate(alone, BOX_STRONG).matched
    drawn = [
        np.asarray(figure.axes[0].lines[0].get_ydata()).tolist() for figure in map(batch_size_curves, (alone, both))
    ]
    assert drawn[0] == drawn[1]


def test_remedies_are_pooled_only_when_asked_for(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(grid() + [entry for entry in with_sam() if entry.trial["sam_radius"]] + plain()))
    frame = comparable(sweep)
    assert associate(sweep, BOX_STRONG).matched.trials == (frame["remedy"] == "none").sum() == len(frame) - 4
    pooled = associate(sweep, BOX_STRONG, pool_remedies=True).matched
    assert pooled.trials == len(frame)
    expected = rank_correlation(
        frame["box_sharpness"], frame["large_batch_gap"], frame["replicate"], strata=frame["remedy_set"]
    )
    assert pooled.value == pytest.approx(expected.value)
