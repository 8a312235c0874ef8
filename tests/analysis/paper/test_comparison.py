"""One kind of trial against another on made-up sweeps, whose gaps and ratios are chosen, so the answers are known."""

import csv
import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up import record
from narrow import not_none

from analysis.data.load import comparable, load_sweep
from analysis.data.metric import ACCURACY
from analysis.paper.comparison import compare, described, gap_and_ratio, points, small_and_large, write_table
from analysis.paper.evolution import along, at_losses, distance_ratio, evolution
from analysis.paper.evolution import report as evolution_report
from analysis.paper.optimization_issue import by_optimizer
from analysis.paper.optimization_issue import report as optimization_report
from analysis.paper.paper_remedies import against_small
from analysis.paper.paper_remedies import report as remedies_report
from analysis.paper.resilience import report as resilience_report
from analysis.paper.resilience import resilience, variant_names
from analysis.paper.warm_start import report as warm_start_report
from analysis.paper.warm_start import warm_starts
from analysis.resilience import main as resilience_main
from analysis.stats.means import Interval, Mean
from trainables.records.tables import Record
from trainables.runtime.errors import UserError

SEEDS = range(4)
LUCK = (0.004, -0.001, 0.002, -0.005)  # of a replicate: shared by all of its trials, so it cancels
NOISE = (0.001, -0.001, 0.0005, -0.0005)  # of a large-batch trial: sums to 0


def trials(seed_accuracy: float = 0.95, sharpness: float = 1.0, noise: float = 0.0, **config: Any) -> list[Record]:
    """A trial for each seed, with its seed's luck."""
    return [
        record(seed_accuracy + LUCK[seed] + noise * NOISE[seed], sharpness, seed=seed, split_seed=seed, **config)
        for seed in SEEDS
    ]


def small_large(gap: float = 0.01, ratio: float = 10.0, **config: Any) -> list[Record]:
    return [*trials(batch_size=16, **config), *trials(0.95 - gap, ratio, noise=1.0, batch_size=512, **config)]


def test_the_reference_is_not_compared_with_itself(write_sweep: Callable[..., Path]) -> None:
    """Its gap is 0 by definition; an interval around 0 would be that of the test set's resolution."""
    sweep = load_sweep(write_sweep(small_large()))
    small, _ = small_and_large(comparable(sweep), sweep)
    found = compare("small", small, small, ACCURACY)
    assert (found.gap, found.ratio) == (None, None)
    assert described(found)[3] == "reference"


def test_gap_and_ratio_are_paired(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(small_large()))
    small, large = small_and_large(comparable(sweep), sweep)
    found = compare("large", large, small, ACCURACY)
    assert (found.batch_size, found.trials, found.off_target) == (512, 4, 0)
    gap = not_none(found.gap)
    interval = not_none(gap.interval)
    assert gap.value == pytest.approx(0.01)
    half = 3.18244630528 * math.sqrt(sum(noise**2 for noise in NOISE) / 3) / 2  # t(0.975, 3); the luck is not in it
    assert (interval.low, interval.high) == pytest.approx((0.01 - half, 0.01 + half))
    assert not_none(found.ratio).value == pytest.approx(10)
    assert found.worse is True
    assert found.sharper is None  # all replicates agree exactly: no interval
    other = compare("small", small, large, ACCURACY)
    assert other.worse is False
    assert not_none(other.ratio).value == pytest.approx(0.1)
    assert compare("same", large, large, ACCURACY).worse is None


def test_one_batch_size_is_not_enough(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(trials(batch_size=16)))
    with pytest.raises(UserError, match=r"a small and at a large batch, .* got batch sizes 16 in"):
        small_and_large(comparable(sweep), sweep)


def test_texts_and_files(tmp_path: Path) -> None:
    mean = Mean(0.0096, Interval(-0.005, 0.0143), 4, 4)
    assert points(ACCURACY, mean) == "+0.96 [−0.50, +1.43]"
    assert points(ACCURACY, None) == "–"
    write_table(tmp_path, "name", ["name", "gap"], [["a", mean], ["b", None], ["c", Mean(1.0, None, 1, 1)]])
    assert list(csv.reader((tmp_path / "figures" / "name.csv").open())) == [
        ["name", "gap", "gap_low", "gap_high"],
        ["a", "0.0096", "-0.005", "0.0143"],
        ["b", "", "", ""],
        ["c", "1.0", "", ""],
    ]


