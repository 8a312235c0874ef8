"""The critical batch size: the law it is fitted to, worked by hand, and tables made by it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import law, record
from narrow import not_none
from scipy import stats
from scipy.optimize import curve_fit, minimize

from analysis.charts.critical_batch import critical_batch_figure
from analysis.data.load import load_sweep
from analysis.data.replicates import cells, over_replicates, weighted_mean
from analysis.questions.critical_batch import critical_batch, critical_batch_sentence
from analysis.stats.means import mean_over_replicates
from analysis.stats.steps_to_loss import fit_steps, misfit_intervals, steps_to_loss
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.tables import Record
from trainables.runtime.errors import NotEnoughError, UserError
from trainables.training import loop
from trainables.trial import run_trial


def test_steps_to_a_loss_by_hand() -> None:
    epochs = pd.DataFrame(
        {
            "trial_id": ["a"] * 3 + ["b"] * 2 + ["c"] * 2,
            "epoch": [1, 2, 3, 1, 2, 1, 2],
            "step": [10, 20, 30, 4, 8, 1, 2],
            "train_loss": [1.0, 0.1, 0.001, 0.5, 0.2, 0.01, 0.02],
        },
        index=[5, 6, 7, 1, 2, 3, 9],
    )
    found = steps_to_loss(epochs.sample(frac=1, random_state=0), 0.01)
    # a: log10 falls from -1 to -3 between steps 20 and 30, and is -2 half-way; c is there at its first look; b never.
    assert found.loc["a"].to_dict() == pytest.approx({"step": 25.0, "epoch": 2.5, "is_bound": False})
    assert found.loc["c"].to_dict() == {"step": 1.0, "epoch": 1.0, "is_bound": False}  # of one step: no bound
    assert "b" not in found.index


def test_the_law_is_the_source_s() -> None:
    """S = S_min (1 + B_crit / B) with E = S B solves (S / S_min - 1) (E / E_min - 1) = 1, E_min = B_crit S_min."""
    for size in (3.0, 100.0, 4096.0):
        steps = 50 * (1 + 120 / size)
        assert (steps / 50 - 1) * (steps * size / (120 * 50) - 1) == pytest.approx(1)


@pytest.mark.parametrize("b_crit", [0.5, 40.0, 700.0])
def test_an_exact_law_is_found_again(b_crit: float) -> None:
    sizes = np.array([4.0, 16.0, 64.0, 256.0])
    critical, least, misfit = fit_steps(sizes, 30 * (1 + b_crit / sizes))
    assert (critical, least) == pytest.approx((b_crit, 30), rel=1e-5)
    assert misfit < 1e-6


def test_the_fit_is_scipys_least_squares_of_logarithms() -> None:
    sizes = 2 ** np.arange(3.0, 11.0)
    luck = np.exp(0.2 * np.random.default_rng(0).normal(size=8))
    steps = 30 * (1 + 80 / sizes) * luck
    reference, _ = curve_fit(lambda b, c, s: s + np.log1p(np.exp(c) / b), sizes, np.log(steps), p0=[4.0, 3.0])
    critical, least, misfit = fit_steps(sizes, steps)
    assert np.log([critical, least]) == pytest.approx(reference, abs=1e-5)
    residuals = np.log(steps) - np.log(least * (1 + critical / sizes))
    assert misfit == pytest.approx(np.sqrt(np.mean(residuals**2)))


def test_the_misfit_leaves_open_what_an_f_test_does_not_refute() -> None:
    """At the ends of each interval the best fit with that parameter held has SSR (1 + t^2 / (k - 2))."""
    sizes = np.array([8.0, 32.0, 128.0, 512.0, 2048.0])
    steps = 50 * (1 + 100 / sizes) * np.exp([0.1, -0.1, 0.05, 0.1, -0.1])
    critical, least, misfit = fit_steps(sizes, steps)
    most = 5 * misfit**2 * (1 + stats.t.ppf(0.975, 3) ** 2 / 3)

    def squares(b: float, a: float) -> float:
        return float(((np.log(steps) - a - np.log1p(np.exp(b) / sizes)) ** 2).sum())

    found = misfit_intervals(sizes, steps, critical)
    for k, held in enumerate((lambda end, x: (end, x), lambda end, x: (x, end), lambda end, x: (x, end - x))):
        start = np.log([least, critical, critical][k])
        for end in found[k]:
            best = minimize(lambda x, end=end, held=held: squares(*held(end, x[0])), start, method="Nelder-Mead")
            assert best.fun == pytest.approx(most, rel=2e-3)
    assert found[0, 0] < np.log(critical) < found[0, 1]


def test_an_end_is_open_where_only_one_arm_of_the_law_was_seen() -> None:
    sizes, errors = np.array([8.0, 16.0, 32.0, 64.0]), np.exp([0.05, -0.05, -0.05, 0.05])
    above = misfit_intervals(sizes, 1e5 / sizes * errors, fit_steps(sizes, 1e5 / sizes * errors)[0])
    assert np.isinf(above[0, 1])
    assert above[1, 0] == -np.inf
    assert np.isfinite(above[2]).all()
    below = misfit_intervals(sizes, 50 * errors, fit_steps(sizes, 50 * errors)[0])
    assert below[0, 0] == -np.inf
    assert np.isfinite(below[1]).all()


def test_an_open_interval_is_told_as_a_bound(write_sweep: Callable[..., Path]) -> None:
    factors = (0.98, 1.0, 1.02)
    far = load_sweep(write_sweep(law(b_crit=1e5, s_min=5, noise=0.1, factors=factors), "far"))
    assert np.isinf(not_none(critical_batch(far).b_crit.interval).high)
    assert "the critical batch size is above " in critical_batch_sentence(far)
    near = load_sweep(write_sweep(law(b_crit=0.1, s_min=100, noise=0.1, factors=factors), "near"))
    assert "the critical batch size is below " in critical_batch_sentence(near)


def test_a_sweep_by_the_law_gives_it_back_with_an_interval(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(law(factors=(0.8, 1.0, 1.25), noise=0.05)))
    found = critical_batch(sweep)
    assert found.target_loss == 1e-3
    assert found.b_crit.value == pytest.approx(100, rel=0.15)
    assert found.s_min.value == pytest.approx(50, rel=0.1)
    assert found.e_min.value == pytest.approx(found.b_crit.value * found.s_min.value)
    assert not_none(found.b_crit.interval).holds(100)
    assert not_none(found.s_min.interval).low < 45 < 55 < not_none(found.s_min.interval).high
    assert not found.extrapolated
    assert found.left_out == ()
    # A replicate that is slower by a factor throughout has more steps, and the same critical batch size.
    assert np.ptp(np.log([not_none(found.s_min.interval).low, not_none(found.s_min.interval).high])) > np.ptp(
        np.log([not_none(found.b_crit.interval).low, not_none(found.b_crit.interval).high])
    )
    assert "was not measured" in critical_batch_sentence(sweep)


def test_the_fastest_setting_is_chosen_and_one_that_misses_the_loss_once_is_not(
    write_sweep: Callable[..., Path],
) -> None:
    records = law(learning_rates=(0.01, 0.003, 0.1), factors=(1.0, 1.01, 1.02))
    fastest = [entry for entry in records if entry.trial["learning_rate"] == 0.01]
    found = critical_batch(load_sweep(write_sweep(records, "all")))
    assert {row.learning_rate for row in found.rows} == {0.01}
    assert not any(row.at_edge for row in found.rows)
    lost = next(entry for entry in fastest if entry.trial["batch_size"] == 32)
    records[records.index(lost)] = dataclasses.replace(lost, epochs=lost.epochs[:-1])
    found = critical_batch(load_sweep(write_sweep(records, "missed")))
    assert {row.batch_size: row.at_edge for row in found.rows} == {8: False, 32: True, 128: False, 512: False}
    missed = [(one.batch_size, one.setting, one.reached, one.replicates) for one in found.missed]
    assert missed == [(32, "learning rate 0.01", 2, 3)]
    sentence = critical_batch_sentence(load_sweep(write_sweep(records, "told")))
    assert "batch 32 at learning rate 0.01 (2 of 3)." in sentence


def test_a_trial_that_diverged_did_not_reach_the_loss(write_sweep: Callable[..., Path]) -> None:
    records = law(learning_rates=(0.01, 0.003), factors=(1.0, 1.01, 1.02))
    lost = next(entry for entry in records if entry.trial["batch_size"] == 32 and entry.trial["learning_rate"] == 0.01)
    records[records.index(lost)] = dataclasses.replace(lost, trial={**lost.trial, "status": "diverged"})
    found = critical_batch(load_sweep(write_sweep(records)))
    assert {row.batch_size: row.learning_rate for row in found.rows} == {8: 0.01, 32: 0.003, 128: 0.01, 512: 0.01}
    assert [(one.batch_size, one.reached, one.replicates) for one in found.missed] == [(32, 2, 3)]


def test_a_batch_size_that_never_arrives_is_left_out_and_too_few_are_an_error(write_sweep: Callable[..., Path]) -> None:
    records = [
        dataclasses.replace(entry, epochs=entry.epochs[:-1]) if entry.trial["batch_size"] == 8 else entry
        for entry in law(factors=(1.0, 1.1, 1.2))
    ]
    found = critical_batch(load_sweep(write_sweep(records)))
    assert found.left_out == (8,)
    assert [row.batch_size for row in found.rows] == [32, 128, 512]
    sentence = critical_batch_sentence(load_sweep(write_sweep(records, "again")))
    assert "No setting reaches the loss in every replicate at batch 8: left out." in sentence
    assert "batch 8 (0 of 3)." in sentence
    short = load_sweep(write_sweep(law(batch_sizes=(8, 32)), "short"))
    with pytest.raises(UserError, match=r"^`results` must hold at least 3 batch sizes .* got 2 in"):
        critical_batch(short)
    sentence = critical_batch_sentence(short)
    assert sentence.startswith("A critical batch size needs at least 3 batch sizes that reach a training loss of ")
    assert str(short.folder) not in sentence
    with pytest.raises(UserError, match="with their epochs"):
        critical_batch(load_sweep(write_sweep([record()], "none")))


def test_the_default_target_without_a_target_loss_is_what_every_batch_size_reaches(
    write_sweep: Callable[..., Path],
) -> None:
    records = law()
    untold = [dataclasses.replace(entry, trial={**entry.trial, "target_loss": None}) for entry in records]
    reached = max(entry.epochs[-1]["train_loss"] for entry in records)
    assert critical_batch(load_sweep(write_sweep(untold))).target_loss == pytest.approx(reached)


def with_noise(entry: Record, *moments: Any, **row: Any) -> Record:
    """The record with a noise scale at each (epoch, value), by both methods, and the variances that come with them."""
    rows = [
        {"measure": "gradient_noise_scale", "method": name, "epoch": epoch, "value": number, "converged": True, **row}
        for epoch, value in moments
        for name, number in (
            ("two batch sizes", 2.0 * value if value else None),
            ("two batch sizes, variance", 0.01),
            ("per example", value),
            ("per example, variance", 0.01),
        )
    ]
    return dataclasses.replace(entry, measures=rows)


def test_noise_scale_is_that_until_the_target(write_sweep: Callable[..., Path]) -> None:
    """By one method, and never the mean of a scale with a variance."""
    during = [
        with_noise(entry, (1, 10.0), (entry.trial["epochs_done"], 100.0), (entry.trial["epochs_done"] + 1, 1000.0))
        for entry in law()
    ]
    sweep = load_sweep(write_sweep(during))
    found = critical_batch(sweep)
    assert (not_none(found.noise).epochs, not_none(found.noise).measured, not_none(found.noise).resolved) == (2, 8, 8)
    assert [not_none(row.noise_scale).value for row in found.rows] == pytest.approx(
        [10**1.5] * 4
    )  # the third is after the target
    assert "scale is 31.6 to 31.6." in critical_batch_sentence(sweep)


def test_two_batch_sizes_do_where_examples_were_not_measured_one_by_one(write_sweep: Callable[..., Path]) -> None:
    records = [with_noise(entry, (1, 10.0)) for entry in law()]
    kept = [[row for row in entry.measures if row["method"].startswith("two")] for entry in records]
    both = zip(records, kept, strict=True)
    sweep = load_sweep(write_sweep([dataclasses.replace(entry, measures=rows) for entry, rows in both]))
    assert [not_none(row.noise_scale).value for row in critical_batch(sweep).rows] == pytest.approx([20] * 4)


def test_a_noise_scale_at_the_end_alone_is_said_to_overstate(write_sweep: Callable[..., Path]) -> None:
    at_end = load_sweep(write_sweep([with_noise(entry, (entry.trial["epochs_done"], 5.0)) for entry in law()], "end"))
    assert "is 5 to 5, measured at the end of training alone, where it overstates" in critical_batch_sentence(at_end)


def test_moments_without_a_resolved_gradient_are_told(write_sweep: Callable[..., Path]) -> None:
    """Null where |G|^2 came out below 0, `converged` False where it is not clearly above."""
    some = [with_noise(entry, (1, 10.0), (2, None)) for entry in law()]
    sentence = critical_batch_sentence(load_sweep(write_sweep(some, "some")))
    assert "scale is 10 to 10. |G|^2 is not resolved from 0 at 4 of the 8 moments" in sentence
    none = load_sweep(write_sweep([with_noise(entry, (1, 10.0), converged=False) for entry in law()], "none"))
    assert critical_batch(none).rows[0].noise_scale is None
    assert "|G|^2 is not resolved from 0 at any of the 4 moments" in critical_batch_sentence(none)


def test_the_figure_marks_what_it_shows(write_sweep: Callable[..., Path]) -> None:
    figure = critical_batch_figure(load_sweep(write_sweep(law(learning_rates=(0.01, 0.003), factors=(1, 1.1, 0.9)))))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["8", "32", "128", "512", "best learning rate at the end of the grid"]
    assert "Dashed: critical batch size 100" in figure.get_supxlabel().replace("\n", " ")
    assert figure.axes[1].get_xlabel() == "mean size of the batches, examples / steps"


def test_the_figure_states_and_shows_how_far_the_law_is_off(write_sweep: Callable[..., Path]) -> None:
    """Each thick bar goes from the measured steps to the law; an open interval draws no critical batch size."""
    sweep = load_sweep(write_sweep(law(learning_rates=(0.01,), factors=(1, 1.1, 0.9))))
    found, figure = critical_batch(sweep), critical_batch_figure(sweep)
    assert f"misses the points by {100 * np.expm1(found.misfit):.0f} %" in figure.get_supxlabel().replace("\n", " ")
    bars = [np.asarray(line.get_xydata()) for line in figure.axes[1].lines if line.get_linewidth() == 4]
    for (size, _), (same, law_says) in bars:
        assert size == same
        assert law_says == pytest.approx(found.s_min.value * (1 + found.b_crit.value / size))
    assert [bar[0][1] for bar in bars] == [row.steps.value for row in found.rows]


def test_the_interval_of_a_mean_is_the_t_interval_but_for_chance() -> None:
    values = np.random.default_rng(1).normal(size=(1, 6))
    centre, half = over_replicates(lambda counts: weighted_mean(values, counts), 6)
    reference = not_none(mean_over_replicates(pd.DataFrame({"replicate": range(6), "x": values[0]}), "x"))
    assert centre[0] == pytest.approx(reference.value)
    assert not_none(half)[0] == pytest.approx(
        (not_none(reference.interval).high - not_none(reference.interval).low) / 2, rel=0.1
    )
    assert over_replicates(lambda counts: weighted_mean(values[:, :2], counts), 2)[1] is None


def test_cells_average_what_they_hold_and_know_their_holes() -> None:
    frame = pd.DataFrame(
        {"batch_size": [8, 8, 8, 4], "setting": [1, 1, 0, 0], "replicate": [0, 0, 2, 0], "x": [1.0, 3.0, 5.0, 7.0]}
    )
    found = cells(frame, "x")
    assert (found.sizes, found.settings, found.replicates) == ((4, 8), (0, 1), (0, 2))
    expected = [[[7, np.nan], [np.nan, np.nan]], [[np.nan, 5], [2, np.nan]]]
    np.testing.assert_array_equal(found.values, expected)
    mean = weighted_mean(found.values, np.array([2, 1]))
    np.testing.assert_array_equal(mean, [[7, np.nan], [5, 2]])


def test_a_loss_reached_within_the_first_epochs_is_known_to_some_steps(
    digits: Source, make_config: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the loss after every step; by the ends of epochs alone it would be 75 steps, those of the first."""
    monkeypatch.setattr(loop, "is_look", lambda step: True)
    config = make_config(batch_size=4, epochs=3)
    every_step = pd.DataFrame(run_trial(config, digits).epochs).assign(trial_id="a")
    monkeypatch.undo()
    epochs = pd.DataFrame(run_trial(config, digits).epochs).assign(trial_id="a")
    assert epochs["train_loss"].tolist() == every_step["train_loss"].tolist()
    for loss in (2.0, 1.5):
        exact, found, coarse = (
            steps_to_loss(rows, loss).loc["a"] for rows in (every_step, epochs, epochs.drop(columns="within"))
        )
        assert found["step"] == pytest.approx(exact["step"], rel=0.15)
        assert found["epoch"] == pytest.approx(found["step"] * 4 / 300)
        assert exact["step"] < 60
        assert coarse[["step", "is_bound"]].tolist() == [75, True]


