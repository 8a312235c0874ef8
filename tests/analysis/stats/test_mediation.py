"""Mediation by interventions: closed forms without noise, a naive reference, and known truths by simulation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from simulations.experiments import EFFECTS, KINDS, Held, Truth, association, drawn

from analysis.stats.mediation import Experiment, as_log, mediation

LEVEL = 0.95
FAILING = 0.93, 0.001  # a rate fails when a true rate of 93 % would give so low a one in 0.1 % of all tests


def exact(share: float, violation: float = 0.0) -> Experiment:
    """Replicates that differ in their levels alone."""
    blocks = np.array([0.0, 1.0, -2.0, 0.5])[:, None, None]
    large = np.array([0.0, 1.0])[:, None]
    measure = blocks + 2 * large + EFFECTS
    other = violation * EFFECTS * np.array([kind == "SAM" for kind in KINDS])
    outcome = 3 * blocks + (1 - share) * large + share / 2 * measure + other
    return Experiment(measure, outcome, np.ones((2, len(KINDS)), dtype=bool), KINDS)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_without_noise_the_truth_is_found(share: float) -> None:
    found = mediation(exact(share), rhos=(0.0,))
    assert found.total.value == pytest.approx(1.0, abs=1e-12)
    assert found.mediated.value == pytest.approx(share, abs=1e-12)
    assert found.direct.value == pytest.approx(1 - share, abs=1e-12)
    assert found.share is not None
    assert found.share.value == pytest.approx(share, abs=1e-12)
    assert found.slope.value == pytest.approx(share / 2, abs=1e-12)
    assert found.change.value == pytest.approx(2.0, abs=1e-12)


def test_the_slope_is_two_stage_least_squares() -> None:
    """Y on the fitted M, with a dummy for each arm as instruments and the batch size and replicate as blocks."""
    experiment = drawn(Truth(0.5), 3)
    n, _, arms = experiment.measure.shape
    rows = [(s, b, a) for s in range(n) for b in range(2) for a in range(arms)]
    blocks = np.array([[float(2 * s + b == k) for k in range(2 * n)] for s, b, _ in rows])
    instruments = np.array([[float(arms * b + a == k) for k in range(2 * arms)] for _, b, a in rows])
    measure, outcome = (np.array([part[row] for row in rows]) for part in (experiment.measure, experiment.outcome))
    first = np.hstack([blocks, instruments])
    fitted = first @ np.linalg.lstsq(first, measure, rcond=None)[0]
    second = np.hstack([fitted[:, None], blocks])
    expected = np.linalg.lstsq(second, outcome, rcond=None)[0][0]
    assert experiment.slope == pytest.approx(expected, rel=1e-9)


def test_slopes_that_differ_by_rounding_are_the_same_at_both_batch_sizes() -> None:
    exactly = exact(0.7)
    noisy = replace(exactly, measure=exactly.measure + 1e-3 * np.random.default_rng(0).normal(size=(4, 2, len(KINDS))))
    found = mediation(replace(noisy, outcome=0.7 * noisy.measure), rhos=())
    assert found.interaction is not None
    assert (found.interaction.value, found.interaction.interval) == (0.0, None)


def test_an_effect_in_one_replicate_alone_is_weak() -> None:
    """Without this replicate no intervention changes the measure: the jackknife's slope is 0 there, not 0 / 0."""
    experiment = exact(0.5)
    measure = np.repeat(experiment.measure[:, :, :1], len(KINDS), axis=2)
    measure[0] = experiment.measure[0]
    with np.errstate(all="raise"):
        found = mediation(replace(experiment, measure=measure))
    assert found.is_weak
    assert np.isfinite(found.mediated.value)


def test_the_curve_of_a_confounder_is_that_of_its_model() -> None:
    """Arms whose other effect on Y has the correlation rho with what they do to M: the curve at rho is the truth."""
    random = np.random.default_rng(0)
    effects = np.concatenate([[0.0], random.normal(size=30)])
    other = np.concatenate([[0.0], random.normal(size=30)])
    measure = np.tile(effects, (4, 2, 1))
    outcome = 0.7 * measure + 0.4 * other
    experiment = Experiment(measure, outcome, np.ones((2, 31), dtype=bool), ("", *["SAM"] * 30))
    rho = float(np.corrcoef(effects, other)[0, 1])
    assert abs(rho) > 0.01
    assert experiment.slope_at(rho) == pytest.approx(0.7, rel=1e-9)
    assert experiment.slope_at(0.0) == pytest.approx(experiment.slope, rel=1e-12)
    critical = float(np.corrcoef(effects, outcome[0, 0])[0, 1])
    assert experiment.slope_at(critical) == pytest.approx(0.0, abs=1e-9)


def test_arms_that_are_not_used_do_not_count() -> None:
    experiment = exact(0.5)
    used = experiment.used.copy()
    used[1, 3] = False
    spoiled = experiment.outcome.copy()
    spoiled[:, 1, 3] = np.nan
    found = mediation(replace(experiment, used=used, outcome=spoiled), rhos=())
    assert found.mediated.value == pytest.approx(0.5, abs=1e-12)


def test_what_cannot_be_said() -> None:
    with pytest.raises(ValueError, match="3 replicates or more, got 2"):
        mediation(exact(0.5).without(0).without(0))
    idle = exact(0.5)
    with pytest.raises(ValueError, match="interventions that change the measure"):
        mediation(replace(idle, measure=np.repeat(idle.measure[:, :, :1], len(KINDS), axis=2)))
    rounded = idle.measure[:, :, :1] * (1 + 1e-15 * np.arange(len(KINDS)))
    with pytest.raises(ValueError, match="interventions that change the measure"):
        mediation(replace(idle, measure=rounded))
    weak = mediation(drawn(Truth(0.5, strength=0.05), 0), rhos=())
    assert weak.is_weak
    assert weak.share is None or weak.share.interval is None


def test_logarithms_are_for_what_spans_a_decade() -> None:
    assert as_log(np.array([0.1, 1.0, np.nan]))
    assert not as_log(np.array([0.2, 1.0]))
    assert not as_log(np.array([-1.0, 100.0]))


@pytest.mark.parametrize("share", [0.5, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 1.0))])
def test_intervals_hold_a_known_share(share: float) -> None:
    truth, held = Truth(share), Held()
    for run in range(60):
        held.add(truth, run)
    for count, of in ((held.held, held.given), (held.mediated_held, held.runs)):
        assert of >= 50
        assert not stats.binom.cdf(count, of, FAILING[0]) < FAILING[1]
    assert stats.binom.sf(held.disagree - 1, held.runs, 0.07) > 0.001  # 5 %, and 2 % of tolerance
    assert abs(held.association - share) > 0.5  # what it would be without interventions


def test_kinds_that_disagree_are_found() -> None:
    p_values = [mediation(drawn(Truth(0.5, violation=2.0), run), rhos=()).agreement for run in range(10)]
    assert sum(p is not None and p < 0.05 for p in p_values) >= 8
    assert association(drawn(Truth(0.5), 0)) != 0
