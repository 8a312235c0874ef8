"""The measures of a trial, by name: each turns a loss into its rows of measures.parquet.

A measure is a function of a `ModelLoss`; what it costs and when it misleads stands in its file under
`trainables.sharpness`. `DEFAULT_MEASURES` are those of trials.parquet; `--measures` adds others.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainables.data import Dataset
from trainables.errors import UserError
from trainables.seeds import generator
from trainables.sharpness import (
    GaussNewton,
    ModelLoss,
    Objective,
    ball_sharpness,
    box_sharpness_by_method,
    hessian_eigenvalues,
    hessian_frobenius,
    hessian_trace,
    local_entropy,
    pac_bayes_width,
    perturbation_sharpness,
    random_subspace,
    relative_flatness,
)
from trainables.sharpness.subspace import PAPER_DIMENSION, Columns
from trainables.tables import MEASURES as TABLE
from trainables.tables import Row

EPSILONS = (1e-3, 5e-4)  # the paper's two boxes; the first is the one in trials.parquet
SEED = 0
LOCAL_ENTROPY_RADIUS = 0.01  # gamma = 1 / radius^2
MEASURE_COLUMNS = frozenset(TABLE.names)


def loss_of(
    model: nn.Module,
    data: Dataset,
    *,
    examples: int,
    dtype: str,
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
        inputs, labels = inputs[chosen], labels[chosen]
    mode: Any = batch_norm
    return ModelLoss(model, inputs, labels, dtype=getattr(torch, dtype), batch_norm=mode, batch_size=batch_size)


def measure(loss: ModelLoss, names: Iterable[str]) -> list[Row]:
    """The rows of the measures `names` (of MEASURES) at the model's own parameters, each with its seconds."""
    rows = []
    for name in names:
        started = time.perf_counter()
        found = MEASURES[name](loss)
        seconds = time.perf_counter() - started
        evaluations = sum(row["evaluations"] for row in found)
        for row in found:
            rows.append({"measure": name, **row, "seconds": seconds * row["evaluations"] / evaluations, "seed": SEED})
    return rows


def _box(loss: ModelLoss, columns: Columns | None = None) -> list[Row]:
    subspace, space = None, "full"
    if columns is not None:
        dimension = min(PAPER_DIMENSION, len(loss.params))
        subspace = random_subspace(loss.params, dimension=dimension, columns=columns, seed=SEED)
        space = f"{columns} subspace of {dimension}"
    rows = []
    for epsilon in EPSILONS:
        spent = 0
        found = box_sharpness_by_method(loss, loss.params, epsilon=epsilon, subspace=subspace, seed=SEED)
        for method, box in found.items():
            row = {"method": method, "epsilon": epsilon, "space": space, **_columns(box)}
            rows.append({**row, "evaluations": box.evaluations - spent})  # `strong` goes on from `paper`
            spent = box.evaluations
    return rows


def _eigenvalue(loss: Objective, params: Tensor, which: Literal["largest", "smallest"]) -> list[Row]:
    found = hessian_eigenvalues(loss, params, which=which, seed=SEED)
    pair = {"value": float(found.values[0]), "residual": float(found.residuals[0])}
    return [{"method": "lanczos", **pair, "evaluations": found.evaluations, "converged": found.converged}]


def _trace(loss: ModelLoss) -> list[Row]:
    return [{"method": "xtrace", **_columns(hessian_trace(loss, loss.params, seed=SEED))}]


def _frobenius(loss: ModelLoss) -> list[Row]:
    return [{"method": "xtrace", **_columns(hessian_frobenius(loss, loss.params, seed=SEED))}]


def _gaussian(loss: ModelLoss, scale: float, adaptive: bool) -> list[Row]:
    found = perturbation_sharpness(loss, loss.params, scale=scale, adaptive=adaptive, seed=SEED)
    return [{"method": "mean", "scale": scale, "value": found.mean, **_columns(found)}]


def _width(loss: ModelLoss, adaptive: bool) -> list[Row]:
    return [{"method": "bisection", **_columns(pac_bayes_width(loss, loss.params, adaptive=adaptive, seed=SEED))}]


def _ball(loss: ModelLoss, norm: Literal["l2", "linf"], radius: float, adaptive: bool) -> list[Row]:
    found = ball_sharpness(loss, loss.params, radius=radius, norm=norm, adaptive=adaptive, seed=SEED)
    return [{"method": "ascent", "scale": radius, **_columns(found)}]


def _relative_flatness(loss: ModelLoss) -> list[Row]:
    """Of the last layer's weights."""
    end = 0
    for size in loss.shapes.values():
        begin, end = end, end + size.numel()
        if len(size) >= 2:
            layer, shape = slice(begin, end), size
    return [{"method": "xtrace", **_columns(relative_flatness(loss, loss.params, layer=layer, shape=shape, seed=SEED))}]


def _local_entropy(loss: ModelLoss) -> list[Row]:
    found = local_entropy(loss, loss.params, gamma=LOCAL_ENTROPY_RADIUS**-2, seed=SEED)
    return [{"method": "mean", "scale": LOCAL_ENTROPY_RADIUS, **_columns(found)}]


def _columns(found: Any) -> Row:
    """The fields of a result that are columns of measures.parquet."""
    return {name: value for name, value in vars(found).items() if name in MEASURE_COLUMNS}


MEASURES: dict[str, Callable[[ModelLoss], list[Row]]] = {
    "box_sharpness": _box,
    "box_sharpness_unit_subspace": partial(_box, columns="unit"),
    "box_sharpness_gaussian_subspace": partial(_box, columns="gaussian"),
    "hessian_max_eig": lambda loss: _eigenvalue(loss, loss.params, "largest"),
    "hessian_min_eig": lambda loss: _eigenvalue(loss, loss.params, "smallest"),
    "gauss_newton_max_eig": lambda loss: _eigenvalue(GaussNewton(loss), loss.params, "largest"),
    "hessian_trace": _trace,
    "hessian_frobenius": _frobenius,
    "relative_flatness": _relative_flatness,
    "local_entropy": _local_entropy,
    "gaussian_sharpness": partial(_gaussian, scale=0.01, adaptive=False),
    "adaptive_gaussian_sharpness": partial(_gaussian, scale=0.1, adaptive=True),
    "pac_bayes_width": partial(_width, adaptive=False),
    "adaptive_pac_bayes_width": partial(_width, adaptive=True),
    "l2_ball_sharpness": partial(_ball, norm="l2", radius=0.05, adaptive=False),
    "adaptive_l2_ball_sharpness": partial(_ball, norm="l2", radius=0.5, adaptive=True),
    "linf_ball_sharpness": partial(_ball, norm="linf", radius=1e-3, adaptive=False),
    "adaptive_linf_ball_sharpness": partial(_ball, norm="linf", radius=1e-2, adaptive=True),
}