def test_a_loss_that_takes_one_step_everywhere_is_refused(write_sweep: Callable[..., Path]) -> None:
    """It used to have a critical batch size of 0.000564, whatever the sweep."""
    records = [dataclasses.replace(one, epochs=[{**one.epochs[0], "step": 1}, *one.epochs[1:]]) for one in law()]
    sweep = load_sweep(write_sweep(records))
    with pytest.raises(NotEnoughError, match="that reach a training loss of 5 in more than one step, got none"):
        critical_batch(sweep, 5.0)
    with pytest.raises(UserError, match="the training loss to reach must be above 0, got -1"):
        critical_batch(sweep, -1.0)


def test_steps_that_are_upper_bounds_are_told(write_sweep: Callable[..., Path]) -> None:
    records = [
        dataclasses.replace(entry, epochs=entry.epochs[-1:]) if entry.trial["batch_size"] == 32 else entry
        for entry in law()
    ]
    sweep = load_sweep(write_sweep(records))
    sentence = critical_batch_sentence(sweep)
    assert "before it was first looked at, so steps are upper bounds, at batch 32." in sentence
    figure = critical_batch_figure(sweep)
    for axes in figure.axes:
        assert sum(line.get_markerfacecolor() == "white" for line in axes.lines) == 1
    assert "Hollow: an upper bound" in figure.get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize("is_resolved", [True, False])
