"""Measures of the sharpness of a minimum, on any differentiable `loss(params) -> scalar` over a flat vector.

`ModelLoss` makes such a loss of a model and data; docs/measures.md says what each measure is and when it misleads.
"""

from trainables.sharpness.ball import BallSharpness, MSharpness, ball_sharpness, logit_normalized_sharpness, m_sharpness
from trainables.sharpness.box import BoxSharpness, box_sharpness, box_sharpness_grid
from trainables.sharpness.edge_of_stability import Stability, stability, stability_threshold
from trainables.sharpness.flatness import (
    FilterNormalizedSharpness,
    RelativeFlatness,
    filter_normalized_direction,
    filter_normalized_sharpness,
    relative_flatness,
    weight_slice,
)
from trainables.sharpness.gauss_newton import GaussNewton, Restricted, coordinates
from trainables.sharpness.hessian import HessianEigenvalues, hessian_eigenvalues
from trainables.sharpness.invariance import RescalingInvariance, rescalable_pairs, rescale, rescaling_invariance
from trainables.sharpness.minibatch import BatchSharpness, MinibatchStability, batch_sharpness, minibatch_stability
from trainables.sharpness.model_loss import ModelLoss
from trainables.sharpness.noise import (
    BatchLoss,
    GradientNoiseScale,
    curvature_noise_scale,
    gradient_noise_scale,
    noise_scale_from_norms,
    per_example_noise_scale,
    sgd_noise_scale,
)
from trainables.sharpness.objective import Objective
from trainables.sharpness.perturbation import (
    PacBayesWidth,
    PerturbationSharpness,
    pac_bayes_width,
    perturbation_sharpness,
)
from trainables.sharpness.spectrum import SpectralDensity, spectral_density
from trainables.sharpness.subspace import random_subspace
from trainables.sharpness.trace import HessianFrobenius, HessianTrace, hessian_frobenius, hessian_trace
from trainables.sharpness.volume import LaplaceEvidence, LocalEntropy, laplace_log_evidence, local_entropy

__all__ = [
    "BallSharpness",
    "BatchLoss",
    "BatchSharpness",
    "BoxSharpness",
    "FilterNormalizedSharpness",
    "GaussNewton",
    "GradientNoiseScale",
    "HessianEigenvalues",
    "HessianFrobenius",
    "HessianTrace",
    "LaplaceEvidence",
    "LocalEntropy",
    "MSharpness",
    "MinibatchStability",
    "ModelLoss",
    "Objective",
    "PacBayesWidth",
    "PerturbationSharpness",
    "RelativeFlatness",
    "RescalingInvariance",
    "Restricted",
    "SpectralDensity",
    "Stability",
    "ball_sharpness",
    "batch_sharpness",
    "box_sharpness",
    "box_sharpness_grid",
    "coordinates",
    "curvature_noise_scale",
    "filter_normalized_direction",
    "filter_normalized_sharpness",
    "gradient_noise_scale",
    "hessian_eigenvalues",
    "hessian_frobenius",
    "hessian_trace",
    "laplace_log_evidence",
    "local_entropy",
    "logit_normalized_sharpness",
    "m_sharpness",
    "minibatch_stability",
    "noise_scale_from_norms",
    "pac_bayes_width",
    "per_example_noise_scale",
    "perturbation_sharpness",
    "random_subspace",
    "relative_flatness",
    "rescalable_pairs",
    "rescale",
    "rescaling_invariance",
    "sgd_noise_scale",
    "spectral_density",
    "stability",
    "stability_threshold",
    "weight_slice",
]
