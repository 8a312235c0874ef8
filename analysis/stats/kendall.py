"""What is counted over pairs of trials: Kendall's coefficient, also at matched training loss, and the sign error.

A coefficient over pairs can leave out the pairs that may not be compared. At matched training loss those are the pairs
whose losses lie further apart than a window. A window, not bins: trials that were stopped at a target loss crowd just
below it, and a bin's edge would part the closest pairs of all while it joins others that lie a whole bin apart.

All of them are taken inside each replicate, and their intervals are over replicates (analysis.stats.rank_correlation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.stats.means import CONFIDENCE, Interval
from analysis.stats.pairs import pairs_within, signs
from analysis.stats.rank_correlation import (
    Correlation,
    PerReplicate,
    cells_of,
    free_ranks,
    granulated_cells,
    known_points,
    over_replicates,
)

LEAST_PAIRS = 12  # of an environment, for it to count: the least effective sample size of the source


def kendall_correlation(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    replicates: npt.ArrayLike,
    *,
    strata: npt.ArrayLike | None = None,
    window: tuple[npt.ArrayLike, float] | None = None,
) -> Correlation:
    """Kendall's rank correlation inside replicates over the pairs that may be compared, as a mean over replicates.

        tau_k = sum_ij s_ij t_ij / sqrt(sum_ij s_ij^2 sum_ij t_ij^2),   s_ij = sign(x_i - x_j), t_ij = sign(y_i - y_j)

    over the pairs of replicate k inside one stratum, and with `window` = (values, width) only those with
    |v_i - v_j| <= width. Over all pairs it is tau-b. Mean, interval and p-value: `over_replicates`. Points that are not
    finite are left out.

    Trap: pairs inside a window do not chain: i may be compared with j, and j with k, but not i with k.
    x, y, replicates, strata, values: (n,). Sources: Kendall 1945 (tau-b); the loss window is this project's.
    """
    labels = [replicates, *([] if strata is None else [strata])]
    (xs, ys, *others), (replicate, *stratum) = known_points([x, y, *([] if window is None else [window[0]])], labels)
    cells = cells_of(replicate, *stratum)
    pairs = pairs_within(cells)
    if window is not None:
        near = np.abs(others[0][pairs[0]] - others[0][pairs[1]]) <= window[1]
        pairs = pairs[0][near], pairs[1][near]
    a, b, own = signs(xs, pairs), signs(ys, pairs), replicate[pairs[0]]
    n = int(replicate.max(initial=-1)) + 1
    agreement, first, second = (np.bincount(own, product, n) for product in (a * b, a * a, b * b))
    scale = np.sqrt(np.where(first * second > 0, first * second, np.nan))
    compared = np.unique(np.concatenate(pairs))
    free = free_ranks(replicate[compared], cells[compared], n)
    return over_replicates(PerReplicate(agreement / scale, 2 / scale, free), xs.size)


def granulated_correlation(
    frame: pd.DataFrame, measure: str, target: str, axes: Sequence[str], *, within: Sequence[str] = ()
) -> Correlation:
    """The mean granulated Kendall coefficient Psi of each replicate (column `replicate`), as a mean over replicates.

    `within` holds the columns of the replicate; the rest is as in `granulated_kendall`. Where every replicate has all
    trials, the value is its `mean`. Interval and p-value: `over_replicates`, linear.
    """
    cells = granulated_cells(frame, measure, target, axes, within)
    terms = pd.concat([found.assign(axis=axis) for axis, found in cells.items()] or [pd.DataFrame()])
    if terms.empty:
        return Correlation(None, None, len(frame), 0)
    by_axis = terms.groupby(["replicate", "axis"])["tau"].mean()
    pairs = terms.groupby("replicate")["pairs"].sum().to_numpy()
    psi = by_axis.groupby("replicate").mean().to_numpy()
    return over_replicates(PerReplicate(psi, 2 / pairs, pairs), len(frame), scale="linear")


@dataclass(frozen=True)
class Environment:
    """The pairs of trials that differ in one hyperparameter, `axis`, alone, by these two values.

    `interval` holds for all environments of a measure at once, so that it holds for the worst of them too.
    """

    axis: str
    values: tuple[Any, Any]
    pairs: int
    sign_error: float
    interval: Interval | None


@dataclass(frozen=True)
class SignError:
    """The share of pairs ordered the wrong way, 0 best and 0.5 a coin: in the worst environment, and on average over
    environments, with a 95 % interval each. None where no environment has enough pairs."""

    worst: Environment | None
    mean: float | None
    mean_interval: Interval | None
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
    (the replicate). A tie counts one half. The mean is that of the replicates' means, so that each counts alike.
    Environments of fewer than `least_pairs` pairs are left out. Intervals: `over_replicates`, linear; those of the m
    environments at 1 - 0.05 / m (Bonferroni), since the worst is chosen after seeing them all.

    Traps: the worst of many noisy environments is worse than 0.5 by chance alone, the more so the smaller they are, so
    read it with its interval and beside the mean. The source takes single pairs of configurations as environments and
    weighs their pairs by how sure the difference of test errors is; with a handful of seeds nothing would be left, so
    here the settings of the other axes are pooled and all pairs count alike.

    Source: Dziugaite et al. 2020, arXiv 2010.11924, section 3.
    """
    rows = frame[np.isfinite(frame[measure].astype("float64")) & np.isfinite(frame[target].astype("float64"))]
    x, y = rows[measure].to_numpy(np.float64), rows[target].to_numpy(np.float64)
    replicate = _numbered(rows, within)
    kept: list[tuple[str, tuple[Any, Any], npt.NDArray[Any], npt.NDArray[Any]]] = []
    for axis in axes:
        cells = _numbered(rows, [name for name in (*axes, *within) if name != axis])
        level, values = pd.factorize(rows[axis], sort=True, use_na_sentinel=False)
        first, second = pairs_within(cells)
        differ = level[first] != level[second]
        pairs = first[differ], second[differ]
        ends = np.sort(np.stack([level[pairs[0]], level[pairs[1]]]), axis=0)
        environment, own = ends[0] * len(values) + ends[1], replicate[pairs[0]]
        agreement = signs(x, pairs) * signs(y, pairs)
        for place in np.flatnonzero(np.bincount(environment) >= max(1, least_pairs)):
            low, high = (_plain(values[end]) for end in divmod(int(place), len(values)))
            same = environment == place
            sizes = np.bincount(own[same], minlength=replicate.max() + 1)
            kept.append((axis, (low, high), np.bincount(own[same], agreement[same], sizes.size), sizes))
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(kept))
    found = []
    for axis, between, agreed, sizes in kept:
        error, interval = _sign_error([agreed], [sizes], confidence)
        found.append(Environment(axis, between, int(sizes.sum()), error, interval))
    if not found:
        return SignError(None, None, None, ())
    worst = max(found, key=lambda environment: environment.sign_error)
    mean, interval = _sign_error([agreed for *_, agreed, _ in kept], [sizes for *_, sizes in kept], CONFIDENCE)
    return SignError(worst, mean, interval, tuple(found))


