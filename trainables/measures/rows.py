"""Rows of measures.parquet from the results of the measures: the settings of each measure, and what is recorded.

A function here takes a `ModelLoss` and the `Context` of the trial and returns the rows of one measure. A setting that a
value depends on stands in its row (`epsilon`, `scale`, `space`, `method`). `evaluations` are those spent on a row, so a
row that comes with another one has 0 and their sum is the cost.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.measures.context import Context
from trainables.records.tables import MEASURES as TABLE
from trainables.records.tables import Row
from trainables.runtime.errors import UserError
from trainables.sharpness import (
    ModelLoss,
    Objective,
    Restricted,
    ball_sharpness,
    batch_sharpness,
    box_sharpness_grid,
    coordinates,
    curvature_noise_scale,
    filter_normalized_sharpness,
    gradient_noise_scale,
    hessian_eigenvalues,
    hessian_frobenius,
    hessian_trace,
    laplace_log_evidence,
    local_entropy,
    logit_normalized_sharpness,
    m_sharpness,
    minibatch_stability,
    pac_bayes_width,
    per_example_noise_scale,
    perturbation_sharpness,
    random_subspace,
    relative_flatness,
    sgd_noise_scale,
    spectral_density,
    stability,
    stability_threshold,
)
from trainables.sharpness.perturbation import Kind
from trainables.sharpness.subspace import PAPER_DIMENSION, Columns

EPSILONS = (1e-3, 5e-4)  # the paper's two boxes; the first is the one in trials.parquet
SEED = 0
LOCAL_ENTROPY_RADIUS = 0.01  # gamma = 1 / radius^2
PRIOR_PRECISION = 1.0  # of the Laplace evidence: weights ~ N(0, 1)
GROUP = 64  # examples, of m-sharpness
TOP = 5
TAILS = (1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.25)
SHARES = (0.0, *TAILS, 0.5, *(1 - tail for tail in reversed(TAILS)), 1.0)  # of the eigenvalues
LAYER_TOLERANCE = 0.05  # of a layer's trace
BATCHES, DRAWS = 16, 8  # of the noise scale: a big batch is so many small ones
GROUPS = 32  # of the noise scale with curvature
PER_EXAMPLE_NUMBERS = 2**32  # examples times parameters: beyond, per-example gradients are not cheap
MEASURE_COLUMNS = frozenset(TABLE.names)


def box(loss: ModelLoss, _: Context | None, columns: Columns | None = None) -> list[Row]:
    subspace, space = None, "full"
    if columns is not None:
        dimension = min(PAPER_DIMENSION, len(loss.params))
        subspace = random_subspace(loss.params, dimension=dimension, columns=columns, seed=SEED)
        space = f"{columns} subspace of {dimension}"
    grid = box_sharpness_grid(loss, loss.params, epsilons=EPSILONS, subspace=subspace, seed=SEED)
    return [
        {"method": method, "epsilon": epsilon, "space": space, **_columns(found)}
        for (epsilon, method), found in grid.items()
    ]


def eigenvalue(objective: Objective, params: Tensor, which: Literal["largest", "smallest"] = "largest") -> Row:
    found = hessian_eigenvalues(objective, params, which=which, seed=SEED)
    pair = {"value": float(found.values[0]), "residual": float(found.residuals[0])}
    return {"method": "lanczos", **pair, "evaluations": found.evaluations, "converged": found.converged}


def top_eigenvalues(loss: ModelLoss, _: Context | None) -> list[Row]:
    """From the largest on, one row each."""
    found = hessian_eigenvalues(loss, loss.params, k=min(TOP, len(loss.params)), seed=SEED)
    pairs = zip(found.values.tolist(), found.residuals.tolist(), strict=True)
    rows = [
        {"method": f"lanczos, number {rank}", "value": value, "residual": residual, "converged": found.converged}
        for rank, (value, residual) in enumerate(pairs, start=1)
    ]
    return _costing(rows, found.evaluations)


def trace(objective: Objective, params: Tensor, tol: float = 0.02) -> Row:
    return {"method": "deflated", **_columns(hessian_trace(objective, params, tol=tol, seed=SEED))}


def frobenius(loss: ModelLoss, _: Context | None) -> list[Row]:
    return [{"method": "deflated", **_columns(hessian_frobenius(loss, loss.params, seed=SEED))}]


def layer_eigenvalues(loss: ModelLoss, _: Context | None) -> list[Row]:
    return [{"space": name, **eigenvalue(part, part.params)} for name, part in _layers(loss)]


def layer_traces(loss: ModelLoss, _: Context | None) -> list[Row]:
    return [{"space": name, **trace(part, part.params, LAYER_TOLERANCE)} for name, part in _layers(loss)]


def density(loss: ModelLoss, _: Context | None) -> list[Row]:
    """Quantiles: `value` is the eigenvalue that the share `scale` of all eigenvalues does not exceed."""
    found = spectral_density(loss, loss.params, seed=SEED)
    quantiles = found.quantiles(torch.tensor(SHARES, dtype=torch.float64)).tolist()
    rows: list[Row] = [
        {"method": "quantile", "scale": share, "value": value, "converged": found.converged}
        for share, value in zip(SHARES, quantiles, strict=True)
    ]
    return _costing(rows, found.evaluations)


def perturbation(loss: ModelLoss, _: Context | None, scale: float, kind: Kind, adaptive: bool = False) -> list[Row]:
    found = perturbation_sharpness(loss, loss.params, scale=scale, kind=kind, adaptive=adaptive, seed=SEED)
    mean = {"method": "mean", "scale": scale, "value": found.mean, **_columns(found)}
    return [mean, {**mean, "method": "max", "value": found.max, "stderr": None, "evaluations": 0}]


def filter_normalized(loss: ModelLoss, _: Context | None) -> list[Row]:
    """`scale` is the distance, in units of the filters' own lengths."""
    found = filter_normalized_sharpness(loss, loss.params, shapes=list(loss.shapes.values()), seed=SEED)
    rows: list[Row] = []
    for distance, mean, largest, stderr in zip(found.distances, found.mean, found.max, found.stderr, strict=True):
        row = {"scale": distance, "loss_center": found.loss_center}
        rows += [{**row, "method": "mean", "value": mean, "stderr": stderr}, {**row, "method": "max", "value": largest}]
    return _costing(rows, found.evaluations)


