"""Levels of repeated looks: published boundaries, exact cases, and simulated studies with a known truth."""

import numpy as np
import pytest
from scipy import special, stats
from simulations.sequential import MARGIN, Study, errors

from analysis.stats.group_sequential import ALPHA, levels_of_plan, look_levels, planned_looks, spent

# The 2.5 % boundaries of Lan and DeMets 1983 with O'Brien and Fleming's type of spending at equal steps, as the program
# ld98 and the R package ldbounds compute them (Reboussin, DeMets, Kim and Lan 2000, Controlled Clinical Trials 21:190).
PUBLISHED = {
    1: [1.9600],
    2: [2.9626, 1.9686],
    3: [3.7103, 2.5114, 1.9930],
    4: [4.3326, 2.9631, 2.3590, 2.0141],
    5: [4.8769, 3.3569, 2.6803, 2.2898, 2.0310],
}
STUDIES = 40_000
ERROR = 4 * (ALPHA / STUDIES) ** 0.5  # four standard errors of a share of 2.5 %


@pytest.mark.parametrize("looks", PUBLISHED)
def test_published_boundaries_spend_what_the_function_releases(looks: int) -> None:
    """By SciPy's multivariate normal distribution: z-statistics at t and u correlate by sqrt(t / u)."""
    times = np.arange(1, looks + 1) / looks
    correlation = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    for k in range(looks):
        normal = stats.multivariate_normal(cov=correlation[: k + 1, : k + 1], abseps=1e-7, seed=0)
        assert 1 - normal.cdf(np.array(PUBLISHED[looks][: k + 1])) == pytest.approx(spent(times[k]), abs=1e-5)


@pytest.mark.parametrize("looks", [1, 2, 3, *(pytest.param(looks, marks=pytest.mark.slow) for looks in (4, 5))])
def test_levels_of_many_replicates_are_the_published_boundaries(looks: int) -> None:
    many = 100_000  # a t-statistic is normal then
    found = -special.ndtri(levels_of_plan([many * (k + 1) for k in range(looks)]))
    assert found[:2] == pytest.approx(PUBLISHED[looks][:2], abs=3e-3)
    # The sum over neighbouring looks bounds the error, so later boundaries are a little further out, never nearer.
    assert np.all(found > np.array(PUBLISHED[looks]) - 3e-4)
    assert np.all(found < np.array(PUBLISHED[looks]) + 0.01)


def test_two_looks_are_exact() -> None:
    levels = levels_of_plan([4, 8])
    random = np.random.default_rng(0)
    values = random.standard_normal((1_000_000, 8))
    t = [values[:, :n].mean(axis=1) / values[:, :n].std(axis=1, ddof=1) * n**0.5 for n in (4, 8)]
    rejected = (t[0] > stats.t.ppf(1 - levels[0], 3)) | (t[1] > stats.t.ppf(1 - levels[1], 7))
    assert levels[0] == pytest.approx(spent(0.5), rel=1e-12)
    assert rejected.mean() == pytest.approx(ALPHA, abs=4 * (ALPHA / 1e6) ** 0.5 + 1e-4)


def test_one_look_at_the_end_is_the_test_without_looks() -> None:
    assert look_levels((12,), 12) == pytest.approx((ALPHA,), rel=1e-12)


@pytest.mark.parametrize("looks", [(3, 6, 9, 12), (4, 6, 8, 10, 12), tuple(range(3, 13)), (3, 4), (2, 5, 9)])
@pytest.mark.parametrize("sigma", [0.3, 3.0])
def test_each_wrong_claim_is_made_in_at_most_two_and_a_half_percent(looks: tuple[int, ...], sigma: float) -> None:
    found = errors(Study("at the margin", looks, (MARGIN,), sigma), np.random.default_rng(len(looks)), STUDIES)
    assert 0.02 < found.free < ALPHA + ERROR
    assert 0.02 < found.not_free < ALPHA + ERROR


def test_levels_taken_from_the_normal_distribution_would_be_wrong_too_often() -> None:
    """Why the levels are computed for t: the same test with the published boundaries."""
    random, looks = np.random.default_rng(3), (4, 8, 12)
    values = random.standard_normal((400_000, 12))
    rejected = np.zeros(len(values), dtype=bool)
    for count, boundary in zip(looks, PUBLISHED[3], strict=True):
        t = values[:, :count].mean(axis=1) / values[:, :count].std(axis=1, ddof=1) * count**0.5
        rejected |= t > -special.stdtrit(count - 1, special.ndtr(-boundary))
    assert rejected.mean() > ALPHA + 4 * (ALPHA / 400_000) ** 0.5


def test_claims_about_several_batch_sizes_are_wrong_in_at_most_five_percent() -> None:
    study = Study("three batch sizes", (4, 6, 8, 10, 12), (0.0, MARGIN, 2 * MARGIN), sigma=0.5)
    found = errors(study, np.random.default_rng(5), STUDIES)
    assert found.free_up_to < ALPHA + ERROR
    assert found.not_free_from < ALPHA + ERROR


def test_replicates_that_are_missing_at_a_look_spend_less() -> None:
    whole, fewer = look_levels((4, 8, 12), 12), look_levels((4, 7, 11), 12)
    assert fewer[0] == whole[0]
    assert fewer[1] < whole[1]
    assert fewer[2] < whole[2]


def test_looks_without_new_replicates_have_no_level() -> None:
    assert look_levels((1, 4, 4, 8), 8) == pytest.approx((0.0, spent(0.5), 0.0, levels_of_plan([4, 8])[1]))


@pytest.mark.parametrize(("first", "cap"), [(4, 300), (4, 900)])
def test_a_first_look_that_can_spend_nothing_changes_no_other(first: int, cap: int) -> None:
    """It may spend 1e-84, or 1e-247, whose quantile of t is beyond what SciPy knows."""
    looks = planned_looks(first, cap)
    levels = levels_of_plan(looks)
    assert levels[0] < 1e-80
    assert levels[1:] == pytest.approx(look_levels(looks[1:], cap), rel=1e-6)


def test_planned_looks() -> None:
    assert planned_looks(4, 12) == (4, 6, 8, 10, 12)
    assert planned_looks(4, 6) == (4, 5, 6)
    assert planned_looks(4, 5) == (4, 5)
    assert planned_looks(3, 40) == (3, 12, 22, 31, 40)
