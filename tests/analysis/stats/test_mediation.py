"""Mediation by interventions: closed forms without noise, a naive reference, and known truths by simulation."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from narrow import not_none
from scipy import stats
from simulations.experiments import EFFECTS, KINDS, Held, Truth, association, drawn

from analysis.stats.means import Interval
from analysis.stats.mediation import Experiment, as_log, mediation

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
    assert not_none(found.mediated).value == pytest.approx(share, abs=1e-12)
    assert not_none(found.direct).value == pytest.approx(1 - share, abs=1e-12)
    assert not_none(found.share).value == pytest.approx(share, abs=1e-12)
    assert not_none(found.slope).value == pytest.approx(share / 2, abs=1e-12)
    assert found.change.value == pytest.approx(2.0, abs=1e-12)


def test_the_slope_is_the_jackknife_instrumental_variable_estimate() -> None:
    """Y on the M that arms have in all other replicates, with the batch size and replicate as blocks, by hand."""
    experiment = drawn(Truth(0.5, strength=0.5), 3)
    n, _, arms = experiment.measure.shape
    top, bottom = 0.0, 0.0
    for s in range(n):
        others = [other for other in range(n) if other != s]
        for b in range(2):
            for a in range(arms):
                predicted = np.mean([experiment.measure[o, b, a] - experiment.measure[o, b].mean() for o in others])
                top += predicted * (experiment.outcome[s, b, a] - experiment.outcome[s, b].mean())
                bottom += predicted * (experiment.measure[s, b, a] - experiment.measure[s, b].mean())
    effect, strength = experiment.products
    assert (effect, strength) == pytest.approx((top / n, bottom / n), rel=1e-9)
    assert not_none(mediation(experiment, rhos=()).slope).value == pytest.approx(top / bottom, rel=1e-9)


def test_products_of_means_have_no_bias() -> None:
    """The mean of the pseudo-values of A change is the mean over all triples of different replicates."""
    experiment = drawn(Truth(0.5, replicates=5), 0)
    measure, outcome = experiment.centred
    change = experiment.measure[:, 1, 0] - experiment.measure[:, 0, 0]
    expected = np.mean([measure[s] @ outcome[t] * change[u] for s, t, u in permutations(range(5), 3)])
    found = not_none(mediation(experiment, rhos=()).mediated).value * experiment.products[1]
    assert found == pytest.approx(expected, rel=1e-9)


def test_slopes_that_differ_by_rounding_are_the_same_at_both_batch_sizes() -> None:
    exactly = exact(0.7)
    noisy = replace(exactly, measure=exactly.measure + 1e-3 * np.random.default_rng(0).normal(size=(4, 2, len(KINDS))))
    found = not_none(mediation(replace(noisy, outcome=0.7 * noisy.measure), rhos=()).interaction)
    assert (found.value, found.interval) == (0.0, Interval(0.0, 0.0))


def test_an_effect_in_one_replicate_alone_determines_nothing() -> None:
    """B is 0 then. In the jackknife without this replicate no intervention changes the measure at all."""
    experiment = exact(0.5)
    measure = np.repeat(experiment.measure[:, :, :1], len(KINDS), axis=2)
    measure[0] = experiment.measure[0]
    with np.errstate(all="raise"):
        found = mediation(replace(experiment, measure=measure))
    assert found.is_weak
    assert (found.slope, found.mediated, found.direct, found.share) == (None, None, None, None)
    assert found.total.value == pytest.approx(1.0)


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
    effect, strength = experiment.products
    assert experiment.effect(rho) / strength == pytest.approx(0.7, rel=1e-9)
    assert experiment.effect() == effect
    assert experiment.critical_rho == pytest.approx(np.corrcoef(effects, outcome[0, 0])[0, 1], rel=1e-9)
    assert experiment.effect(experiment.critical_rho) == pytest.approx(0.0, abs=1e-9)


def test_arms_that_are_not_used_do_not_count() -> None:
    experiment = exact(0.5)
    used = experiment.used.copy()
    used[1, 3] = False
    spoiled = experiment.outcome.copy()
    spoiled[:, 1, 3] = np.nan
    found = mediation(replace(experiment, used=used, outcome=spoiled), rhos=())
    assert not_none(found.mediated).value == pytest.approx(0.5, abs=1e-12)


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
    assert weak.share is None
    few = mediation(drawn(Truth(0.5, replicates=4, confounding=0.0), 0), rhos=())
    assert not few.is_weak
    assert not_none(not_none(few.mediated).interval).holds(0.5)
    assert not_none(few.share).interval is None  # too few replicates


def test_logarithms_are_for_what_spans_a_decade() -> None:
    assert as_log(np.array([0.1, 1.0, np.nan]))
    assert not as_log(np.array([0.2, 1.0]))
    assert not as_log(np.array([-1.0, 100.0]))


QUICK = Truth(0.5, strength=0.65)
OTHERS = [
    *(Truth(share, strength=strength) for share in (0.0, 0.5, 1.0) for strength in (0.3, 1.0)),
    Truth(0.5, replicates=6, strength=0.5),
    Truth(0.5, confounding=0.0),
]


@pytest.mark.parametrize("truth", [QUICK, *(pytest.param(truth, marks=pytest.mark.slow) for truth in OTHERS)], ids=str)
def test_intervals_hold_a_known_share(truth: Truth) -> None:
    """Of those that are given, so weak interventions do not select the intervals that fail."""
    held = Held()
    for run in range(60):
        held.add(truth, run)
    for count, of in ((held.held, held.given), (held.mediated_held, held.mediated_given)):
        assert of >= (10 if truth.strength < 0.5 else 30)
        assert not stats.binom.cdf(count, of, FAILING[0]) < FAILING[1]
    assert stats.binom.sf(held.disagree - 1, held.runs, 0.07) > 0.001  # 5 %, and 2 % of tolerance
    if truth.confounding:
        assert abs(held.association - truth.share) > 0.5  # what it would be without interventions


def test_weak_interventions_do_not_bring_the_association_back() -> None:
    """The mean of A - share B over experiments is 0, by a t-test at 0.1 %; that of products of means is not."""
    runs = [drawn(Truth(0.5, strength=0.3), run) for run in range(200)]
    crossed = np.array([one.products[0] - 0.5 * one.products[1] for one in runs])
    means = np.array([(y - 0.5 * m) @ m for m, y in (one.between_arms for one in runs)])
    tests = [stats.ttest_1samp(values, 0).pvalue for values in (crossed, means)]
    assert tests[0] > 0.001 > tests[1]


def test_kinds_that_disagree_are_found() -> None:
    p_values = [mediation(drawn(Truth(0.5, violation=2.0), run), rhos=()).agreement for run in range(10)]
    assert sum(p is not None and p < 0.05 for p in p_values) >= 8
    assert association(drawn(Truth(0.5), 0)) != 0