def test_figure_marks_what_is_off_target(write_sweep: Callable[..., Path]) -> None:
    records = small_large()
    records[-1].trial["flags"] = ["missed target loss"]
    sweep = load_sweep(write_sweep(records))
    small, large = small_and_large(comparable(sweep), sweep)
    figure = gap_and_ratio([compare("large", large, small, ACCURACY)], "the small batch")
    gaps, ratios = figure.axes
    (dot,) = [line for line in gaps.lines if line.get_marker() == "o"]
    assert dot.get_xdata() == pytest.approx([1.0])  # percentage points
    assert dot.get_markerfacecolor() == "white"
    assert ratios.get_xscale() == "log"
    assert "Hollow" in figure.get_supxlabel()


def test_variants_are_named_by_what_is_uncommon() -> None:
    widths = {"widths": [128, 128]}
    variants: list[dict[str, Any]] = [
        {"optimizer": "adam", **widths},
        {"optimizer": "adam", **widths, "activation": "tanh"},
        {"optimizer": "adam", **widths, "batch_norm": True},
        {"optimizer": "adam", "widths": [32]},
        {"optimizer": "sgd", **widths},
    ]
    assert variant_names(variants) == ["base", "activation tanh", "batch_norm on", "widths 32", "optimizer sgd"]


