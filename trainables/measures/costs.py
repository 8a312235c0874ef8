"""What each measure costs, in gradients of the loss on the measured examples.

A loss counts as a third of a gradient, a Hessian-vector product as two. These are typical costs for a trained network:
a search goes on until it has converged, and may take several times as many.

The default number of examples (`default_examples`) follows from them, so that measuring is in proportion to training:

    examples = SHARE * epochs * train_size / (gradients of DEFAULT_MEASURES), at least LEAST_EXAMPLES

It is counted, not timed, so every machine measures the same examples. It does not depend on the measures asked for, so
a measure that is added later sees the same examples as the others. Nothing here needs PyTorch, which the driver of a
sweep does without.
"""

from collections.abc import Collection

from trainables.config import DEFAULT_MEASURES, TrialConfig
from trainables.runtime.errors import UserError, did_you_mean

GRADIENTS = {
    "box_sharpness": 120,
    "box_sharpness_unit_subspace": 120,
    "box_sharpness_gaussian_subspace": 120,
    "hessian_max_eig": 40,
    "hessian_min_eig": 100,
    "hessian_top_eigs": 60,
    "hessian_trace": 80,
    "hessian_frobenius": 80,
    "spectral_density": 360,
    "layer_max_eig": 100,
    "layer_trace": 250,
    "gauss_newton_max_eig": 40,
    "gauss_newton_trace": 80,
    "gaussian_sharpness": 25,
    "adaptive_gaussian_sharpness": 25,
    "sphere_sharpness": 25,
    "random_box_sharpness": 25,
    "adaptive_random_box_sharpness": 25,
    "filter_normalized_sharpness": 35,
    "pac_bayes_width": 90,
    "adaptive_pac_bayes_width": 90,
    "l2_ball_sharpness": 40,
    "adaptive_l2_ball_sharpness": 40,
    "linf_ball_sharpness": 40,
    "adaptive_linf_ball_sharpness": 40,
    "logit_normalized_l2_ball_sharpness": 40,
    "logit_normalized_linf_ball_sharpness": 40,
    "m_sharpness": 40,
    "adaptive_m_sharpness": 40,
    "relative_flatness": 80,
    "local_entropy": 90,
    "adaptive_local_entropy": 90,
    "laplace_log_evidence": 360,
    "gradient_noise_scale": 20,
    "curvature_noise_scale": 70,
    "sgd_noise_scale": 0,
    "stability": 60,
    "batch_sharpness": 130,
    "minibatch_stability": 270,
}

SHARE = 0.25  # of the training's gradients
LEAST_EXAMPLES = 512
MOST_NAMES = 5  # in a line
EPOCHS_TO_TARGET = 50  # that a trial with a target loss is assumed to train at most: its `epochs` are a cap


def gradients(measures: str) -> int:
    """What `TrialConfig.measures` cost together, in gradients of the loss on the measured examples."""
    return sum(GRADIENTS[name] for name in measures.split(",") if name)


def default_examples(train_size: int, epochs: float, target: float | None) -> int:
    """How many training examples the measures see where it is not said; see above."""
    trained = epochs if target is None else min(epochs, EPOCHS_TO_TARGET)
    within = int(SHARE * trained * train_size / gradients(",".join(DEFAULT_MEASURES)))
    return min(train_size, max(LEAST_EXAMPLES, within))


def cost_line(config: TrialConfig) -> str:
    """Return in one line what a trial's measures cost, beside its training; "" where nothing is measured.

    In a short run LEAST_EXAMPLES cost more than SHARE; the line says so where they cost more than the training.
    """
    if not config.measures:
        return ""
    epochs = gradients(config.measures) * config.measure_examples / config.train_size
    often = "" if config.measure_every is None and config.measure_share is None else " each time"
    costly = not often and epochs > config.total_epochs
    more = ", so more than training (see --measure-examples)" if costly else ""
    names = config.measures.split(",")
    shown = ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} of them"
    return (
        f"Measures of each trial: {shown} on {config.measure_examples} of "
        f"{config.train_size} training examples, about the work of {epochs:.3g} epochs{often}, "
        f"beside {'at most ' if config.has_target else ''}{config.total_epochs:.6g} of training{more}"
    )


def unknown_measure(name: str, known: Collection[str]) -> UserError:
    """The error of a name that is none of `known`: with the nearest of them, or with all where none is near."""
    near = did_you_mean(name, known)
    names = "those of docs/measures.md" if near else ", ".join(known)
    return UserError(f"`measures` must be among {names}, or none, got {name!r}{near}")
