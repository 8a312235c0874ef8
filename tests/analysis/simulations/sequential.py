"""Sequential sweeps and plans drawn from a known truth, many at once: what they claim, and how often they are right.

A study has batch sizes above the smallest with true losses, in units of the margin from 0 (nothing) to more than 1. The
loss of replicate r at batch size b is paired with the smallest batch size, which all batch sizes share:

    d_rb = loss_b + sigma (sqrt(1/2) e_r + sqrt(1/2) e_rb),    e from N(0, 1), rounded to `step` where there is one

Every look judges the batch sizes that are undecided, by the levels of analysis/stats/group_sequential.py; the
statement about one study is the same as that of analysis/questions/sequential.py, which a test compares.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from analysis.stats.group_sequential import ALPHA, levels_of_plan
from analysis.stats.power import power, replicates_for, upper_limit_of_deviation

MARGIN = 1.0


@dataclass(frozen=True)
class Study:
    """The looks, the true losses in margins, and sigma in margins; `step`: of the resolution of a loss."""

    name: str
    looks: tuple[int, ...]
    losses: tuple[float, ...] = (1.0,)
    sigma: float = 1.0
    step: float = 0.0


def drawn(study: Study, random: np.random.Generator, number: int) -> Any:
    """Losses of (number, cap, batch sizes)."""
    cap, sizes = study.looks[-1], len(study.losses)
    shared = random.standard_normal((number, cap, 1))
    own = random.standard_normal((number, cap, sizes))
    found = np.array(study.losses) + study.sigma * (shared + own) / np.sqrt(2)
    return np.round(found / study.step) * study.step if study.step else found


def judged(study: Study, losses: Any) -> tuple[Any, Any]:
    """What is claimed of each batch size, 1 free, -1 not free, 0 undecided; and after how many replicates."""
    levels = levels_of_plan(study.looks)
    claims = np.zeros((len(losses), len(study.losses)), dtype=np.int64)
    used = np.full(claims.shape, study.looks[-1])
    for count, level in zip(study.looks, levels, strict=True):
        seen = losses[:, :count]
        spread = np.maximum(seen.std(axis=1, ddof=1), study.step / 2)
        half = -special.stdtrit(count - 1, level) * spread / np.sqrt(count)
        mean = seen.mean(axis=1)
        new = np.where(mean + half < MARGIN, 1, np.where(mean - half > MARGIN, -1, 0)) * (claims == 0)
        used = np.where(new != 0, count, used)
        claims = claims + new
    return claims, used


@dataclass(frozen=True)
class Errors:
    """Shares of studies. `free`, `not_free`: a wrong claim about the first batch size; `free_up_to`, `not_free_from`: a
    wrong one about any, in their fixed order; `answered`: the right claim about the first; `replicates`: of the first.
    """

    free: float
    not_free: float
    free_up_to: float
    not_free_from: float
    answered: float
    replicates: float

    @property
    def any(self) -> float:
        """Either wrong claim about any batch size."""
        return self.free_up_to + self.not_free_from


def errors(study: Study, random: np.random.Generator, number: int) -> Errors:
    """The shares in `number` studies, drawn 10 000 at a time."""
    parts, sizes = [], []
    for first in range(0, number, 10_000):
        sizes.append(min(10_000, number - first))
        claims, used = judged(study, drawn(study, random, sizes[-1]))
        losses = np.array(study.losses)
        harmful, harmless = losses >= MARGIN, losses <= MARGIN
        up_to = np.cumprod(claims == 1, axis=1) == 1
        downwards = np.cumprod(claims[:, ::-1] == -1, axis=1)[:, ::-1] == 1
        right = 1 if losses[0] < MARGIN else -1
        parts.append(
            [
                (claims[:, 0] == 1).mean() * harmful[0],
                (claims[:, 0] == -1).mean() * harmless[0],
                (up_to & harmful).any(axis=1).mean(),
                (downwards & harmless).any(axis=1).mean(),
                (claims[:, 0] == right).mean(),
                used[:, 0].mean(),
            ]
        )
    return Errors(*np.average(parts, axis=0, weights=sizes).tolist())


def fixed_power(count: int, effect: float, random: np.random.Generator, number: int) -> float:
    """How often one look after `count` replicates calls a batch size without a loss free; `effect`: margin / sigma."""
    losses = random.standard_normal((number, count)) / effect
    half = -special.stdtrit(count - 1, ALPHA) * losses.std(axis=1, ddof=1) / np.sqrt(count)
    return float((losses.mean(axis=1) + half < MARGIN).mean())


def plans(pilot: int, effect: float, wanted: float, random: np.random.Generator, number: int) -> dict[str, Any]:
    """The true power of plans made from pilots of so many replicates, by the number that is taken."""
    deviations = np.sqrt(random.chisquare(pilot - 1, number) / (pilot - 1)) / effect
    found: dict[str, list[float]] = {"plug-in": [], "safe": []}
    for deviation in deviations.tolist():
        safe = upper_limit_of_deviation(deviation, pilot)
        for name, sigma in (("plug-in", deviation), ("safe", safe)):
            count = replicates_for(MARGIN / sigma, wanted)
            assert count is not None
            found[name].append(power(count, effect))
    return {name: np.array(values) for name, values in found.items()}
