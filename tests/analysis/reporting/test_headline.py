"""The first screen in words: a verdict says what the results say, names the main fact, and waits for the evidence."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import grid, judged_by, record
from narrow import not_none
from scipy import stats
from simulations import Design, simulated

from analysis.data.load import Sweep, load_sweep
from analysis.data.progress import Progress, SizeProgress
from analysis.questions.association import beats_batch_size, compared
from analysis.questions.free_batch import free_batch
from analysis.questions.losses_by_setting import losses_by, losses_depend
from analysis.questions.remedies import remedies
from analysis.reporting.gap_answer import named_remedy
from analysis.reporting.headline import Card, cards, headline_lines, run_line, standing
from trainables.records.tables import Record

RUNS = 150


def sizes(
    losses: Mapping[tuple[int, float], float],
    seeds: Iterable[int] = range(4),
    rates: Sequence[float] = (0.003, 0.01),
    sharpness: Callable[[int, float, np.random.Generator], float] | None = None,
    spread: float = 5e-4,
) -> list[Record]:
    """A sweep in which batch B at rate r loses losses[B, r] (a fraction) to batch 16, and sharpness is as told."""
    random = np.random.default_rng(0)
    found = []
    for seed in seeds:
        for rate in rates:
            for size in (16, *sorted({size for size, _ in losses})):
                lost = 0.0 if size == 16 else losses[size, rate]
                sharp = 1.0 if sharpness is None else sharpness(size, rate, random)
                config: dict[str, Any] = {"batch_size": size, "learning_rate": rate, "seed": seed, "split_seed": seed}
                found.append(record(0.95 - 0.01 * seed - lost + random.normal(0, spread), sharp, **config))
    return found


def card(sweep: Sweep, place: int) -> Card:
    return cards(sweep)[place]


def test_a_loss_at_one_learning_rate_is_told_with_the_rate(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(sizes({(300, 0.003): 0.003, (300, 0.01): 0.017})))
    found = card(sweep, 0)
    assert found.verdict == "Batch 300 is worse, almost only at learning rate 0.01"
    by_rate = losses_by(sweep, 300)
    assert by_rate[0.01].value == pytest.approx(0.017, abs=1e-3)
    assert by_rate[0.003].value == pytest.approx(0.003, abs=1e-3)
    rates = ", ".join(f"{100 * mean.value:.2f} at {rate:g}" for rate, mean in by_rate.items())
    assert found.further == f"by learning rate: {rates}"
    assert f"By learning rate, batch 300 loses {rates}." in found.why
    lost = not_none(not_none(free_batch(sweep, "matched")).rows[-1].lost)
    ends = f"95 % CI {100 * not_none(lost.interval).low:.2f} to {100 * not_none(lost.interval).high:.2f}"
    assert found.result == f"batch 300 loses {100 * lost.value:.2f} points ({ends}, n = 4 replicates)"


@pytest.mark.parametrize("nesterov_loses", [0.02, 0.003])
def test_a_loss_that_depends_on_the_optimizer_is_told(write_sweep: Callable[..., Path], nesterov_loses: float) -> None:
    random, records = np.random.default_rng(0), []
    for seed in range(4):
        for options, lost in (("{}", 0.003), ('{"nesterov": true}', nesterov_loses)):
            for size in (16, 300):
                accuracy = 0.95 - 0.01 * seed - (lost if size == 300 else 0.0) + random.normal(0, 5e-4)
                config: dict[str, Any] = {"batch_size": size, "optimizer": "sgd", "optimizer_options": options}
                records.append(record(accuracy, seed=seed, split_seed=seed, test_size=10**6, **config))
    sweep = load_sweep(write_sweep(records))
    found = card(sweep, 0)
    told = ", ".join(f"{100 * mean.value:.2f} with {name}" for name, mean in losses_by(sweep, 300, "optimizer").items())
    assert re.fullmatch(r"0\.\d\d with sgd, \d\.\d\d with sgd nesterov=true", told)
    depends = nesterov_loses > 0.01
    assert found.further == (f"by optimizer: {told}" if depends else "")
    assert (f"By optimizer, batch 300 loses {told}." in found.why) == depends


def test_what_is_missing_is_counted(write_sweep: Callable[..., Path]) -> None:
    """At the learning rate where a trial diverged, in the result of the largest batch and in the correlation."""
    losses = {(size, rate): 0.003 if rate == 0.003 else 0.017 for size in (32, 64, 128, 300) for rate in (0.003, 0.01)}
    records = sizes(losses, sharpness=lambda size, rate, random: size * np.exp(random.normal(0, 0.2)))
    records[-1].trial["status"] = "diverged"  # batch 300, learning rate 0.01, the last seed
    sweep = load_sweep(write_sweep(records))
    large, sharp, _ = cards(sweep)
    assert large.further.endswith(" at 0.01 (3 of 4 trials)")
    assert f"By learning rate, batch 300 loses {large.further.removeprefix('by learning rate: ')}." in large.why
    assert " at 0.003, " in large.further
    assert large.result.endswith(", n = 4 replicates, 7 of 8 trials)")
    assert large.verdict.endswith("; 1 of 8 trials diverged")
    assert sharp.result.endswith(", n = 4 replicates, 39 of 40 trials)")


@pytest.mark.parametrize(
    ("lost", "verdict"),
    [
        (0.017, "Batch 300 is worse than 16; free up to 64"),
        (0.0, "Batch 300 is as good as 16, within 0.50 points"),
        (-0.01, "Batch 300 is as good as 16, within 0.50 points"),
    ],
)
def test_a_loss_at_all_learning_rates(write_sweep: Callable[..., Path], lost: float, verdict: str) -> None:
    losses = {(size, rate): lost if size == 300 else 0.0 for size in (64, 300) for rate in (0.003, 0.01)}
    assert card(load_sweep(write_sweep(sizes(losses))), 0).verdict == verdict


def test_a_smaller_batch_that_is_worse_is_named(write_sweep: Callable[..., Path]) -> None:
    """Batch 300 alone would be non-inferior, but the tests end at batch 64."""
    losses = {(size, rate): 0.017 if size == 64 else 0.0 for size in (32, 64, 300) for rate in (0.003, 0.01)}
    found = card(load_sweep(write_sweep(sizes(losses))), 0)
    assert found.verdict == "Batch 64 is worse than 16; free up to 32"
    assert found.result.startswith("batch 64 loses 1.")


def test_what_is_not_shown_is_undecided(write_sweep: Callable[..., Path]) -> None:
    losses = {(300, rate): 0.004 for rate in (0.003, 0.01)}
    found = card(load_sweep(write_sweep(sizes(losses, spread=0.01))), 0)
    assert found.verdict.startswith("Undecided: batch 300 may lose up to ")


def test_one_replicate_shows_nothing(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(sizes({(300, 0.003): 0.02, (300, 0.01): 0.02}, seeds=[0])))
    assert card(sweep, 0).verdict == "Unknown: one replicate cannot show more than chance"
    assert "no interval, n = 1 replicate)" in card(sweep, 0).result


@pytest.mark.parametrize(
    ("seeds", "settings", "sharpness", "why"),
    [
        (range(1), 1, 1.0, "one replicate cannot show more than chance"),
        (range(9), 1, 1.0, "too few batch sizes and settings to rank in each replicate"),
        (range(9), 2, 0.0, "sharpness and gap do not both vary between batch sizes"),
    ],
)
def test_an_unknown_association_says_why(
    write_sweep: Callable[..., Path], seeds: range, settings: int, sharpness: float, why: str
) -> None:
    """More seeds do not help where three batch sizes at one learning rate leave nothing to rank."""
    rates = (0.003, 0.01)[:settings]
    losses = {(size, rate): 0.001 * np.log2(size) for size in (64, 300) for rate in rates}
    records = sizes(losses, seeds, rates, lambda size, rate, random: float(size**sharpness))
    found = card(load_sweep(write_sweep(records)), 1)
    assert found.verdict == f"Unknown: {why}"
    assert f" is unknown: {why} (" in found.why[0]


@pytest.mark.parametrize(
    ("lost", "verdict", "result"),
    [
        (-0.01, "Batch 300 is better than 16", "batch 300 is 0.01006 better (95 % CI 0.00983 to 0.01029"),
        (0.01, "Batch 300 is worse than 16", "batch 300 is 0.00994 worse (95 % CI 0.00971 to 0.01017"),
        (0.0, "Undecided: batch 300 may be up to 0.000", "batch 300 is 0.000"),
    ],
)
def test_a_metric_without_a_margin_of_which_less_is_better(
    write_sweep: Callable[..., Path], lost: float, verdict: str, result: str
) -> None:
    losses = {(300, 0.003): lost, (300, 0.01): lost}
    folder = judged_by(write_sweep(sizes(losses, spread=2e-4)), "mse", "", offset=1.0, slope=-1.0)
    found = card(load_sweep(folder), 0)
    assert found.verdict.startswith(verdict)
    assert found.result.startswith(result)


def test_a_gain_has_its_own_sign(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(sizes({(300, 0.003): -0.01, (300, 0.01): -0.01})))
    lost = not_none(not_none(free_batch(sweep, "matched")).rows[-1].lost)
    ends = f"{-100 * not_none(lost.interval).high:.2f} to {-100 * not_none(lost.interval).low:.2f}"
    assert card(sweep, 0).result == f"batch 300 gains {-100 * lost.value:.2f} points (95 % CI {ends}, n = 4 replicates)"


def test_of_many_learning_rates_the_least_and_the_most_loss_are_told(write_sweep: Callable[..., Path]) -> None:
    rates = [round(0.001 * (1 + place), 3) for place in range(8)]
    found = card(load_sweep(write_sweep(sizes({(300, rate): 4 * rate for rate in rates}, rates=rates))), 0)
    low, high = (f"{4 * 100 * rate:.1f}" for rate in (rates[0], rates[-1]))
    assert re.fullmatch(rf"by learning rate: between {low}. at 0.001 and {high}. at 0.008", found.further)


STEPS = {(size, rate): 0.002 * np.log2(size / 16) for size in (32, 64, 128, 256) for rate in (0.003, 0.01)}


def test_sharpness_that_only_tells_the_batch_size_is_said_to(write_sweep: Callable[..., Path]) -> None:
    tells = sizes(STEPS, sharpness=lambda size, rate, random: size * np.exp(random.normal(0, 0.2)))
    found = card(load_sweep(write_sweep(tells)), 1)
    assert found.verdict == "Sharper minima have larger gaps, but batch size alone predicts as well"
    assert found.further.startswith("of batch size alone +")
    assert any(sentence.startswith("Sharpness exceeds it by ") for sentence in found.why)


def test_sharpness_that_tells_more_than_the_batch_size_is_said_to(write_sweep: Callable[..., Path]) -> None:
    records = sizes(STEPS, seeds=range(6), spread=6e-3)
    for entry in records:  # sharpness knows the luck too
        entry.trial["box_sharpness"] = float(
            np.exp(300 * (1 - 0.01 * entry.trial["seed"] - entry.trial["test_accuracy"]))
        )
    found = card(load_sweep(write_sweep(records)), 1)
    assert found.verdict == "Sharper minima have larger gaps, and sharpness predicts better than batch size alone"


@pytest.mark.parametrize(
    ("known", "verdict"),
    [
        (1.0, "Not shown; batch size alone predicts as well"),
        (0.0, "Not shown; batch size alone predicts better"),
    ],
)
def test_sharpness_that_is_not_shown_is_compared_with_batch_size(
    write_sweep: Callable[..., Path], known: float, verdict: str
) -> None:
    """The gap follows the batch size in the one sweep as loosely as sharpness, in the other closely."""
    losses = STEPS if known == 0 else dict.fromkeys(STEPS, 0.0)
    found = sizes(losses, sharpness=lambda size, rate, random: size**known * np.exp(random.normal(0, 1 - known)))
    assert card(load_sweep(write_sweep(found)), 1).verdict == verdict


def test_what_helps(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(grid()))
    found = card(sweep, 2)
    best = named_remedy(remedies(sweep))
    assert best.helps
    back = f"{100 * not_none(best.share).value:.0f} %"
    assert found.verdict == f"Batch {best.name.removeprefix('batch ')} helps, wins back {back} of the gap"
    assert found.result.startswith(f"at batch 512: +{100 * best.gain.value:.2f} points (95 % CI ")
    nothing = load_sweep(write_sweep(grid(switch_epochs=[None]), "plain"))
    assert card(nothing, 2).verdict == "Nothing was tried"


def test_an_option_that_helps_is_written_as_it_is_given(write_sweep: Callable[..., Path]) -> None:
    records = sizes({(512, 0.01): 0.02}, rates=(0.01,))
    fields: dict[str, Any] = {"batch_size": 512, "learning_rate": 0.01, "label_smoothing": 0.1}
    records += [record(0.945 - 0.01 * seed, seed=seed, split_seed=seed, **fields) for seed in range(4)]
    assert card(load_sweep(write_sweep(records)), 2).verdict.startswith("label_smoothing=0.1 helps, wins back ")


def test_the_run_in_one_line(write_sweep: Callable[..., Path]) -> None:
    assert run_line(load_sweep(write_sweep(grid()))) == (
        "digits (512 training examples) · mlp · adam · to training loss 0.001 · batch size 16, 64, 512 · "
        "learning rate 0.003, 0.01 · switch 5, none · 3 seeds · 30 trials · cpu · 2026-01-01"
    )


def test_the_run_line_says_how_long_trials_are(write_sweep: Callable[..., Path]) -> None:
    lengths = [(5, None), (2, None), (None, "100steps"), (None, "90steps")]
    records = [
        record(epochs=epochs, budget=budget, seed=seed, target_loss=None)
        for epochs, budget in lengths
        for seed in (0, 1)
    ]
    assert " · 2, 5 epochs or 90, 100 steps · 2 seeds · " in run_line(load_sweep(write_sweep(records)))
    only = [record(epochs=None, budget="700examples", target_loss=None)]
    assert " · 700 examples · 1 seed · " in run_line(load_sweep(write_sweep(only, "only")))
    ends_earlier = [record(epochs=9, target_loss=None, target_metric=0.9)]
    assert " · up to 9 epochs · 1 seed · " in run_line(load_sweep(write_sweep(ends_earlier, "target")))


def test_the_run_line_cuts_long_values(write_sweep: Callable[..., Path]) -> None:
    options = json.dumps({"layers": list(range(50))})
    records = [*grid(switch_epochs=(None,)), record(batch_size=128, model_options=options)]
    run = run_line(load_sweep(write_sweep(records)))
    assert f" · model options {options[:39]}…, {{}} · " in run


def test_large_whole_numbers_are_told_in_full(write_sweep: Callable[..., Path]) -> None:
    records = [record(batch_size=size, train_size=1_234_567, measure_examples=100) for size in (16, 1_048_576)]
    run = run_line(load_sweep(write_sweep(records)))
    assert run.startswith("digits (1234567 training examples) · mlp")
    assert " · batch size 16, 1048576 · 1 seed · 2 trials · " in run
    assert " · 1 seed · 1 trial · " in run_line(load_sweep(write_sweep(records[:1], "one")))


def test_a_part_of_the_run_that_is_longer_than_a_line_is_broken_between_words(write_sweep: Callable[..., Path]) -> None:
    options = [json.dumps({"layers": list(range(start, start + 50))}) for start in (10, 20, 30)]
    sweep = load_sweep(write_sweep([record(batch_size=128, model_options=option) for option in options]))
    told = " ".join(line.strip() for line in headline_lines(sweep, None, 80))
    assert ' · model options {"layers": [10, 11, 12, ' in told


def default_like() -> list[Record]:
    """As the default sweep: five batch sizes, two learning rates, two warmups, two switches, four seeds."""
    losses = {
        (size, rate): 0.017 * (size / 300) * (rate / 0.01) for size in (32, 64, 128, 300) for rate in (0.003, 0.01)
    }
    records = []
    for warmup in (0.0, 5.0):
        for switch in (None, 5):
            for found in sizes(losses, spread=2e-3):
                row = found.trial
                config = {
                    name: row[name] for name in ("batch_size", "learning_rate", "seed", "split_seed", "train_size")
                }
                if switch is not None and row["batch_size"] == 300:
                    continue
                more: dict[str, Any] = {} if switch is None else {"switch_epoch": switch, "switch_batch_size": 300}
                accuracy = row["test_accuracy"] - (0.004 if switch is not None else 0)
                records.append(record(accuracy, row["batch_size"] / 16, warmup_epochs=warmup, **config, **more))
    return records


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_at_most_eight_lines(write_sweep: Callable[..., Path], width: int) -> None:
    sweep = load_sweep(write_sweep(default_like()))
    lines = headline_lines(sweep, None, width)
    assert max(map(len, lines)) <= width
    assert lines[-1].strip().endswith("replicates)")
    assert lines[0].startswith("digits (512 training examples) · mlp")
    assert " · 2026-01-01" in " ".join(lines)
    if width >= 80:
        assert len(lines) <= 8
        assert "batch size 16 to 300 · " in " ".join(lines)
    progress = progress_of(29, 30, {16: (15, 15), 300: (5, 5)})
    assert len(headline_lines(sweep, progress, 120)) == 8


def test_a_question_without_a_result_takes_one_line(write_sweep: Callable[..., Path]) -> None:
    lines = headline_lines(load_sweep(write_sweep(sizes(STEPS))), None, 80)
    assert lines[-1] == "What helps? Nothing was tried"
    assert "no result" not in " ".join(lines)


def progress_of(ended: int, planned: int, by_size: Mapping[int, tuple[int, int]]) -> Progress:
    found = tuple(SizeProgress(size, of, done, 1.0) for size, (done, of) in by_size.items())
    return Progress(planned, {"completed": ended, "diverged": 0, "failed": 0}, True, None, None, None, found)


def test_no_verdict_before_enough_is_paired(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(grid()))
    early = progress_of(20, 40, {16: (10, 10), 64: (8, 10), 512: (2, 20)})  # too few at the largest batch
    badge, shown = standing(sweep, early)
    assert badge == "20 of 40 trials. No verdict yet: too few trials can be paired with the smallest batch."
    assert shown == []
    assert headline_lines(sweep, early, 300)[1:] == [f"PRELIMINARY: {badge}"]
    beyond = progress_of(30, 40, {16: (10, 10), 64: (10, 10), 512: (10, 10), 1024: (0, 10)})
    assert standing(sweep, beyond)[1] == []
    late = progress_of(30, 40, {16: (10, 10), 64: (10, 10), 512: (10, 20)})
    badge, shown = standing(sweep, late)
    assert badge == "30 of 40 trials. Verdicts and intervals may change until all have ended."
    assert shown == cards(sweep)
    one = load_sweep(write_sweep(grid(seeds=[0]), "one"))
    assert standing(one, progress_of(10, 12, {16: (5, 5), 64: (3, 4), 512: (2, 3)}))[1] == []
    assert standing(one, progress_of(10, 10, {16: (5, 5), 64: (3, 3), 512: (2, 2)})) == (None, cards(one))


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(0.003, 0.01), (0.001, 0.003, 0.01)])
def test_dependence_on_the_learning_rate_is_rarely_claimed_where_there_is_none(rates: tuple[float, ...]) -> None:
    """P(X > k) < 0.1 % for a true rate of 5 %: a rule without correction for three rates would exceed it."""
    design = Design(name="", learning_rates=rates, warmups=(0.0,), switches=(None,), gap=0.01, luck=0.002)
    random = np.random.default_rng(5)
    claims = sum(losses_depend(simulated(design, random), 300) for _ in range(RUNS))
    assert claims <= stats.binom.ppf(0.999, RUNS, 0.05)


@pytest.mark.slow
def test_dependence_on_the_learning_rate_is_found_where_there_is_one() -> None:
    design = Design(name="", warmups=(0.0, 5.0), switches=(None,), gap=0.003, interaction=0.014)
    random = np.random.default_rng(6)
    claims = sum(losses_depend(simulated(design, random), 300) for _ in range(40))
    assert claims >= 36  # of noise 0.0037 sqrt(2 + 2) / sqrt(2 x 4) the difference of 0.014 is five standard errors


@pytest.mark.slow
def test_sharpness_is_rarely_called_better_than_batch_size_where_it_is_not() -> None:
    """Sharpness is the batch size and noise here, so that it cannot predict better."""
    design = dataclasses.replace(Design(name=""), gap=0.01, luck=0.002, switches=(None,))
    random = np.random.default_rng(7)
    claims = 0
    for _ in range(60):
        found = beats_batch_size(compared(simulated(design, random)), "box_sharpness")
        claims += found.interval is not None and found.interval.low > 0
    assert claims <= stats.binom.ppf(0.999, 60, 0.025)
