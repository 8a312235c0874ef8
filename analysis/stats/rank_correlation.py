"""The rank statistics of a sweep: Spearman's correlation, plain, stratified and partial; granulated Kendall.

A correlation is taken inside each replicate (a seed with its data split), and the interval is over replicates, as for
a mean. Trials of one replicate share its luck: where one split likes large batches better than another, all of its
trials say so, and neither single trials nor whole configurations are independent. An interval therefore speaks of new
seeds and splits for the sweep's own grid of configurations, not of other configurations.

Means are in analysis.stats.means, what is counted over pairs in analysis.stats.kendall. What cannot be computed (too
few points, constant values) is None, never NaN and never a warning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from analysis.stats.means import CONFIDENCE, Interval, student_t
from analysis.stats.pairs import Floats, Integers, pairs_within, ranks_within, signs
from trainables.runtime.errors import UserError

LEAST_FREE = 3  # ranks of a replicate, points less sets: fewer give so few values that no t-interval holds
SMALLEST_SQUARE = 1e-12  # below it a side is constant
ROUNDS = 100  # of taking means out in turn, which a full grid needs one of


@dataclass(frozen=True)
class Correlation:
    """A coefficient in [-1, 1] over `trials` trials of `replicates` replicates; None where it is undefined.

    `p_value`: two-sided, of no correlation, from the t-test that the interval comes from; None where there is none.
    """

    value: float | None
    interval: Interval | None
    trials: int
    replicates: int
    p_value: float | None = None


@dataclass(frozen=True)
class PerReplicate:
    """A coefficient of each replicate in [-1, 1], NaN where it is undefined; all are (n,).

    `steps`: how far neighbouring values of the coefficient lie apart. `free`: how many ranks could differ.
    """

    values: Floats
    steps: Floats
    free: Integers


@dataclass(frozen=True)
class GranulatedKendall:
    """The coefficient of each axis in [-1, 1] (None where undefined), and the mean of those defined."""

    coefficients: dict[str, float | None]
    mean: float | None


def over_replicates(
    found: PerReplicate,
    trials: int,
    *,
    scale: Literal["fisher", "linear"] = "fisher",
    confidence: float = CONFIDENCE,
    inflation: float = 1.0,
) -> Correlation:
    """The mean coefficient over replicates, with its t-interval and p-value.

        z_k = artanh r_k;   mean(z) +- t(0.975, n - 1) sqrt(f (s^2 + mean(q^2)) / n);   all of it back by tanh

    f is the `inflation` of the variance. A coefficient of few points takes few values, so each z_k is known only to its
    step: q_k = step / (1 - r_k^2) / sqrt(12), the standard deviation of rounding (Sheppard). Without it replicates that
    agree exactly would have an interval of no width. A perfect correlation is taken as half a step below 1, the middle
    of what rounds to it. `linear` leaves out artanh and tanh, for means of coefficients.

    The interval is None for a single replicate, and where no two replicates have LEAST_FREE free ranks; the value is
    the plain mean then. Replicates with fewer are left out where others have them. Sources: Fisher 1921 (z); Student
    1908; Sheppard 1898.
    """
    defined = np.isfinite(found.values)
    enough = defined & (found.free >= LEAST_FREE)
    used = enough if enough.any() else defined
    n = int(used.sum())
    if n == 0:
        return Correlation(None, None, trials, 0)
    values, steps = found.values[used], found.steps[used]
    if n == 1 or not enough.any() or not np.isfinite(inflation):
        return Correlation(float(values.mean()), None, trials, n)
    if scale == "fisher":
        values = np.clip(values, steps / 2 - 1, 1 - steps / 2)
        steps = steps / (1 - values**2)
        values = np.arctanh(values)
    centre = float(values.mean())
    error = float(np.sqrt(inflation * (values.var(ddof=1) + np.mean(steps**2) / 12) / n))
    half = student_t((1 + confidence) / 2, n) * error
    ends = centre, centre - half, centre + half
    value, low, high = (float(np.tanh(end) if scale == "fisher" else np.clip(end, -1, 1)) for end in ends)
    p = float(2 * special.stdtr(n - 1, -abs(centre) / error))
    return Correlation(value, Interval(low, high), trials, n, p)


def rank_correlation(
    x: npt.ArrayLike, y: npt.ArrayLike, replicates: npt.ArrayLike, *, strata: npt.ArrayLike | None = None
) -> Correlation:
    """Spearman's rank correlation inside replicates, plain or stratified, as a mean over replicates.

        r_k = sum_i a_i b_i / sqrt(sum_i a_i^2 sum_i b_i^2) over the points i of replicate k

    a_i = (R_i - (N + 1) / 2) / N, where R_i is the mid-rank of x_i among the N points of its replicate and stratum,
    and b_i is the same of y. With one stratum r_k is Spearman's rho of the replicate. With several it compares points
    inside a stratum only, each stratum weighted by its points, and differences between strata (another learning rate)
    do not enter. Ranks need no logarithm, so a sharpness of 0 or of 1e300 is welcome. Mean, interval and p-value:
    `over_replicates`. Points where x or y is not finite are left out.

    x, y, replicates, strata: (n,). Sources: Spearman 1904; Liu et al. 2018, Biometrics 74:595 (rank correlation
    conditional on a category).
    """
    columns, (replicate, *stratum) = known_points([x, y], [replicates, *([] if strata is None else [strata])])
    cells = cells_of(replicate, *stratum)
    a, b = (ranks_within(column, cells) for column in columns)
    return over_replicates(_correlated(a, b, replicate, cells), replicate.size)


def correlation_difference(
    x: npt.ArrayLike,
    other: npt.ArrayLike,
    y: npt.ArrayLike,
    replicates: npt.ArrayLike,
    *,
    strata: npt.ArrayLike | None = None,
) -> Correlation:
    """By how much x is more closely rank-correlated with y than `other` is, in [-2, 2], paired inside replicates.

        d_k = |r_k(x, y)| - |r_k(other, y)|;   mean(d) +- t(0.975, n - 1) sqrt((s^2 + mean(q^2)) / n)

    r_k as in `rank_correlation`, both over the points where all three are known; q_k is the step of d_k over sqrt(12).
    A sign says only how a predictor is to be read, so their sizes are compared. x, other, y, replicates, strata: (n,).
    """
    columns, (replicate, *stratum) = known_points([x, other, y], [replicates, *([] if strata is None else [strata])])
    cells = cells_of(replicate, *stratum)
    a, b, c = (ranks_within(column, cells) for column in columns)
    first, second = _correlated(a, c, replicate, cells), _correlated(b, c, replicate, cells)
    halves = PerReplicate(
        values=(np.abs(first.values) - np.abs(second.values)) / 2,  # in [-1, 1], as over_replicates takes them
        steps=np.hypot(first.steps, second.steps) / 2,
        free=first.free,
    )
    found = over_replicates(halves, replicate.size, scale="linear")
    ends = found.interval
    return replace(
        found,
        value=None if found.value is None else 2 * found.value,
        interval=None if ends is None else Interval(2 * ends.low, 2 * ends.high),
    )


def partial_rank_correlation(
    x: npt.ArrayLike, y: npt.ArrayLike, configurations: npt.ArrayLike, replicates: npt.ArrayLike
) -> Correlation:
    """The rank correlation of x and y inside replicates given the configuration, whatever its effect on both.

        r_k = sum_i e_i f_i / sqrt(sum_i e_i^2 sum_i f_i^2) over the points i of replicate k

    e are the ranks of `rank_correlation` less what least squares gives every configuration and every replicate, f the
    same of y. A configuration's mean over the replicates holds every effect of the hyperparameters, curved and
    interacting ones too; what is left differs by seed and split alone. Additive terms would not do: a learning rate
    that matters at large batches alone leaves a pattern in both sides, which repeats in every replicate.

    Trap: what is left of replicates depends on each other, since they share the means. If the noise of x and y is
    independent, r_k and r_l have a correlation of 1 / (m - 1)^2 for every configuration that they share, so that

        Var(mean r) / E(s^2 / n) = m (n - 1) / ((m - 1) (n - 1) - 1) = (n - 1) / (n - 2) where m = n

    with m replicates for each configuration. The interval's variance has this factor, and from two replicates, whose
    residuals are each other's negatives, there is none. x, y, configurations, replicates: (n,).
    """
    columns, (configuration, replicate) = known_points([x, y], [configurations, replicates])
    sizes = np.bincount(configuration)
    again = sizes[configuration] > 1
    columns = [column[again] for column in columns]
    configuration, replicate = (pd.factorize(code[again])[0] for code in (configuration, replicate))
    first = np.unique(configuration, return_index=True)[1][configuration]
    if any(np.array_equal(column, column[first]) for column in columns):
        return Correlation(None, None, replicate.size, 0)  # nothing is left of what the configuration decides
    e, f = (_without(ranks_within(column, replicate), configuration, replicate) for column in columns)
    found = _correlated(e, f, replicate, replicate)
    n, m = int(np.isfinite(found.values).sum()), float(sizes[sizes > 1].mean()) if again.any() else 0.0
    spare = (m - 1) * (n - 1) - 1
    return over_replicates(found, replicate.size, inflation=m * (n - 1) / spare if spare > 1e-9 else np.inf)


def known_points(
    columns: Sequence[npt.ArrayLike], labels: Sequence[npt.ArrayLike]
) -> tuple[list[Floats], list[Integers]]:
    """The points at which every column is finite: the columns, and the labels as integers from 0."""
    values = [np.asarray(column, dtype=np.float64) for column in columns]
    known = np.logical_and.reduce([np.isfinite(column) for column in values])
    codes = [np.asarray(pd.factorize(np.asarray(label)[known])[0], dtype=np.int64) for label in labels]
    return [column[known] for column in values], codes


def cells_of(replicate: Integers, stratum: Integers | None = None) -> Integers:
    """The sets of points that share their replicate and their stratum, as integers from 0."""
    if stratum is None:
        return replicate
    number = replicate * (int(stratum.max(initial=0)) + 1) + stratum
    return np.asarray(np.unique(number, return_inverse=True)[1], dtype=np.int64)


def free_ranks(replicate: Integers, cells: Integers, replicates: int) -> Integers:
    """Of each replicate its points less the cells that they are in: (replicates,)."""
    first = np.unique(cells, return_index=True)[1]
    return np.bincount(replicate, minlength=replicates) - np.bincount(replicate[first], minlength=replicates)


def _correlated(a: Floats, b: Floats, replicate: Integers, cells: Integers) -> PerReplicate:
    """The correlation of the ranks a and b of each replicate; cells: the sets in which they were ranked."""
    agreement, first, second = (np.bincount(replicate, product) for product in (a * b, a * a, b * b))
    sizes = np.bincount(cells)
    largest = np.zeros(agreement.size)
    np.maximum.at(largest, replicate, sizes[cells])
    varies = (first > SMALLEST_SQUARE) & (second > SMALLEST_SQUARE)
    scale = np.sqrt(np.where(varies, first * second, np.nan))
    # Two neighbouring ranks of the largest set that change places take (1 / N)^2 from the agreement.
    steps = np.minimum(1 / largest**2 / scale, 2.0)
    return PerReplicate(np.clip(agreement / scale, -1, 1), steps, free_ranks(replicate, cells, largest.size))


def _without(ranks: Floats, *labels: Integers) -> Floats:
    """What is left of the ranks when least squares has taken out an effect of every value of each label."""
    for _ in range(ROUNDS):
        before = ranks
        for label in labels:
            ranks = ranks - (np.bincount(label, ranks) / np.bincount(label))[label]
        if np.abs(ranks - before).max(initial=0.0) < SMALLEST_SQUARE:
            break
    return ranks


def granulated_kendall(
    frame: pd.DataFrame, measure: str, target: str, axes: Sequence[str], *, within: Sequence[str] = ()
) -> GranulatedKendall:
    """The granulated Kendall coefficient: does `measure` order `target` along one axis with the rest fixed?

        psi_i = 1/m_i sum over settings of all other axes of tau({(mu(theta), g(theta)) : theta_i varies})
        Psi   = 1/n sum_i psi_i

    tau is Kendall's coefficient, in the tau-b form, which equals the source's where nothing is tied. Settings
    where it is undefined (fewer than two trials, or all values of one side equal) are skipped, so the grid
    may have holes; an axis without any defined setting is None and does not enter the mean. Null is a value
    of an axis (no switch). Columns `within` are held fixed too but are no axes (seed, split_seed), so that
    every coefficient compares trials of one replicate. Trials alike in all of these enter as they are.

    Source: Jiang et al. 2020, arXiv 1912.02178, section 2.2.2 (equations for psi_i and Psi).
    """
    if isinstance(axes, str):
        raise UserError(f"`axes` must be a list of columns, got {axes!r}")
    axes, within = list(axes), list(within)
    for argument, names in {"measure": [measure], "target": [target], "axes": axes, "within": within}.items():
        for name in names:
            if name not in frame:
                raise UserError(f"`{argument}` must be in the frame, got no column {name!r}")
            if argument in ("measure", "target") and not pd.api.types.is_numeric_dtype(frame[name]):
                raise UserError(f"`{argument}` must be a column of numbers, got {name!r} of type {frame[name].dtype}")
    cells = granulated_cells(frame, measure, target, axes, within)
    coefficients = {axis: float(found["tau"].mean()) if len(found) else None for axis, found in cells.items()}
    known = [value for value in coefficients.values() if value is not None]
    return GranulatedKendall(coefficients, float(np.mean(known)) if known else None)


def granulated_cells(
    frame: pd.DataFrame, measure: str, target: str, axes: Sequence[str], within: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """The terms of `granulated_kendall`: of each axis `tau` and `pairs` of every cell where tau is defined.

    Where the frame has a column `replicate`, so do they.
    """
    rows = frame[np.isfinite(frame[measure].astype("float64")) & np.isfinite(frame[target].astype("float64"))]
    x, y = rows[measure].to_numpy(np.float64), rows[target].to_numpy(np.float64)
    found = {}
    for axis in axes:
        fixed = [name for name in (*axes, *within) if name != axis]
        cells = rows.groupby(fixed, dropna=False).ngroup() if fixed else pd.Series(0, index=rows.index)
        varies = rows[axis].groupby(cells).transform("nunique", dropna=False).to_numpy() > 1
        pairs = pairs_within(cells[varies].to_numpy())
        a, b = signs(x[varies], pairs), signs(y[varies], pairs)
        cell = cells[varies].to_numpy()[pairs[0]]
        agreement, *squares = (np.bincount(cell, product) for product in (a * b, a * a, b * b))
        scale = np.sqrt(squares[0] * squares[1])
        defined = np.flatnonzero(scale > 0)
        terms = {"tau": agreement[defined] / scale[defined], "pairs": np.bincount(cell)[defined]}
        if "replicate" in rows:
            terms["replicate"] = rows["replicate"].groupby(cells).first().loc[defined].to_numpy()
        found[axis] = pd.DataFrame(terms)
    return found
