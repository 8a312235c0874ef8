"""Shares of the variance: closed forms, least squares as the naive reference, SciPy's t-test, and known truth."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from narrow import not_none
from numpy.typing import NDArray
from scipy import stats

from analysis.stats.variance_shares import Share, VarianceShares, variance_shares


def by_axes(found: VarianceShares) -> dict[tuple[int, ...], Share]:
    return {one.axes: one for one in found.effects}


def test_effects_without_noise_have_the_shares_of_their_variances() -> None:
    """a has the variance 5/4 over its levels, b 9, a x b 4, replicates 1: of 15.25 in all."""
    a, b, replicate = np.arange(4.0), np.array([-3.0, 3.0]), np.array([-1.0, 1.0])
    both = 2 * np.array([-1.0, 1, 1, -1])[:, None] * np.array([-1.0, 1])
    values = 7 + a[:, None, None] + b[:, None] + both[:, :, None] + replicate
    found = not_none(variance_shares(values))
    shares = {axes: one.share for axes, one in by_axes(found).items()}
    assert shares == pytest.approx({(0,): 1.25 / 15.25, (1,): 9 / 15.25, (0, 1): 4 / 15.25}, abs=1e-12)
    assert (found.replicates, found.noise, found.higher) == pytest.approx((1 / 15.25, 0, 0), abs=1e-12)
    assert [one.p_value for one in found.effects] == pytest.approx([0, 0, 0], abs=1e-12)


def test_an_interaction_of_three_axes_is_higher() -> None:
    signs = np.array([-1.0, 1.0])
    values = signs[:, None, None, None] * signs[:, None, None] * signs[:, None] * np.ones(3)
    found = not_none(variance_shares(values))
    assert found.higher == pytest.approx(1, abs=1e-12)
    assert [one.share for one in found.effects] == pytest.approx([0] * 6, abs=1e-12)
    assert [one.p_value for one in found.effects] == [1.0] * 6


def test_sums_of_squares_are_those_of_least_squares() -> None:
    """Against the fall of the residual when an effect's columns join a regression, of a grid of 3 x 2 x 2 x 4."""
    values = np.random.default_rng(0).normal(size=(3, 2, 2, 4))
    found = not_none(variance_shares(values))
    places = np.indices(values.shape).reshape(4, -1)
    total = ((values - values.mean()) ** 2).sum()

    def residual(effects: Any) -> float:
        columns = [np.ones((values.size, 1))]
        for axes in effects:
            groups = np.unique(places[list(axes)], axis=1, return_inverse=True)[1].reshape(-1)
            columns.append(np.eye(groups.max() + 1)[groups])
        design = np.hstack(columns)
        return float(((values.ravel() - design @ np.linalg.pinv(design) @ values.ravel()) ** 2).sum())

    assert found.replicates == pytest.approx(1 - residual([(3,)]) / total, abs=1e-10)
    for axes, one in by_axes(found).items():
        below = [part for order in range(1, len(axes)) for part in combinations(axes, order)]
        squares = residual(below) - residual([*below, axes])
        crossed = [(*part, 3) for part in below]
        noise = residual([*below, axes, (3,), *crossed]) - residual([(*axes, 3)])
        freedom = int(np.prod([values.shape[axis] - 1 for axis in axes]))
        assert one.share == pytest.approx((squares - noise / 3) / total, abs=1e-10)
        epsilon = greenhouse_geisser(values, axes)
        expected = stats.f.sf(squares / (noise / 3), epsilon * freedom, epsilon * 3 * freedom)
        assert one.p_value == pytest.approx(expected, abs=1e-10)
    assert found.higher + found.replicates + found.noise + sum(one.share for one in found.effects) == pytest.approx(1)


