"""What is said of the association of sharpness and the gap: the correlations' intervals, and that there is one."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.load import BOX_STRONG, Sweep
from analysis.questions.association import GAP, beyond_hyperparameters, compared, matched_correlation
from analysis.stats.kendall import SignError, granulated_correlation, kendall_correlation, sign_error
from analysis.stats.multiplicity import corrected
from analysis.stats.rank_correlation import Correlation, rank_correlation
from simulations import Design, Statement, drawn, references, simulated

REPLICATES = 3000  # that the truth of a design is taken from
NOISE_MEASURES = 20  # beside the sweep's own, on the leaderboard
AXES = ("batch_size", "learning_rate", "warmup_epochs", "switch_epoch")

PLAIN = Design(name="default grid, 4 replicates", gap=0.008, luck=0.002)
ONE_SETTING: dict[str, Any] = {"learning_rates": (0.01,), "warmups": (0.0,), "switches": (None,)}
SHAPES = (
    PLAIN,
    *(replace(PLAIN, name=f"replicates differ by {100 * luck:g} points", luck=luck) for luck in (0.0, 0.004)),
    *(replace(PLAIN, name=f"{n} replicates", replicates=n) for n in (3, 6, 8)),
    replace(PLAIN, name="one setting of five batch sizes", **ONE_SETTING),
    replace(PLAIN, name="two settings", warmups=(0.0,), switches=(None,)),
    replace(PLAIN, name="twelve settings", learning_rates=(0.001, 0.003, 0.01, 0.03), warmups=(0.0, 2.0, 5.0)),
    replace(PLAIN, name="ties: 100 test images", test_size=100),
    replace(PLAIN, name="15 % of the trials missing", missing=0.15),
    replace(PLAIN, name="20 % of the trials off target", off_target=0.2),
    replace(PLAIN, name="learning rate x batch size", gap=0.003, interaction=0.01),
)
LUCKY = tuple(
    replace(one, name=f"{one.replicates} replicates that differ by 0.4 points", luck=0.004) for one in SHAPES[3:6]
)
NULL = tuple(replace(one, name=f"no gap; {one.name}", gap=0.0) for one in (*SHAPES[:-1], *LUCKY))
SOME, STARRED = SHAPES[:6], (*NULL[:7], *NULL[9:11])  # of statements that take a while
BEYOND = tuple(replace(SHAPES[-1], name=f"learning rate x batch size, {n} replicates", replicates=n) for n in (3, 6, 8))
ASSOCIATED = tuple(
    replace(PLAIN, name=f"association inside cells, {n} replicates", replicates=n, association=0.5) for n in (3, 4, 8)
)


Of = Callable[[pd.DataFrame], Correlation]


def matched(frame: pd.DataFrame) -> Correlation:
    return matched_correlation(frame, BOX_STRONG.column)


def tau(frame: pd.DataFrame) -> Correlation:
    columns = (frame[name] for name in (BOX_STRONG.column, GAP, "replicate"))
    return kendall_correlation(*columns, strata=frame["matched_set"])


def pooled(frame: pd.DataFrame) -> Correlation:
    rows = frame[~frame["is_reference"]]
    return rank_correlation(rows[BOX_STRONG.column], rows[GAP], rows["replicate"])


def beyond(frame: pd.DataFrame) -> Correlation:
    return beyond_hyperparameters(frame, [BOX_STRONG.column])[0]


def psi(frame: pd.DataFrame) -> Correlation:
    return granulated_correlation(frame, BOX_STRONG.column, "test_error", AXES, within=("replicate",))


def sign_errors(frame: pd.DataFrame) -> SignError:
    return sign_error(frame, BOX_STRONG.column, "test_error", AXES, within=("replicate",))


@lru_cache(maxsize=64)
def population(design: Design) -> pd.DataFrame:
    """Many replicates of the design, with the columns of `comparable` that the statistics need."""
    accuracy, sharpness, off_target = drawn(design, np.random.default_rng(2**32), REPLICATES)
    names = ["batch_size", "learning_rate", "warmup_epochs", "switch_epoch", "remedy"]
    grid = pd.DataFrame(design.cells, columns=names).assign(configuration=range(len(design.cells)))
    frame = pd.concat([grid] * REPLICATES, ignore_index=True)
    smallest = frame["batch_size"] == frame["batch_size"].min()
    frame = frame.assign(
        replicate=np.repeat(np.arange(REPLICATES), len(grid)),
        is_reference=smallest & frame["switch_epoch"].isna(),
        box_sharpness=sharpness.ravel(),
        test_error=1 - accuracy.ravel(),
        large_batch_gap=(accuracy[:, references(design)] - accuracy).ravel(),
    )
    frame["matched_set"] = frame.groupby(["replicate", "learning_rate", "warmup_epochs"]).ngroup()
    return frame[~off_target.ravel()]


@lru_cache(maxsize=256)
def truth(design: Design, of: Of) -> float | None:
    """The mean over the population: tanh of the mean z of its replicates, or the mean coefficient."""
    return of(population(design)).value


@lru_cache(maxsize=64)
def true_sign_errors(design: Design) -> dict[tuple[str, tuple[object, ...]], float]:
    return {(one.axis, one.values): one.sign_error for one in sign_errors(population(design)).environments}


@lru_cache(maxsize=64)
def _whole(design: Design) -> pd.DataFrame:
    """The compared trials of the design if none were missing: what does not depend on the draw, once for all runs."""
    return compared(simulated(replace(design, missing=0.0, off_target=0.0), np.random.default_rng(0)))


@lru_cache(maxsize=1)
def _on_target(sweep: Sweep, design: Design) -> pd.DataFrame:
    frame = _whole(design)
    trials = sweep.trials.set_index("trial_id").loc[frame["trial_id"]].set_index(frame.index)
    columns = {name: trials[name] for name in ("test_accuracy", GAP, BOX_STRONG.column)}
    frame = frame.assign(**columns, test_error=1 - trials["test_accuracy"])
    return frame[(trials["status"] == "completed") & (trials["flags"].str.len() == 0)]


def _covers(sweep: Sweep, design: Design, of: Of) -> bool | None:
    interval, true = of(_on_target(sweep, design)).interval, truth(design, of)
    return None if interval is None or true is None else interval.holds(true)


def _claims_nothing(sweep: Sweep, design: Design, of: Of) -> bool | None:
    interval = of(_on_target(sweep, design)).interval
    return None if interval is None else interval.holds(0)


def _covers_the_worst(sweep: Sweep, design: Design) -> bool | None:
    worst = sign_errors(_on_target(sweep, design)).worst
    if worst is None or worst.interval is None:
        return None
    return worst.interval.holds(true_sign_errors(design)[worst.axis, worst.values])


def _stars_nothing(sweep: Sweep, design: Design) -> bool:
    """The p column of a leaderboard on which noise measures stand beside the sharpness and the batch size."""
    frame = _on_target(sweep, design)
    random = np.random.default_rng(zlib.crc32(frame["test_accuracy"].to_numpy().tobytes()))
    noise = random.normal(size=(NOISE_MEASURES, len(frame)))
    noise[::2] += random.normal(size=(NOISE_MEASURES // 2, frame["configuration"].max() + 1))[:, frame["configuration"]]
    rows = frame.assign(**{f"noise {number}": values for number, values in enumerate(noise)})
    columns = [BOX_STRONG.column, "batch_size", *(f"noise {number}" for number in range(NOISE_MEASURES))]
    p_values = corrected([matched_correlation(rows, column).p_value for column in columns])
    return all(p is None or p >= 0.05 for p in p_values)


def _coverage(name: str, of: Of, designs: tuple[Design, ...] = SHAPES) -> Statement:
    return Statement(name, "correlation", "coverage", designs, partial(_covers, of=of))


def _claim(name: str, of: Of, designs: tuple[Design, ...] = NULL) -> Statement:
    return Statement(name, "correlation", "false positive", designs, partial(_claims_nothing, of=of))


STATEMENTS = (
    _coverage("matched", matched),
    _coverage("tau", tau),
    _coverage("pooled", pooled),
    _coverage("psi", psi, SOME),
    Statement("worst sign error", "correlation", "coverage", SOME, _covers_the_worst),
    _claim("no matched association", matched),
    _claim("no pooled association", pooled),
    Statement("no star on the leaderboard", "correlation", "false positive", STARRED, _stars_nothing),
    _claim("nothing beyond the hyperparameters", beyond, (*SHAPES, *BEYOND)),
    _coverage("beyond the hyperparameters", beyond, ASSOCIATED),
)