def test_the_noise_scale_of_the_steps_comes_with_the_factor_that_it_is_off_by(
    write_sweep: Callable[..., Path], is_resolved: bool
) -> None:
    """Until the target, where the interval is closed; a factor of 100 / 20 here. The measure gives way to it.

    B_crit is the same in all seeds, so the factor scatters as their scales do: e^(0.2, 0, -0.2) times 20.
    """
    records, own = [], (0.2, 0.0, -0.2)
    for entry in law(factors=(1, 1.05, 0.95)):
        scale = 20 * np.exp(own[entry.trial["seed"]])
        scales = [(scale, 2 * scale) for _ in entry.epochs]
        scales[0] = scales[0] if is_resolved else (1e6, None)
        columns = ("gradient_noise_scale", "gradient_noise_scale_high", "gradient_noise_trace")
        history = [
            row | dict(zip(columns, (*values, 1.0), strict=True))
            for row, values in zip(entry.epochs, scales, strict=True)
        ]
        row = entry.trial | {"noise_scale": "normalization"}
        records.append(with_noise(dataclasses.replace(entry, trial=row, epochs=history), (1, 10.0)))
    sweep = load_sweep(write_sweep(records))
    found = critical_batch(sweep)
    assert [row.noise_scale.value for row in found.rows if row.noise_scale is not None] == pytest.approx([20] * 4)
    sentence = critical_batch_sentence(sweep)
    assert "noise scale of the normalization layers in the training steps is 20 to 20." in sentence
    factor = not_none(found.noise_factor)
    assert factor.value == pytest.approx(found.b_crit.value / 20)
    assert factor.value == pytest.approx(5, rel=0.05)
    if not is_resolved:
        assert f"not resolved from 0 at 12 of the {not_none(found.noise).measured} moments" in sentence
        assert f"critical batch size is at most about {factor.value:.3g} times the noise scale." in sentence
        return
    interval = not_none(factor.interval)
    low, high = interval.low, interval.high
    half = stats.t.ppf(0.975, 2) * 0.2 / np.sqrt(3)
    assert np.log(high / low) / 2 == pytest.approx(half, rel=0.15)  # 500 resamples, and the law's misfit
    assert f"is {factor.value:.3g} times the noise scale (95 % CI {low:.3g} to {high:.3g})." in sentence
