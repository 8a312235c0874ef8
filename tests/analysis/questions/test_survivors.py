"""Trials that diverged, failed or missed their target must not be passed over in silence: made-up sweeps, by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import failed, record
from narrow import not_none

from analysis.data.load import Sweep, load_sweep
from analysis.questions.free_batch import free_batch
from analysis.questions.remedies import never_completed, remedies
from analysis.reporting.answer import by_batch_size, cost_sentence, remedy_sentence
from analysis.reporting.headline import cards
from analysis.reporting.summary import summary_lines, with_interval
from analysis.reporting.tables import batch_size_rows, free_batch_rows, remedy_rows
from trainables.records.tables import Record

RATES, SIZES, SEEDS = (0.003, 0.01), (16, 64, 512), range(4)


def trial(size: int, rate: float, seed: int, lost: float = 0.0, **columns: Any) -> Record:
    noise = np.random.default_rng([size, seed, round(1e4 * rate), len(columns)]).integers(-1, 2)
    return record(
        accuracy=(1425 - 15 * seed + noise) / 1500 - lost,
        batch_size=size,
        learning_rate=rate,
        seed=seed,
        split_seed=seed,
        test_size=1500,
        **columns,
    )


def diverged(size: int, rate: float, seed: int, **columns: Any) -> Record:
    row = {"status": "diverged", "test_accuracy": 0.1, "flags": ["diverged"]}
    return trial(size, rate, seed, row=row, **columns)


Make = Callable[[int, float, int], Record]


def sweep_of(write_sweep: Callable[..., Path], make: Make) -> Sweep:
    return load_sweep(write_sweep([make(size, rate, seed) for size in SIZES for rate in RATES for seed in SEEDS]))


def test_a_batch_that_diverged_at_one_of_two_rates_is_not_free(write_sweep: Callable[..., Path]) -> None:
    sweep = sweep_of(write_sweep, lambda b, lr, s: (diverged if (b, lr) == (512, 0.01) else trial)(b, lr, s))
    found = not_none(free_batch(sweep))
    assert found.largest_noninferior_batch == 64
    last = found.rows[-1]
    assert (last.free, last.compared, last.attempted, last.diverged) == (False, 4, 8, 4)
    assert not_none(last.upper) < not_none(found.margin)  # what the survivors alone would say
    sentence = cost_sentence(sweep)
    assert sentence.startswith("Up to batch 64 test accuracy is non-inferior")
    assert "Batch 512 diverged in 4 of 8 trials where batch 16 completed, so it is not free." in sentence
    assert "in the 4 of 8 trials that can be compared" in sentence
    assert "are non-inferior at settings where they do not diverge" in sentence  # tuned
    assert [row.trials for row in by_batch_size(sweep)] == [8, 8, 4]
    assert "4 of 8" in "\n".join(summary_lines(sweep))
    assert batch_size_rows(sweep)[-1][1][0] == "512 (4 of 8 trials, 4 diverged)"
    matched = [cells for size, cells in free_batch_rows(sweep) if size == 512 and cells[0] == "matched"]
    assert (matched[0][2], matched[0][-1]) == ("4 of 8", "no: 4 of 8 diverged")
    card = cards(sweep)[0]
    assert card.verdict == "Batch 512 diverged in 4 of 8 trials; free up to 64"
    assert card.result.endswith(", n = 4 replicates, 4 of 8 trials)")


def test_a_batch_that_diverged_in_some_replicates_is_not_free_even_when_tuned(write_sweep: Callable[..., Path]) -> None:
    sweep = sweep_of(write_sweep, lambda b, lr, s: (diverged if b == 512 and s > 1 else trial)(b, lr, s))
    for comparison, attempted, lost in (("matched", 8, 4), ("tuned", 4, 2)):
        last = not_none(free_batch(sweep, comparison)).rows[-1]
        assert (last.free, last.attempted, last.diverged) == (False, attempted, lost)
    assert "in 2 of 4 replicates" in cost_sentence(sweep)
    assert "as batch 512 diverged in 2 of 4 replicates" in cost_sentence(sweep)


def test_a_middle_batch_that_never_completed_ends_the_sequence(write_sweep: Callable[..., Path]) -> None:
    sweep = sweep_of(write_sweep, lambda b, lr, s: (diverged if b == 64 else trial)(b, lr, s))
    found = not_none(free_batch(sweep))
    assert found.largest_noninferior_batch == 16
    assert found.rows[0].lost is None
    sentence = cost_sentence(sweep)
    assert sentence.startswith("No batch size above 16 is shown to be non-inferior")
    assert "Batch 64 diverged in 8 of 8 trials where batch 16 completed" in sentence
    assert [cards(sweep)[0].verdict, cards(sweep)[0].result] == ["Batch 64 diverged", "8 of 8 trials"]
    assert [row.trials for row in by_batch_size(sweep)] == [8, 0, 8]


def test_what_diverged_with_the_reference_is_no_loss(write_sweep: Callable[..., Path]) -> None:
    sweep = sweep_of(write_sweep, lambda b, lr, s: (diverged if lr == 0.01 else trial)(b, lr, s))
    assert not_none(free_batch(sweep)).largest_noninferior_batch == 512
    assert [row.diverged for row in not_none(free_batch(sweep)).rows] == [0, 0]


def test_a_reference_that_diverged_is_told(write_sweep: Callable[..., Path]) -> None:
    sweep = sweep_of(write_sweep, lambda b, lr, s: (diverged if (b, lr) == (16, 0.01) else trial)(b, lr, s))
    sentence = cost_sentence(sweep)
    assert "Batch 16 diverged in 4 of 8 trials." in sentence
    assert sentence.startswith("Up to batch 512, the largest tried,")
    assert "in the 4 of 8 trials that can be compared" in sentence


def test_a_largest_batch_that_never_completed_is_told(write_sweep: Callable[..., Path]) -> None:
    sweep = sweep_of(write_sweep, lambda b, lr, s: (diverged if b > 16 else trial)(b, lr, s))
    assert free_batch(sweep) is None
    assert cost_sentence(sweep).endswith("Batch 64 diverged in 8 of 8 trials. Batch 512 diverged in 8 of 8 trials.")
    assert "0 of 8" in "\n".join(summary_lines(sweep))


def test_failed_trials_are_counted_but_are_no_divergence(write_sweep: Callable[..., Path]) -> None:
    def make(size: int, rate: float, seed: int) -> Record:
        lost = size == 512 and seed == 3
        config = {"batch_size": size, "learning_rate": rate, "seed": seed, "split_seed": seed, "test_size": 1500}
        return failed("boom", **config) if lost else trial(size, rate, seed)

    sweep = sweep_of(write_sweep, make)
    assert not_none(free_batch(sweep)).largest_noninferior_batch == 512
    assert "Trials failed, so only some completed: 6 of 8 at batch 512." in cost_sentence(sweep)
    assert cards(sweep)[0].result.endswith(", n = 3 replicates, 6 of 8 trials)")


@pytest.mark.parametrize("size", [16, 64, 512])
def test_every_batch_off_target_is_named(write_sweep: Callable[..., Path], size: int) -> None:
    flags: dict[str, Any] = {"row": {"flags": ["missed target loss"]}}
    sweep = sweep_of(write_sweep, lambda b, lr, s: trial(b, lr, s, **(flags if b == size and s else {})))
    assert f"Off target, so not compared at equal training loss: 6 of 8 trials at batch {size}." in cost_sentence(sweep)


def test_a_sweep_off_target_is_told_in_short(write_sweep: Callable[..., Path]) -> None:
    flags: dict[str, Any] = {"row": {"flags": ["missed target loss"]}}
    sweep = sweep_of(write_sweep, lambda b, lr, s: trial(b, lr, s, **flags))
    assert "Off target, so not compared at equal training loss: all 24 trials." in cost_sentence(sweep)


def with_remedy(write_sweep: Callable[..., Path], make: Make) -> Sweep:
    plain = [trial(size, rate, seed, 0.01 * (size > 16)) for size in (16, 512) for rate in RATES for seed in SEEDS]
    return load_sweep(write_sweep([*plain, *(make(512, rate, seed) for rate in RATES for seed in SEEDS)]))


def test_a_remedy_that_diverged_at_one_rate_says_so(write_sweep: Callable[..., Path]) -> None:
    sweep = with_remedy(write_sweep, lambda b, lr, s: (diverged if lr == 0.01 else trial)(b, lr, s, sam_radius=0.05))
    (found,) = remedies(sweep)
    assert found.helps
    assert (found.trials, found.attempted, found.diverged) == (4, 8, 4)
    sentence = remedy_sentence(sweep)
    assert "percentage points in 4 of 8 trials (95 % CI" in sentence
    assert sentence.endswith("It diverged in 4 of 8 trials where plain training did not.")
    assert remedy_rows(sweep)[0][0][1] == "512 (4 of 8 trials, 4 diverged)"
    card = cards(sweep)[2]
    assert card.verdict.endswith(" of the gap; 4 of 8 trials diverged")
    assert card.result.endswith(", n = 4 replicates, 4 of 8 trials)")


def test_a_remedy_where_plain_training_diverged_is_compared_where_both_completed(
    write_sweep: Callable[..., Path],
) -> None:
    plain = [trial(16, rate, seed) for rate in RATES for seed in SEEDS]
    plain += [(diverged if rate == 0.01 else trial)(512, rate, seed, lost=0.01) for rate in RATES for seed in SEEDS]
    helped = [trial(512, rate, seed, sam_radius=0.05) for rate in RATES for seed in SEEDS]
    sweep = load_sweep(write_sweep(plain + helped))
    (found,) = remedies(sweep)
    assert (found.trials, found.attempted, found.gain.trials) == (8, 8, 4)
    assert "percentage points in 4 of 8 trials" in remedy_sentence(sweep)


def test_a_winning_remedy_off_target_says_so(write_sweep: Callable[..., Path]) -> None:
    flags = {"flags": ["missed target loss"]}
    sweep = with_remedy(write_sweep, lambda b, lr, s: trial(b, lr, s, label_smoothing=0.1, row=flags))
    assert remedy_sentence(sweep).endswith("8 of its 8 trials are off target: not at equal training loss.")
    assert cards(sweep)[2].verdict.endswith(" of the gap; 8 of 8 trials off target")


def test_a_remedy_that_never_completed_is_named(write_sweep: Callable[..., Path]) -> None:
    sweep = with_remedy(write_sweep, lambda b, lr, s: diverged(b, lr, s, sam_radius=0.05))
    assert never_completed(sweep) == ["sam_radius=0.05 at batch 512"]
    assert remedy_sentence(sweep) == "No trial completed with sam_radius=0.05 at batch 512."


def test_best_learning_rates_at_an_end_of_the_grid_are_told(write_sweep: Callable[..., Path]) -> None:
    rates = (0.001, 0.003, 0.01, 0.03)
    best = {16: 0.003, 64: 0.01, 512: 0.03}
    one = {(64, 0.001, SEEDS[0])}  # so good that every other replicate chooses 0.001
    records = [
        trial(b, lr, s, 0.02 * (lr != best[b]) - 0.1 * ((b, lr, s) in one))
        for b in SIZES for lr in rates for s in SEEDS
    ]  # fmt: skip
    sweep = load_sweep(write_sweep(records))
    n = len(SEEDS)
    assert not_none(free_batch(sweep, "tuned")).edges == ((64, n - 1, n), (512, n, n))
    told = f"which a better one may lie, for batch 64 ({n - 1} of {n} replicates), 512 ({n} of {n} replicates)."
    assert f"The best learning rate is at an end of the grid, beyond {told}" in cost_sentence(sweep)


def test_ties_are_evidence(write_sweep: Callable[..., Path]) -> None:
    records = [
        record(0.9 - 0.01 * (b == 512) - 0.01 * s, batch_size=b, seed=s, split_seed=s, test_size=100)
        for b in SIZES
        for s in range(6)
    ]
    sentence = cost_sentence(load_sweep(write_sweep(records)))
    assert "batch 512 loses 1.00 percentage points (95 % CI 0.48 to 1.52, 6 replicates: significant)" in sentence


def test_intervals_speak_of_new_seeds_where_splits_are_shared(write_sweep: Callable[..., Path]) -> None:
    records = [record(0.9 + s / 1000, batch_size=b, seed=s, split_seed=s % 2) for b in (16, 64) for s in range(4)]
    assert "for new random seeds on these 2 data splits of digits" in cost_sentence(load_sweep(write_sweep(records)))


def test_a_sharpness_that_is_out_of_range_prints_no_nonsense(write_sweep: Callable[..., Path]) -> None:
    records = [
        record(0.9, 1e300 if (b, s) == (16, 0) else float(b + s), batch_size=b, seed=s, split_seed=s)
        for b in (16, 64)
        for s in range(4)
    ]
    small, large = by_batch_size(load_sweep(write_sweep(records)))
    assert with_interval(small.box_sharpness).endswith("[over 6 decades]")
    interval = not_none(not_none(small.box_sharpness).interval)
    assert np.isfinite([interval.low, interval.high]).all()
    assert "decades" not in with_interval(large.box_sharpness)
