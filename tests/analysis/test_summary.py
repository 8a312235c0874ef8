"""The answer in words: it never says more than the evidence, and it fits 80 columns."""

import dataclasses

import numpy as np
import pytest
from made_up import failed, grid, record

from analysis.answer import association_sentence, by_batch_size, gap_sentence, switch_sentence
from analysis.load import load_sweep
from analysis.summary import summary_lines


def changed(records, **columns):
    """The records with columns replaced by functions of the trial."""
    return [
        dataclasses.replace(entry, trial={**entry.trial, **{name: f(entry.trial) for name, f in columns.items()}})
        for entry in records
    ]


def test_table_by_batch_size(write_sweep):
    rows = by_batch_size(load_sweep(write_sweep(grid())))
    assert [row.batch_size for row in rows] == [16, 64, 512]
    assert [row.is_reference for row in rows] == [True, False, False]
    # Five doublings at 0.2 points each; splits differ by a point, which pairing removes.
    assert rows[2].gap.value == pytest.approx(0.01, abs=2e-3)
    assert not rows[2].gap.interval.holds(0)
    assert rows[2].accuracy.interval.high - rows[2].accuracy.interval.low > 0.02
    assert rows[2].box_sharpness.value / rows[0].box_sharpness.value == pytest.approx(np.exp(5), rel=0.2)


def test_a_clear_gap_is_told(write_sweep):
    sentence = gap_sentence(load_sweep(write_sweep(grid())))
    assert sentence.startswith("Batch 512 generalizes worse than batch 16")
    assert "3 replicates" in sentence


def test_no_gap_is_not_told_as_one(write_sweep):
    random = np.random.default_rng(1)
    records = changed(grid(), test_accuracy=lambda trial: 0.9 + random.normal(0, 0.01))
    assert gap_sentence(load_sweep(write_sweep(records))).startswith("The data do not show a large-batch gap")


def test_a_reversed_gap_is_told(write_sweep):
    records = changed(grid(), test_accuracy=lambda trial: 1.8 - trial["test_accuracy"])
    assert "generalizes better" in gap_sentence(load_sweep(write_sweep(records)))


def test_one_replicate_gives_no_interval_and_says_so(write_sweep):
    sweep = load_sweep(write_sweep(grid(seeds=[0])))
    assert "1 replicate: no interval" in gap_sentence(sweep)
    assert "no interval" in switch_sentence(sweep)
    assert any("no intervals" in line for line in summary_lines(sweep))


def many(**columns):
    return changed(grid(batch_sizes=[16, 32, 64, 128, 256, 512], switch_epochs=[None]), **columns)


def test_an_association_is_called_one(write_sweep):
    sentence = association_sentence(load_sweep(write_sweep(many())))
    assert "sharper minima go with a larger gap" in sentence
    assert "an association, not a cause" in sentence


def test_the_reverse_is_told_too(write_sweep):
    sentence = association_sentence(load_sweep(write_sweep(many(box_sharpness=lambda t: 1 / t["box_sharpness"]))))
    assert "a smaller gap" in sentence


def test_nothing_is_claimed_when_the_interval_holds_zero(write_sweep):
    random = np.random.default_rng(2)
    sentence = association_sentence(load_sweep(write_sweep(many(box_sharpness=lambda trial: random.uniform()))))
    assert sentence.startswith("The data do not show")
    assert "holds zero" in sentence
    for claim in ("explain", "track", "cause", "go with a"):
        assert claim not in sentence


def test_too_few_trials_claim_nothing(write_sweep):
    sweep = load_sweep(write_sweep([record(0.9, 1.0, batch_size=16), record(0.8, 2.0, batch_size=64)]))
    assert association_sentence(sweep).startswith("There are too few trials")


def test_switch_gain_is_paired(write_sweep):
    sentence = switch_sentence(load_sweep(write_sweep(grid())))
    start = "Going on at batch 512 after 5 epochs at batch 16 changes test accuracy by +0"
    assert sentence.startswith(start)  # one and a half doublings at 0.2 points each, but for noise
    assert 0.2 < float(sentence.removeprefix(start).split()[0]) < 0.4
    assert switch_sentence(load_sweep(write_sweep(grid(switch_epochs=[None]), "none"))) is None


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_lines_fit_80_columns_and_count_everything(write_sweep, scale):
    records = [*grid(seeds=range(12)), failed("boom", seed=99)]
    records = changed(records, box_sharpness=lambda t: scale * t.get("box_sharpness", 1.0))
    records[0].trial["flags"] = ["missed target loss", "paper method far below strong"]
    lines = summary_lines(load_sweep(write_sweep(records)))
    path = next(place for place, line in enumerate(lines) if line.startswith("In "))
    assert max(len(line) for place, line in enumerate(lines) if place != path) <= 80
    text = "\n".join(lines)
    assert "120 completed, 0 diverged, 1 failed" in text
    assert "missed target loss 1; paper method far below strong 1" in text
    assert "off target too" in text
    assert "trials.parquet, epochs.parquet, measures.parquet" in text


def test_all_failed(write_sweep):
    text = "\n".join(summary_lines(load_sweep(write_sweep([failed("boom"), failed("bang", seed=1)]))))
    assert "0 completed, 0 diverged, 2 failed" in text
    assert "No trial without a switch has completed" in text
