"""The trials of sharpness_intervention.py: plain training, interventions that change sharpness, and the placebo."""

from typing import TYPE_CHECKING, Any

from sweeps.studies.two_batches import LEARNING_RATE, TwoBatches
from trainables.runtime.errors import UserError

if TYPE_CHECKING:
    from trainables.config import TrialConfig


def plan(study: TwoBatches) -> "list[TrialConfig]":
    """Every arm at both batch sizes, with every seed.

    Raises UserError where the seeds are too few for an answer, or no arm differs from plain training.
    """
    from analysis.stats.mediation import LEAST_REPLICATES  # SciPy, once the options are right

    options, sizes, rate = study.options, (study.small, study.large), study.options.learning_rate
    if len(options.seeds) < LEAST_REPLICATES:
        raise UserError(f"`--seeds` must be {LEAST_REPLICATES} or more, which intervals need, got {len(options.seeds)}")
    rate, common = rate or LEARNING_RATE[options.scale], {"measures": options.measures, "shifts": options.shifts}
    doses = (options.sam_radii, options.asam_radii, options.rate_factors, options.weight_decays)
    radii, adaptive_radii, factors, strengths = ([dose for dose in of if dose is not None] for of in doses)
    plain = study.trials(*sizes, **common)
    remedies: list[dict[str, Any]] = [{"sam_radius": radius} for radius in radii]
    remedies += [{"sam_radius": radius, "sam_adaptive": True} for radius in adaptive_radii]
    trials = study.trials(*sizes, remedies=[{}, *remedies], **common)
    for factor in factors:
        trials += study.trials(*sizes, learning_rates=[rate * factor], **common)
    for strength in strengths:
        trials += study.trials(*sizes, weight_decay=strength, **common)
    if {trial.trial_id for trial in trials} == {trial.trial_id for trial in plain}:
        raise UserError(
            "`--sam-radii`, --asam-radii, --rate-factors or --weight-decays must have a value other than plain "
            "training's, got none"
        )
    for factor in options.rescalings:
        trials += study.trials(*sizes, rescaling=None if factor is None else float(factor), **common)
    return list({trial.trial_id: trial for trial in trials}.values())
