"""Experiments on sharpness drawn from a known truth, for analysis/stats/mediation.py.

    M_sba = block_s + [b = 1] + effect_a + 0.15 u + 0.1 e                                 the measure, log10
    Y_sba = block'_s + (1 - share) [b = 1] + share M_sba + other_a + c u + 0.15 e'        the loss, points

The large batch is ten times as sharp. The gap is 1 point, of which `share` goes through M. u is an unmeasured cause of
both, which makes their association misleading; c is its `confounding`. `violation`: learning rates change Y in another
way too, by so much per unit of M. tests/analysis/stats/test_mediation.py tests the statements with few runs,
benchmarks/mediation.py with many.
"""

from dataclasses import dataclass, field

import numpy as np

from analysis.stats.mediation import Experiment, Mediation, mediation

KINDS = ("", "SAM", "SAM", "ASAM", "ASAM", "learning rate", "learning rate", "weight decay", "weight decay")
EFFECTS = np.array([0, -0.3, -0.6, -0.3, -0.6, -0.25, 0.25, 0.15, 0.3])


@dataclass(frozen=True)
class Truth:
    """What an experiment is drawn from; `strength` scales what the interventions do to the measure."""

    share: float
    replicates: int = 8
    strength: float = 1.0
    violation: float = 0.0
    confounding: float = 0.3


@dataclass
class Held:
    """How often in so many `runs` the interval of the share was `given`, and `held` the truth; the same of the mediated
    effect in points; how often kinds of intervention were said to `disagree`; the mean share by association; the F of
    each run (`strengths`).
    """

    runs: int = 0
    given: int = 0
    held: int = 0
    mediated_given: int = 0
    mediated_held: int = 0
    disagree: int = 0
    association: float = 0.0
    strengths: list[float] = field(default_factory=list)

    def add(self, truth: Truth, run: int) -> None:
        experiment = drawn(truth, run)
        found: Mediation = mediation(experiment, rhos=())
        self.runs += 1
        self.strengths.append(found.strength)
        self.disagree += found.agreement is not None and found.agreement < 0.05
        self.association += (association(experiment) - self.association) / self.runs
        if found.share is not None and found.share.interval is not None:
            self.given += 1
            self.held += found.share.interval.holds(truth.share)
        if found.mediated is not None and found.mediated.interval is not None:
            self.mediated_given += 1
            self.mediated_held += found.mediated.interval.holds(truth.share)


def drawn(truth: Truth, run: int) -> Experiment:
    """One experiment, by the seed `run`."""
    random = np.random.default_rng(run)
    shape = truth.replicates, 2, len(KINDS)
    effects = truth.strength * EFFECTS
    cause = random.normal(size=shape)
    large = np.array([0.0, 1.0])[:, None]
    blocks = random.normal(size=(2, truth.replicates, 1, 1))
    measure = 0.2 * blocks[0] + large + effects + 0.15 * cause + 0.1 * random.normal(size=shape)
    other = truth.violation * effects * np.array([kind == "learning rate" for kind in KINDS])
    outcome = blocks[1] + (1 - truth.share) * large + truth.share * measure + other
    outcome = outcome + truth.confounding * cause + 0.15 * random.normal(size=shape)
    return Experiment(measure, outcome, np.ones((2, len(KINDS)), dtype=bool), KINDS)


def association(experiment: Experiment) -> float:
    """The share by the usual regression, without interventions: Y on M and batch size among plain trials, in blocks."""
    measure, outcome = (part[:, :, 0] for part in (experiment.measure, experiment.outcome))
    m, y = measure[:, 1] - measure[:, 0], outcome[:, 1] - outcome[:, 0]
    slope = float((m - m.mean()) @ (y - y.mean()) / ((m - m.mean()) @ (m - m.mean())))
    return slope * experiment.change / experiment.total