def width(loss: ModelLoss, _: Context | None, adaptive: bool) -> list[Row]:
    found = pac_bayes_width(loss, loss.params, adaptive=adaptive, seed=SEED)
    return [{"method": "bisection", **_columns(found)}]


def ball(loss: ModelLoss, _: Context | None, norm: Literal["l2", "linf"], radius: float, adaptive: bool) -> list[Row]:
    found = ball_sharpness(loss, loss.params, radius=radius, norm=norm, adaptive=adaptive, seed=SEED)
    return [{"method": "ascent", "scale": radius, **_columns(found)}]


def logit_normalized(loss: ModelLoss, _: Context | None, norm: Literal["l2", "linf"], radius: float) -> list[Row]:
    found = logit_normalized_sharpness(loss, radius=radius, norm=norm, seed=SEED)
    return [{"method": "ascent", "scale": radius, **_columns(found)}]


def of_groups(loss: ModelLoss, _: Context | None, radius: float, adaptive: bool) -> list[Row]:
    cuts = [slice(first, min(first + GROUP, loss.examples)) for first in range(0, loss.examples, GROUP)]
    found = m_sharpness(
        (loss.on(cut) for cut in cuts),
        loss.params,
        radius=radius,
        adaptive=adaptive,
        seed=SEED,
        sizes=[loss.on(cut).weight for cut in cuts],
    )
    return [{"method": f"groups of {GROUP}", "scale": radius, **_columns(found)}]


def flatness(loss: ModelLoss, _: Context | None) -> list[Row]:
    """Of the last layer's weights."""
    end, found = 0, None
    for name, size in loss.shapes.items():
        begin, end = end, end + size.numel()
        if len(size) >= 2:
            found = name, slice(begin, end), size
    if found is None:
        raise UserError("`relative_flatness` needs a model with a weight matrix")
    name, layer, shape = found
    result = relative_flatness(loss, loss.params, layer=layer, shape=shape, seed=SEED)
    return [{"method": "deflated", "space": name, **_columns(result)}]