def greenhouse_geisser(values: NDArray[Any], axes: tuple[int, ...]) -> float:
    """From the covariance of orthonormal contrasts of the effect, as textbooks have it."""
    others = tuple(axis for axis in range(values.ndim - 1) if axis not in axes)
    cells = values.mean(axis=others).reshape(-1, values.shape[-1])
    contrasts = np.ones((1, 1))
    for axis in axes:
        levels = values.shape[axis]
        basis = np.linalg.qr(np.eye(levels) - 1 / levels)[0][:, : levels - 1].T
        contrasts = np.kron(contrasts, basis)
    covariance = np.atleast_2d(np.cov(contrasts @ cells))
    return float(np.trace(covariance) ** 2 / (len(covariance) * np.trace(covariance @ covariance)))


@pytest.mark.slow
@pytest.mark.parametrize("replicates", [3, 4])
def test_luck_along_an_axis_is_rarely_called_an_effect(replicates: int) -> None:
    """Replicates that differ by a slope over five values, which F with its full degrees of freedom calls an effect in
    17 % of sweeps. Exact here, as the noise has one dimension; without a slope the test is conservative."""
    random, sweeps = np.random.default_rng(4), 1000
    place = np.linspace(0, 1, 5)[:, None, None]
    for slope in (1.0, 0.0):
        claims = []
        for _ in range(sweeps):
            luck = slope * random.normal(size=replicates) * place
            found = variance_shares(luck + (1e-3 if slope else 1) * random.normal(size=(5, 2, replicates)))
            claims.append(not_none(not_none(found).effects[0].p_value) < 0.05)
        assert np.mean(claims) <= 0.05 + 3 * (0.05 * 0.95 / sweeps) ** 0.5
        assert not slope or np.mean(claims) >= 0.05 - 3 * (0.05 * 0.95 / sweeps) ** 0.5


def test_two_values_are_the_paired_t_test() -> None:
    values = np.random.default_rng(1).normal(size=(2, 3, 5))
    (first, second) = values.mean(axis=1)
    assert by_axes(not_none(variance_shares(values)))[0,].p_value == pytest.approx(
        stats.ttest_rel(first, second).pvalue
    )


def test_without_an_effect_shares_are_0_on_average_and_claims_are_rare() -> None:
    """Noise, and a replicate's luck that also moves each axis: the part that a pooled error would call an effect."""
    random = np.random.default_rng(2)
    shares, claims = [], []
    for _ in range(2000):
        luck = random.normal(size=(2, 1, 4)) + random.normal(size=(1, 3, 4)) + random.normal(size=4)
        found = not_none(variance_shares(luck + 0.3 * random.normal(size=(2, 3, 4))))
        shares.append([one.share for one in found.effects])
        claims.append([not_none(one.p_value) < 0.05 for one in found.effects])
    error = np.std(shares, axis=0) / 2000**0.5
    assert (np.abs(np.mean(shares, axis=0)) < 0.02).all()  # a ratio of sums: near 0, not exactly
    assert (np.mean(shares, axis=0) < 4 * error + 0.01).all()
    error = 4 * (0.05 * 0.95 / 2000) ** 0.5
    assert np.mean(claims, axis=0)[0] == pytest.approx(0.05, abs=error)  # two values: the t-test
    assert (np.mean(claims, axis=0) <= 0.05 + error).all()


def test_a_known_effect_has_its_share() -> None:
    """a = +-1, noise of variance 1: half of the variance."""
    random = np.random.default_rng(3)
    effect = np.array([-1.0, 1.0])[:, None, None]
    found = [variance_shares(effect + random.normal(size=(2, 4, 8))) for _ in range(300)]
    assert np.mean([by_axes(not_none(one))[0,].share for one in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([not_none(one).noise for one in found]) == pytest.approx(0.5 * 56 / 64, abs=0.05)


def test_one_replicate_has_no_p_value_and_equal_values_no_shares() -> None:
    found = not_none(variance_shares(np.array([[[0.0], [1.0]], [[2.0], [3.0]]])))
    assert [(one.share, one.p_value) for one in found.effects] == [(0.8, None), (0.2, None), (0.0, None)]
    assert variance_shares(np.full((2, 2, 3), 0.1)) is None
