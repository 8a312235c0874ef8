"""The measures of a trial, by name: each turns a loss into its rows of measures.parquet.

docs/measures.md says of each what it is, costs and when it misleads; `DEFAULT_MEASURES` are those of trials.parquet.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from trainables.config import LARGE_NETWORK
from trainables.data import Dataset
from trainables.data.rows import tensor_of
from trainables.measures import rows as rows
from trainables.measures.context import Context
from trainables.measures.rows import EPSILONS, SEED
from trainables.records.tables import Row
from trainables.runtime.errors import UserError
from trainables.runtime.seeds import generator
from trainables.sharpness import GaussNewton, ModelLoss
from trainables.tasks.by_name import load_task
from trainables.tasks.task import Task

LOSS_AGREES = 1e-5
GRADIENT_AGREES = 1e-2

__all__ = ["EPSILONS", "MEASURES", "SEED", "Context", "in_dtype", "loss_of", "measure"]


def loss_of(
    model: nn.Module,
    data: Dataset,
    *,
    examples: int,
    dtype: str,
    task: Task | None = None,
    batch_norm: str = "running",
    batch_size: int | None = None,
) -> ModelLoss:
    """The training loss that measures work on: of all training examples, or of as many drawn by a fixed seed."""
    inputs, labels = data.train_inputs, data.train_labels
    if not 1 <= examples <= len(labels):
        raise UserError(f"`examples` must be between 1 and the {len(labels)} training examples, got {examples}")
    if examples < len(labels):
        order = torch.randperm(len(labels), generator=generator(SEED, "measure examples"))
        chosen = order[:examples].to(labels.device)
        inputs, labels = inputs.index_select(0, chosen), labels.index_select(0, chosen)
    mode: Any = batch_norm
    return ModelLoss(
        model,
        tensor_of(inputs),
        tensor_of(labels),
        task=task or load_task(data.task, [tensor_of(labels)]),
        dtype=getattr(torch, dtype),
        batch_norm=mode,
        batch_size=batch_size,
    )


def in_dtype(dtype: str, loss_in: Callable[[str], ModelLoss]) -> ModelLoss:
    """`loss_in` float64 or float32, as `dtype` says. `auto` is float64 up to LARGE_NETWORK parameters; from there on it
    is float32, if at the model's own parameters the loss is the same to LOSS_AGREES (1 + loss) and its gradient to
    GRADIENT_AGREES of its length. Parameters are counted, not time, so every machine measures alike.
    """
    if dtype != "auto":
        return loss_in(dtype)
    double = loss_in("float64")
    if len(double.params) < LARGE_NETWORK:
        return double
    single = loss_in("float32")
    (expected, gradient), (found, other) = (one.value_and_gradient(one.params) for one in (double, single))
    differs = float(torch.linalg.vector_norm(other.double() - gradient))
    same = abs(found - expected) <= LOSS_AGREES * (1 + abs(expected))
    return single if same and differs <= GRADIENT_AGREES * float(torch.linalg.vector_norm(gradient)) else double


def measure(loss: ModelLoss, names: Iterable[str], context: Context | None = None) -> list[Row]:
    """The rows of the measures `names` (of MEASURES) at the model's own parameters, each with its seconds.

    `context` is of the optimizer, for the measures that are of its steps: UserError where such a one lacks it.
    """
    found = []
    for name in names:
        started = time.perf_counter()
        own = MEASURES[name](loss, context)
        seconds = time.perf_counter() - started
        evaluations = sum(row["evaluations"] for row in own)
        for row in own:
            share = row["evaluations"] / evaluations if evaluations else 1 / len(own)
            found.append({"measure": name, **row, "seconds": seconds * share, "seed": SEED})
    return found


MEASURES: dict[str, Callable[[ModelLoss, Context | None], list[Row]]] = {
    "box_sharpness": rows.box,
    "box_sharpness_unit_subspace": partial(rows.box, columns="unit"),
    "box_sharpness_gaussian_subspace": partial(rows.box, columns="gaussian"),
    "hessian_max_eig": lambda loss, _: [rows.eigenvalue(loss, loss.params)],
    "hessian_min_eig": lambda loss, _: [rows.eigenvalue(loss, loss.params, "smallest")],
    "hessian_top_eigs": rows.top_eigenvalues,
    "hessian_trace": lambda loss, _: [rows.trace(loss, loss.params)],
    "hessian_frobenius": rows.frobenius,
    "spectral_density": rows.density,
    "layer_max_eig": rows.layer_eigenvalues,
    "layer_trace": rows.layer_traces,
    "gauss_newton_max_eig": lambda loss, _: [rows.eigenvalue(GaussNewton(loss), loss.params)],
    "gauss_newton_trace": lambda loss, _: [rows.trace(GaussNewton(loss), loss.params)],
    "gaussian_sharpness": partial(rows.perturbation, kind="gaussian", scale=0.01),
    "adaptive_gaussian_sharpness": partial(rows.perturbation, kind="gaussian", scale=0.1, adaptive=True),
    "sphere_sharpness": partial(rows.perturbation, kind="sphere", scale=1.0),
    "random_box_sharpness": partial(rows.perturbation, kind="box", scale=0.02),
    "adaptive_random_box_sharpness": partial(rows.perturbation, kind="box", scale=0.2, adaptive=True),
    "filter_normalized_sharpness": rows.filter_normalized,
    "pac_bayes_width": partial(rows.width, adaptive=False),
    "adaptive_pac_bayes_width": partial(rows.width, adaptive=True),
    "l2_ball_sharpness": partial(rows.ball, norm="l2", radius=0.05, adaptive=False),
    "adaptive_l2_ball_sharpness": partial(rows.ball, norm="l2", radius=0.5, adaptive=True),
    "linf_ball_sharpness": partial(rows.ball, norm="linf", radius=1e-3, adaptive=False),
    "adaptive_linf_ball_sharpness": partial(rows.ball, norm="linf", radius=1e-2, adaptive=True),
    "logit_normalized_l2_ball_sharpness": partial(rows.logit_normalized, norm="l2", radius=0.5),
    "logit_normalized_linf_ball_sharpness": partial(rows.logit_normalized, norm="linf", radius=1e-2),
    "m_sharpness": partial(rows.of_groups, radius=0.05, adaptive=False),
    "adaptive_m_sharpness": partial(rows.of_groups, radius=0.5, adaptive=True),
    "relative_flatness": rows.flatness,
    "local_entropy": partial(rows.entropy, adaptive=False),
    "adaptive_local_entropy": partial(rows.entropy, adaptive=True),
    "laplace_log_evidence": rows.evidence,
    "gradient_noise_scale": rows.gradient_noise,
    "curvature_noise_scale": rows.curvature_noise,
    "sgd_noise_scale": rows.noise_of_steps,
    "stability": rows.stabilities,
    "batch_sharpness": rows.along_batches,
    "minibatch_stability": rows.stabilities_of_batches,
}