def test_resilience(write_sweep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    options = [f'{{"activation": "{name}"}}' for name in ("relu", "tanh", "gelu")]
    records = [
        *small_large(model_options="{}"),
        *small_large(gap=0.0, model_options=options[1]),
        *small_large(gap=-0.02, model_options=options[2]),
        *small_large(gap=0.03, optimizer="sgd", learning_rate=0.1),
        *trials(optimizer="adagrad", batch_size=16),  # its large batch diverged: nothing to compare
    ]
    folder = write_sweep(records)
    found = {row.name: row for row in resilience(load_sweep(folder))}
    assert {name: row.worse for name, row in found.items()} == {
        "base": True,
        "activation tanh": None,
        "activation gelu": False,
        "optimizer sgd": True,
    }
    assert not_none(found["optimizer sgd"].gap).value == pytest.approx(0.03)  # against its own small batch
    lines = resilience_report(folder)
    assert not any("only pairs that both completed" in line for line in lines)
    lost = dataclasses.replace(records[-1], trial=records[-1].trial | {"status": "diverged"})
    text = " ".join(resilience_report(write_sweep([*records[:-1], lost], "lost")))
    ended = len(records)
    assert f"{ended - 1} of {ended} trials completed (1 diverged); only pairs that both completed" in text
    assert any(
        "significantly worse in 2 of 4 variants, significantly the other way round in 1" in line for line in lines
    )
    assert {file.name for file in (folder / "figures").iterdir()} == {
        f"resilience.{kind}" for kind in ("csv", "png", "svg", "pdf")
    }
    assert resilience_main([str(write_sweep(trials(batch_size=16), "one batch"))]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_not_an_optimization_issue(write_sweep: Callable[..., Path]) -> None:
    folder = write_sweep(
        [
            *small_large(),
            *trials(0.93, 20.0, noise=1.0, batch_size=512, optimizer="lbfgs", learning_rate=1.0),
            *trials(0.95, 20.0, noise=1.0, batch_size=512, optimizer="gradient_descent", learning_rate=1.0),
        ]
    )
    first, *others = by_optimizer(load_sweep(folder))
    assert (first.name, first.batch_size, first.is_reference) == ("Adam", 16, True)
    assert {row.name: round(not_none(row.gap).value, 9) for row in others} == {
        "Adam": 0.01,
        "L-BFGS": 0.02,
        "gradient descent": 0,
    }
    text = " ".join(optimization_report(folder))
    assert (
        "Full-batch L-BFGS ends at the target in 4 of 4 trials and tests significantly worse than Adam at batch 16"
        in text
    )
    assert (
        "gradient descent ends at the target in 4 of 4 trials and does not significantly differ in test accuracy"
        in text
    )
    with pytest.raises(UserError, match="trials of gradient_descent or lbfgs"):
        by_optimizer(load_sweep(write_sweep(small_large(), "no full batch")))


def test_paper_remedies(write_sweep: Callable[..., Path]) -> None:
    noisy = {"batch_size": 512, "noise": -1.0}
    folder = write_sweep(
        [*small_large(), *trials(0.945, 9.0, proximal=1e-3, **noisy), *trials(0.92, 0.5, augmentation="paper", **noisy)]
    )
    found = against_small(load_sweep(folder))
    assert [(row.name, round(not_none(row.gap).value, 9), round(not_none(row.ratio).value, 9)) for row, _ in found] == [
        ("plain", 0.01, 10),
        ("proximal=0.001", 0.005, 9),
        ("augmentation=paper", 0.03, 0.5),
    ]
    assert [round(not_none(remedy).gain.value, 9) for _, remedy in found[1:]] == [0.005, -0.02]
    text = " ".join(remedies_report(folder))
    assert "proximal=0.001 improves test accuracy" in text
    assert "augmentation=paper worsens test accuracy" in text
    with pytest.raises(UserError, match="with a remedy at batch 512"):
        against_small(load_sweep(write_sweep(small_large(), "no remedy")))


def test_warm_start(write_sweep: Callable[..., Path]) -> None:
    switched = [
        trials(accuracy, sharpness, noise=-1.0, batch_size=16, switch_epoch=epoch, switch_batch_size=512)
        for epoch, accuracy, sharpness in ((10, 0.949, 2.0), (2, 0.942, 5.0))
    ]
    for entry in switched[0][:3]:
        entry.trial["resumed_epoch"] = 10
    folder = write_sweep([*small_large(), *itertools.chain(*switched)])
    found = warm_starts(load_sweep(folder))
    *others, (small, _) = found
    assert (small.name, small.is_reference) == ("none (small batch)", True)
    assert [
        (row.name, round(not_none(row.gap).value, 9), round(not_none(row.ratio).value, 9)) for row, _ in others
    ] == [
        ("0 (large batch)", 0.01, 10),
        ("2", 0.008, 5),
        ("10", 0.001, 2),
    ]
    assert [gain and round(gain.value, 9) for _, gain in found] == [None, 0.002, 0.009, 0.01]
    assert any("3 of 8 trials with a switch started" in line for line in warm_start_report(folder))
    with pytest.raises(UserError, match="trials that went from batch 16 to 512"):
        warm_starts(load_sweep(write_sweep(small_large(), "no switch")))


def along_a_run(entry: Record, losses: list[float], sharpness: Callable[[float], float], distance: float) -> Record:
    """The record with a measured epoch for each loss: box sharpness `sharpness(loss)`."""
    epochs = [
        {"epoch": epoch, "train_loss": loss, "distance": distance * epoch / len(losses)}
        for epoch, loss in enumerate(losses, start=1)
    ]
    box = {"measure": "box_sharpness", "method": "strong", "space": "full", "epsilon": 1e-3}
    measures = [{**box, "epoch": row["epoch"], "value": sharpness(row["train_loss"])} for row in epochs]
    entry.trial["epochs_done"] = len(losses)
    return dataclasses.replace(entry, epochs=epochs, measures=measures)


def test_evolution(write_sweep: Callable[..., Path]) -> None:
    """Sharpness is a power of the loss, so that interpolation by logarithms is exact."""
    falling = [2.0, 0.5, 0.04, 0.07, 0.02, 0.002]  # it rises once
    records = [
        *(along_a_run(entry, falling, lambda loss: loss, 6.0) for entry in trials(batch_size=16)),
        *(along_a_run(entry, [1.5, 0.2, 0.008], lambda loss: 0.4 / loss, 2.0) for entry in trials(batch_size=512)),
    ]
    folder = write_sweep(records)
    sweep = load_sweep(folder)
    assert len(along(sweep)) == 4 * (6 + 3)
    found = at_losses(along(sweep))
    by_level = {level: rows.set_index("batch_size")["box_sharpness"] for level, rows in found.groupby("level")}
    assert set(by_level) == {1, 0.3, 0.1, 0.03, 0.01, 0.003}  # 0.001 is never reached
    for level in (1, 0.3, 0.1, 0.03, 0.01):
        assert by_level[level].loc[16].to_numpy() == pytest.approx([level] * 4)
        assert by_level[level].loc[512].to_numpy() == pytest.approx([0.4 / level] * 4)
    assert set(by_level[0.003].index) == {16}
    assert not_none(distance_ratio(sweep)).value == pytest.approx(3)
    text = " ".join(evolution_report(folder))
    assert "Batch 16: from loss 1 to 0.01 box sharpness changes by the factor 0.01" in text
    assert "Batch 512: from loss 1 to 0.01 box sharpness changes by the factor 100" in text
    assert "batch 16 over batch 512: 3.00" in text
    sharpness, distance = evolution(sweep).axes
    assert len(sharpness.lines) == len(distance.lines) == 8
    assert sharpness.xaxis_inverted()


def test_evolution_needs_moments(write_sweep: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="measured along the run"):
        along(load_sweep(write_sweep(small_large())))


def test_runs_that_share_no_loss(write_sweep: Callable[..., Path]) -> None:
    small = (along_a_run(entry, [0.2, 0.02], lambda loss: loss, 1.0) for entry in trials(batch_size=16))
    large = (along_a_run(entry, [2.0, 0.5], lambda loss: loss, 1.0) for entry in trials(batch_size=512))
    assert any("share no training loss" in line for line in evolution_report(write_sweep([*small, *large])))
