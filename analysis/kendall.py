"""What is counted over pairs of trials: Kendall's coefficient, also at matched training loss, and the sign error.

A coefficient over pairs can leave out the pairs that may not be compared. At matched training loss those are the pairs
whose losses lie further apart than a window. A window, not bins: trials that were stopped at a target loss crowd just
below it, and a bin's edge would part the closest pairs of all while it joins others that lie a whole bin apart.

The bootstrap is quick because the coefficient is a ratio of quadratic forms in how often each group was drawn: pairs
are summed up by groups once, and a resample costs a product of vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from analysis.pairs import Floats, Integers, pairs_within, signs
from analysis.statistics import LEAST_POINTS, RESAMPLES, Correlation, bootstrapped, codes

LEAST_PAIRS = 12  # of an environment, for it to count: the least effective sample size of the source
DENSE = 0.02  # the share of pairs of groups that are compared, above which a full matrix is quicker


def kendall_correlation(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    strata: npt.ArrayLike | None = None,
    window: tuple[npt.ArrayLike, float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Correlation:
    """Kendall's rank correlation over the pairs that may be compared, with a cluster bootstrap interval.

        tau = sum_ij s_ij t_ij / sqrt(sum_ij s_ij^2 sum_ij t_ij^2),   s_ij = sign(x_i - x_j), t_ij = sign(y_i - y_j)

    over the pairs inside one stratum, and with `window` = (values, width) only those with |v_i - v_j| <= width. Over
    all pairs it is tau-b. Interval and p-value as `rank_correlation`, and points that are not finite are left out too.

    Trap: pairs inside a window do not chain: i may be compared with j, and j with k, but not i with k.
    x, y, groups, strata, values: (n,). Sources: Kendall 1945 (tau-b); the loss window is this project's.
    """
    columns = [np.asarray(column, dtype=np.float64) for column in (x, y, *([] if window is None else [window[0]]))]
    known = np.logical_and.reduce([np.isfinite(column) for column in columns])
    xs, ys, *others = (column[known] for column in columns)
    group_codes = codes(groups, known)
    number = int(group_codes.max(initial=-1)) + 1
    if xs.size < LEAST_POINTS:
        return Correlation(None, None, xs.size, number)
    pairs = pairs_within(np.zeros(xs.size, dtype=np.int64) if strata is None else codes(strata, known))
    if window is not None:
        near = np.abs(others[0][pairs[0]] - others[0][pairs[1]]) <= window[1]
        pairs = pairs[0][near], pairs[1][near]
    a, b = signs(xs, pairs), signs(ys, pairs)
    forms = [_by_groups(product, pairs, group_codes, number) for product in (a * b, a * a, b * b)]

    def statistic(counts: Integers) -> Floats:
        weights = counts.astype(np.float64)
        agreement, first, second = (np.einsum("bg,bg->b", np.asarray(weights @ form), weights) for form in forms)
        scale = np.sqrt(first * second)
        found = np.full(len(counts), np.nan)
        np.divide(agreement, scale, out=found, where=scale > 0)
        return found[None]

    return bootstrapped(statistic, number, number, resamples, seed, trials=xs.size)[0]


@dataclass(frozen=True)
class Environment:
    """The pairs of trials that differ in one hyperparameter, `axis`, alone, by these two values."""

    axis: str
    values: tuple[Any, Any]
    pairs: int
    sign_error: float


@dataclass(frozen=True)
class SignError:
    """The share of pairs ordered the wrong way, 0 best and 0.5 a coin: in the worst environment, and on average over
    environments. Both are None where no environment has enough pairs."""

    worst: Environment | None
    mean: float | None
    environments: tuple[Environment, ...]


def sign_error(
    frame: pd.DataFrame,
    measure: str,
    target: str,
    axes: Sequence[str],
    *,
    within: Sequence[str] = (),
    least_pairs: int = LEAST_PAIRS,
) -> SignError:
    """In how many pairs does `measure` name the wrong one of two trials that differ in one hyperparameter?

        SE(e) = mean over the pairs of e of (1 - sign(mu - mu') sign(g - g')) / 2,   robust error = max over e of SE(e)

    An environment e is an axis and two of its values: its pairs agree in all other axes and in the columns `within`
    (the replicate). A tie counts one half. Environments of fewer than `least_pairs` pairs are left out.

    Traps: the worst of many noisy environments is worse than 0.5 by chance alone, the more so the smaller they are, so
    read it beside the mean and its number of pairs. The source takes single pairs of configurations as environments
    and weighs their pairs by how sure the difference of test errors is; with a handful of seeds nothing would be left,
    so here the settings of the other axes are pooled and all pairs count alike.

    Source: Dziugaite et al. 2020, arXiv 2010.11924, section 3.
    """
    rows = frame[np.isfinite(frame[measure].astype("float64")) & np.isfinite(frame[target].astype("float64"))]
    x, y = rows[measure].to_numpy(np.float64), rows[target].to_numpy(np.float64)
    found = []
    for axis in axes:
        fixed = [name for name in (*axes, *within) if name != axis]
        cells = rows.groupby(fixed, dropna=False).ngroup().to_numpy() if fixed else np.zeros(len(rows), dtype=np.int64)
        level, values = pd.factorize(rows[axis], sort=True, use_na_sentinel=False)
        first, second = pairs_within(cells)
        differ = level[first] != level[second]
        pairs = first[differ], second[differ]
        ends = np.sort(np.stack([level[pairs[0]], level[pairs[1]]]), axis=0)
        environment = ends[0] * len(values) + ends[1]
        errors = (1 - signs(x, pairs) * signs(y, pairs)) / 2
        sizes = np.bincount(environment)
        wrong = np.bincount(environment, errors)
        for place in np.flatnonzero(sizes >= max(1, least_pairs)):
            low, high = (_plain(values[end]) for end in divmod(int(place), len(values)))
            found.append(Environment(axis, (low, high), int(sizes[place]), float(wrong[place] / sizes[place])))
    if not found:
        return SignError(None, None, ())
    worst = max(found, key=lambda environment: environment.sign_error)
    return SignError(worst, float(np.mean([environment.sign_error for environment in found])), tuple(found))


def _by_groups(products: npt.NDArray[Any], pairs: tuple[Integers, Integers], groups: Integers, number: int) -> Any:
    """The sum of the pairs' products for each pair of groups: a matrix, sparse unless most pairs are compared."""
    summed = sparse.coo_array((products, (groups[pairs[0]], groups[pairs[1]])), shape=(number, number)).tocsr()
    return summed.toarray() if summed.nnz > DENSE * number**2 else summed


def _plain(value: Any) -> Any:
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value