def entropy(loss: ModelLoss, _: Context | None, adaptive: bool) -> list[Row]:
    found = local_entropy(loss, loss.params, gamma=LOCAL_ENTROPY_RADIUS**-2, adaptive=adaptive, seed=SEED)
    return [{"method": "mean", "scale": LOCAL_ENTROPY_RADIUS, **_columns(found)}]


def evidence(loss: ModelLoss, _: Context | None) -> list[Row]:
    """`stderr` is that of the spectrum's term."""
    if not loss.task.is_likelihood:
        raise UserError(
            f"`laplace_log_evidence` needs a log-likelihood, and the loss of the task {loss.task.name} is none"
        )
    spectrum, n, examples = spectral_density(loss, loss.params, seed=SEED), len(loss.params), loss.examples
    center = loss.value(loss.params)
    row = {"method": "stochastic lanczos quadrature", "loss_center": center, "evaluations": spectrum.evaluations + 1}
    if not math.isfinite(center) or not bool(spectrum.nodes.isfinite().all()):
        return [{**row, "value": math.nan, "converged": False}]
    found = laplace_log_evidence(
        center,
        spectrum.nodes,
        examples=examples,
        prior_precision=PRIOR_PRECISION,
        weights=spectrum.weights,
        parameters=n,
        squared_norm=float(loss.params.double() @ loss.params.double()),
    )
    error = spectrum.mean(lambda h: torch.log1p(h.clamp(min=0) * (examples / PRIOR_PRECISION)))[1]
    return [{**row, "value": found.value, "stderr": n * error / 2, "converged": spectrum.converged}]


