"""Flatness in units of the weights themselves: of one layer by its Hessian, of a network along random filters.

`relative_flatness` (Petzka et al. 2021, "Relative flatness and generalization", arXiv 2001.00939, definition 3): for a
layer's weights W, (out, in), with rows w_s and H_{s,s'} the (in, in) block of the loss's Hessian for rows s and s',

    kappa_Tr = sum_{s,s'} <w_s, w_s'> tr(H_{s,s'}),   the trace of the Hessian of Z -> f(W + F Z) at Z = 0,

for any F with F F^T = W W^T. F = W gives the source's meaning, f(W (1 + Z)): the layer's inputs disturbed linearly.
Here F is the (out, r) triangular factor of W, r = min(out, in), with the same trace in fewer coordinates, r * in; then
`hessian_trace` does the rest, and no Hessian is ever formed. For softmax cross-entropy and the last layer, with
features a_i and probabilities p_i: kappa_Tr = (1/N) sum_i |a_i|^2 (sum_c G_cc p_ic - p_i^T G p_i), G = W W^T.

`filter_normalized_sharpness` (Li et al. 2018, "Visualizing the loss landscape of neural nets", arXiv 1712.09913,
section 4): the loss rise along Gaussian directions in which every filter has the norm of the weights' own filter.

Traps: the first is per layer, and values of layers do not add up to one of the network; the source's theorem asks for
a minimum and for labels that change little with the features. The second sees as much as a few random directions do:
in n dimensions nearly nothing of the sharpest ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.sharpness.objective import Loss, Objective, Substituted, as_objective, evaluate_center
from trainables.sharpness.solvers.lanczos import random_normal
from trainables.sharpness.trace import hessian_trace

PRODUCTS = 200
TOLERANCE = 0.02
DISTANCES = (0.1, 0.3, 1.0)
SAMPLES = 32


@dataclass(frozen=True)
class RelativeFlatness:
    """`value` = kappa_Tr in nats, small where flat; `stderr` its standard error, 0 where it was computed exactly.

    `converged` says that stderr <= tol * |value|. Where the loss or a product is not finite both numbers are NaN.
    """

    value: float
    stderr: float
    evaluations: int
    converged: bool


@dataclass(frozen=True)
class FilterNormalizedSharpness:
    """`mean`, `max` and `stderr` (of the mean) of the loss rise in nats, one for each of `distances`.

    All three are NaN at a distance where the loss of any sample is not finite.
    """

    distances: tuple[float, ...]
    mean: tuple[float, ...]
    max: tuple[float, ...]
    stderr: tuple[float, ...]
    loss_center: float
    samples: int
    evaluations: int


def weight_slice(model: nn.Module, name: str | None = None) -> tuple[slice, tuple[int, ...]]:
    """Where in `ModelLoss.params` the parameter `name` lies, and its shape; None: the last of >= 2 dimensions.

    Raises ValueError for a name that is not a trained parameter, and for None where none has two dimensions.
    """
    trained = [(key, parameter) for key, parameter in model.named_parameters() if parameter.requires_grad]
    found, end = None, 0
    for candidate, parameter in trained:
        begin, end = end, end + parameter.numel()
        if candidate == name or (name is None and parameter.ndim >= 2):
            found = slice(begin, end), tuple(parameter.shape)
    if found is None:
        names = ", ".join(key for key, parameter in trained if parameter.ndim >= 2)
        raise ValueError(f"`name` must be a parameter of the model, got {name!r}; weights are: {names or '(none)'}")
    return found


def relative_flatness(
    loss: Loss | Objective,
    params: Tensor,
    *,
    layer: slice,
    shape: Sequence[int],
    samples: int = PRODUCTS,
    tol: float = TOLERANCE,
    seed: int = 0,
) -> RelativeFlatness:
    """kappa_Tr of the layer whose weights are params[layer], of `shape` (out, in) or, for a convolution, (out, ...).

    Costs min(out, in) * in Hessian-vector products, and is then exact, where that is at most `samples`; else at most
    `samples` products of `hessian_trace`, which are spent until stderr <= tol * |value|. And a loss and a gradient.
    Invariant: rescaling whole layers of a ReLU network (a in one, 1/a in another), and single neurons of the layer's
    own output; not single neurons of its input. A convolution is taken as the linear map of its unfolded patches.
    Raises ValueError for a slice that does not hold `shape`, and as `hessian_trace`.
    """
    weights = params.detach()[layer]
    if len(shape) < 2 or math.prod(shape) != weights.numel() or weights.numel() == 0:
        raise ValueError(
            f"`shape` must be (out, in) of the {weights.numel()} weights in `layer`, got {tuple(shape)}; "
            "`weight_slice` finds both"
        )
    rows = weights.reshape(shape[0], -1)
    factor: Tensor = torch.linalg.qr(rows.T).R.T  # (out, r), F F^T = W W^T

    def forward(u: Tensor) -> Tensor:
        moved = torch.zeros_like(params.detach())
        moved[layer] = (factor @ u.view(factor.shape[1], -1)).reshape(-1)
        return moved

    def adjoint(vector: Tensor) -> Tensor:
        return torch.mm(factor.T, vector[layer].view_as(rows)).reshape(-1)

    inner = Substituted(as_objective(loss), params.detach(), forward, adjoint)
    result = hessian_trace(inner, rows.new_zeros(factor.shape[1] * rows.shape[1]), samples=samples, tol=tol, seed=seed)
    return RelativeFlatness(result.value, result.stderr, result.evaluations, result.converged)


def filter_normalized_direction(params: Tensor, shapes: Sequence[Sequence[int]], *, seed: int = 0) -> Tensor:
    """d, (n,): d_f = z_f |w_f| / |z_f|, z Gaussian, for each filter f; 0 for biases and batch norm's parameters.

    `shapes` are those of the tensors that `params` is made of, in order; a filter is one index of the first dimension
    (an output neuron or channel) of a tensor of two or more dimensions. Tensors of fewer do not move, as in the
    source's published runs (`--xignore biasbn`). Raises ValueError for shapes that do not fill `params`.
    """
    return _direction(params.detach(), shapes, torch.Generator().manual_seed(seed))


def filter_normalized_sharpness(
    loss: Loss | Objective,
    params: Tensor,
    *,
    shapes: Sequence[Sequence[int]],
    distances: Sequence[float] = DISTANCES,
    samples: int = SAMPLES,
    seed: int = 0,
) -> FilterNormalizedSharpness:
    """Mean and maximum over directions d of f(x + t d) - f(x), for each t of `distances`, in units of the weights.

    t = 1 moves every filter by its own norm. The same samples / 2 directions, each both ways, serve every distance;
    the standard error is that of their pair means. Costs samples * len(distances) losses and 1 gradient more.
    Invariant: rescaling whole layers of a ReLU network, the neurons of each by one factor. Raises ValueError for
    distances that are none or not above 0, samples that are odd or below 4, and shapes that do not fill `params`.
    """
    if not distances or not all(math.isfinite(distance) and distance > 0 for distance in distances):
        raise ValueError(f"`distances` must be numbers above 0, and some, got {tuple(distances)}")
    if samples < 4 or samples % 2:
        raise ValueError(f"`samples` must be even and at least 4 (two pairs, for a standard error), got {samples}")
    objective = as_objective(loss)
    before = objective.evaluations
    x, generator = params.detach(), torch.Generator().manual_seed(seed)
    center, _ = evaluate_center(objective, params)
    rises = torch.full((len(distances), samples // 2, 2), math.nan, dtype=torch.float64)
    for pair in range(samples // 2 if math.isfinite(center) else 0):
        direction = _direction(x, shapes, generator)
        for row, distance in enumerate(distances):
            for side, sign in enumerate((1, -1)):
                rises[row, pair, side] = objective.value(x + sign * distance * direction) - center
    rises[~rises.isfinite().all(dim=2).all(dim=1)] = math.nan
    pairs = rises.mean(dim=2)
    return FilterNormalizedSharpness(
        distances=tuple(distances),
        mean=tuple(pairs.mean(dim=1).tolist()),
        max=tuple(rises.amax(dim=(1, 2)).tolist()),
        stderr=tuple((pairs.std(dim=1) / pairs.shape[1] ** 0.5).tolist()),
        loss_center=center,
        samples=samples,
        evaluations=objective.evaluations - before,
    )


def _direction(params: Tensor, shapes: Sequence[Sequence[int]], generator: torch.Generator) -> Tensor:
    sizes = [math.prod(shape) for shape in shapes]
    if sum(sizes) != params.numel():
        raise ValueError(f"`shapes` must fill the {params.numel()} numbers of `params`, got {sum(sizes)}")
    pieces = []
    for piece, shape in zip(params.split(sizes), shapes, strict=True):
        if len(shape) < 2 or piece.numel() == 0:
            pieces.append(torch.zeros_like(piece))
            continue
        rows = piece.view(shape[0], -1)
        draw = random_normal(piece, generator).double().view_as(rows)
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
        draw *= lengths / torch.linalg.vector_norm(draw, dim=1, keepdim=True)
        pieces.append(draw.to(params.dtype).view(-1))
    return torch.cat(pieces)