def _sign_error(agreed: Sequence[Any], sizes: Sequence[Any], confidence: float) -> tuple[float, Interval | None]:
    """(1 - mean) / 2 of what environments agree in, over replicates; agreed, sizes: (replicates,) of each of them."""
    pairs = np.stack(sizes)
    known = np.where(pairs > 0, pairs, 1)
    shares = np.where(pairs > 0, np.stack(agreed) / known, np.nan)
    environments = np.sum(pairs > 0, axis=0)
    means = np.where(environments > 0, np.nansum(shares, axis=0) / np.maximum(environments, 1), np.nan)
    whole = pairs.sum(axis=0)
    found = over_replicates(
        PerReplicate(means, 2 / np.maximum(whole, 1), whole), int(whole.sum()), scale="linear", confidence=confidence
    )
    assert found.value is not None
    ends = found.interval and Interval((1 - found.interval.high) / 2, (1 - found.interval.low) / 2)
    return (1 - found.value) / 2, ends


def _numbered(rows: pd.DataFrame, columns: Sequence[str]) -> npt.NDArray[np.int64]:
    """A number for each distinct row of `columns`, null being a value like any other; 0 where there are no columns."""
    numbers = rows.groupby(list(columns), dropna=False).ngroup() if columns else np.zeros(len(rows))
    return np.asarray(numbers, dtype=np.int64)


def _plain(value: Any) -> Any:
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value