def gradient_noise(loss: ModelLoss, _: Context | None) -> list[Row]:
    """Two batch sizes; also example by example where that is cheap and means something."""
    small = max(1 if loss.batch_norm == "running" else 2, loss.examples // BATCHES)
    big = small * (loss.examples // small)
    if not big > small:
        raise UserError(f"`examples` must be two batches or more for gradient_noise_scale, got {loss.examples}")
    sizes = {"examples": loss.examples, "small_batch": small, "big_batch": big}
    found = {"two batch sizes": gradient_noise_scale(loss.of_examples, loss.params, **sizes, draws=DRAWS, seed=SEED)}
    if loss.batch_norm == "running" and loss.examples * len(loss.params) <= PER_EXAMPLE_NUMBERS:
        found["per example"] = per_example_noise_scale(loss.of_examples, loss.params, examples=loss.examples)
    rows: list[Row] = []
    for method, scale in found.items():
        variance = {"method": f"{method}, variance", "value": scale.trace, "stderr": scale.trace_stderr}
        rows += [{"method": method, **_columns(scale)}, {**variance, "evaluations": 0, "converged": True}]
    return rows


def curvature_noise(loss: ModelLoss, _: Context | None) -> list[Row]:
    groups = min(GROUPS, loss.examples // (1 if loss.batch_norm == "running" else 2))
    if groups < 2:
        raise UserError(f"`examples` must be two groups or more for curvature_noise_scale, got {loss.examples}")
    sizes = {"examples": loss.examples, "groups": groups}
    found = curvature_noise_scale(loss, loss.of_examples, loss.params, **sizes, seed=SEED)
    row: Row = {"method": "groups", **_columns(found)}
    trace = {"value": found.trace, "stderr": found.trace_stderr, "converged": True, "evaluations": 0}
    return [row, {**row, "method": "variance", **trace}]


def noise_of_steps(_: ModelLoss, context: Context | None) -> list[Row]:
    known = _known(context, "sgd_noise_scale")
    if known.batch_size is None or known.train_size is None:
        raise UserError("`batch_size` must be given for the measure sgd_noise_scale, got none")
    momentum = 0.0 if known.gathers == "averaged" else known.momentum
    value = sgd_noise_scale(known.learning_rate, known.batch_size, known.train_size, momentum=momentum)
    return [{"method": "formula", "value": value, "evaluations": 0, "converged": True}]


def stabilities(loss: ModelLoss, context: Context | None) -> list[Row]:
    known = _known(context, "stability")
    plain = stability(loss, loss.params, learning_rate=known.learning_rate, seed=SEED)
    row = {"method": "plain", "value": plain.ratio, "converged": plain.converged, "evaluations": plain.evaluations}
    rows: list[Row] = [row]
    if known.preconditioner is not None:
        found = stability(
            loss,
            loss.params,
            learning_rate=known.learning_rate,
            momentum=known.momentum,
            form=known.gathers,
            preconditioner=known.preconditioner.to(loss.params),
            seed=SEED,
        )
        rows.append({"method": known.rows, "value": found.ratio, **_columns(found)})
    elif known.momentum > 0:
        threshold = stability_threshold(known.learning_rate, momentum=known.momentum, form=known.gathers)
        rows.append({**row, "method": "momentum", "value": plain.max_eig / threshold, "evaluations": 0})
    return rows


def along_batches(loss: ModelLoss, context: Context | None) -> list[Row]:
    """`scale` is the batch size."""
    size = _batch_of_steps(loss, _given(context, "batch_sharpness"), "batch_sharpness")
    found = batch_sharpness(loss.of_examples, loss.params, examples=loss.examples, batch_size=size, seed=SEED)
    row = {"method": "mean of ratios", "scale": size, **_columns(found)}
    ratio = {**row, "method": "ratio of means", "value": found.ratio_of_means, "stderr": None, "evaluations": 0}
    return [row, ratio]


def stabilities_of_batches(loss: ModelLoss, context: Context | None) -> list[Row]:
    """1 is the edge for plain SGD at the learning rate; `scale` is the batch size."""
    known = _known(context, "minibatch_stability")
    size = _batch_of_steps(loss, known, "minibatch_stability")
    batches: dict[str, Any] = {"examples": loss.examples, "batch_size": size, "seed": SEED}
    along = batch_sharpness(loss.of_examples, loss.params, **batches)
    half = known.learning_rate / 2
    value, error = half * along.value, half * along.stderr
    row = {"method": "batch sharpness", "scale": size, **_columns(along), "value": value, "stderr": error}
    top = hessian_eigenvalues(loss, loss.params, seed=SEED)
    found = minibatch_stability(
        loss.of_examples, loss.params, top.vectors.reshape(-1), learning_rate=known.learning_rate, **batches
    )
    spent = {"evaluations": found.evaluations + top.evaluations, "converged": found.converged and top.converged}
    return [row, {**row, "method": "top eigenvector", "value": found.ratio, "stderr": found.stderr, **spent}]


def _batch_of_steps(loss: ModelLoss, context: Context, name: str) -> int:
    if context.batch_size is None:
        raise UserError(f"`batch_size` must be given for the measure {name}, got none")
    if context.batch_size > loss.examples:
        raise UserError(
            f"`measure_examples` must be at least the batch size {context.batch_size} for the measure {name}, "
            f"got {loss.examples}"
        )
    return context.batch_size


def _known(context: Context | None, name: str) -> Context:
    known = _given(context, name)
    known.require_known(name)
    return known


def _given(context: Context | None, name: str) -> Context:
    if context is None:
        raise UserError(f"`learning_rate` must be given for the measure {name}, got none")
    return context


def _layers(loss: ModelLoss) -> Iterator[tuple[str, Restricted]]:
    """The loss as a function of each module's own parameters."""
    names: dict[str, list[str]] = {}
    for name in loss.shapes:
        names.setdefault(name.rpartition(".")[0] or name, []).append(name)
    for layer, own in names.items():
        yield layer, Restricted(loss, loss.params, coordinates(loss, *own))


def _costing(rows: list[Row], evaluations: int) -> list[Row]:
    """Rows of one result: the first bears its cost."""
    return [{**row, "evaluations": 0 if index else evaluations} for index, row in enumerate(rows)]


def _columns(found: Any) -> Row:
    """The fields of a result that are columns of measures.parquet."""
    return {name: value for name, value in vars(found).items() if name in MEASURE_COLUMNS}
