"""Check that PyTorch's second derivatives of a loss are right.

A custom backward pass that detaches what it saved, or is marked `once_differentiable`, can leave terms out of the
Hessian H without an error. Eigenvalues of such a matrix converge as well as the true ones do. So, for random unit
vectors u and v and the gradient g, two identities are checked:

- v'Hu = u'Hv, because a Hessian is symmetric;
- H v = (g(x + h v) - g(x - h v)) / 2h, up to O(h^2) and rounding errors of O(eps / h).

The steps h are 100, 10 and 1 times sqrt(eps) ||x||. In float64 both errors are then far below `SEEN`, so one step that
agrees is enough.

Trap: gradients jump at the kinks of ReLU and max pooling. Where a step crosses a kink, the difference has a part that H
rightly does not have. A few kinks add O(1 / h), which changes from step to step. Many kinks add about the same at every
step, up to sampling noise. So H is refused only where the two shortest steps agree with each other a hundred times
better than with H. Where weight decay has shrunk all weights of a ReLU unit to almost nothing, every step crosses its
kink, with the same difference at each. So what v refuses is tried again along v * |x|, which moves small weights less.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from trainables.sharpness.solvers.lanczos import random_normal

SEEN = 1e-3  # relative error that is refused in float64: the default tolerance of the eigenvalues
SETTLED = 100  # two differences are trusted that are so many times closer to each other than to the product
STEPS = (100, 10, 1)  # in units of sqrt(eps) ||x||
Map = Callable[[Tensor], Tensor]


def check_hessian(params: Tensor, product: Map, gradient: Map, suspects: Callable[[], list[str]]) -> None:
    """Raise ValueError if `product`, v -> H v at `params` (n,), is not the derivative of `gradient`, x -> g.

    Costs two products and two to six gradients. Results that are not finite are accepted. `suspects` returns the names
    of the operations that the error mentions.
    """
    generator = torch.Generator().manual_seed(0)
    u, v = (_unit(random_normal(params, generator)) for _ in range(2))
    hu, hv = product(u), product(v)
    lengths = _length(hu) + _length(hv)
    asymmetry = abs(_dot(v, hu) - _dot(u, hv)) * math.sqrt(params.numel())  # of random vectors' products
    if lengths > 0 and asymmetry > least_seen(params.dtype) * lengths:
        raise _refusal(f"v'Hu and u'Hv differ by {asymmetry / lengths:.1%} of their size", suspects())
    error = _lasting_error(params, v, hv, product, gradient)
    if error is not None:
        raise _refusal(f"Hv and the difference of two gradients differ by {error:.1%}", suspects())


def check_jacobian(params: Tensor, product: Map, outputs: Map, suspects: Callable[[], list[str]]) -> None:
    """Raise ValueError if `product`, v -> J v at `params` (n,), is not the derivative of `outputs`, x -> z."""
    v = _unit(random_normal(params, torch.Generator().manual_seed(0)))
    error = _lasting_error(params, v, product(v), product, outputs)
    if error is not None:
        raise _refusal(f"Jv and the difference of two outputs differ by {error:.1%}", suspects())


def operations(tensor: Tensor) -> dict[str, bool]:
    """Map the names of the operations in the graph of `tensor` to whether they are custom.

    Custom operations are `torch.autograd.Function`s, in Python or C++. Names have no trailing number.
    """
    waiting, seen, names = [tensor.grad_fn], {tensor.grad_fn}, dict[str, bool]()
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        is_custom = hasattr(node, "_forward_cls") or "CppNode" in node.name()
        names[node.name() if is_custom else node.name().rstrip("0123456789")] = is_custom
        following = [further for further, _ in node.next_functions if further not in seen]
        seen.update(following)
        waiting += following
    return names


def suspects(tensor: Tensor) -> list[str]:
    """Return the custom operations in the graph of `tensor`, or all operations if none is custom."""
    names = operations(tensor)
    return [name for name, is_custom in names.items() if is_custom] or list(names)


def least_seen(dtype: torch.dtype) -> float:
    """Return the relative error that is refused: 0.1 % in float64, 2 % in float32, which leaves few digits."""
    return max(SEEN, math.sqrt(math.sqrt(torch.finfo(dtype).eps)))


def _lasting_error(params: Tensor, vector: Tensor, along: Tensor, product: Map, function: Map) -> float | None:
    """Return the relative error of `along`, the product with `vector`, against differences of `function`.

    None if it is right along `vector`, or along `vector` times the sizes of `params`.
    """
    error = _error_along(params, vector, along, function)
    if error is None or not bool(params.any()):
        return error
    relative = _unit(vector * params.abs())
    return _error_along(params, relative, product(relative), function)


def _error_along(params: Tensor, vector: Tensor, product: Tensor, function: Map) -> float | None:
    if not bool(product.isfinite().all()):
        return None
    scale = math.sqrt(torch.finfo(params.dtype).eps) * (_length(params) or 1.0)
    difference, before = product, product
    for times in STEPS:
        ahead, behind = params + times * scale * vector, params - times * scale * vector
        before = difference
        difference = (function(ahead).double() - function(behind).double()) / (2 * times * scale)
        if not bool(difference.isfinite().all()):
            return None
        distance, length = _length(difference - product), max(_length(difference), _length(product))
        if distance <= least_seen(params.dtype) * length:
            return None
    return distance / length if SETTLED * _length(difference - before) <= distance else None


def _refusal(what: str, suspects: list[str]) -> ValueError:
    return ValueError(
        f"`loss` must have the right second derivatives in PyTorch, but {what}; "
        f"check that the backward pass is differentiable in {', '.join(suspects)}"
    )


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = vector / torch.linalg.vector_norm(vector)
    return unit


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


def _dot(one: Tensor, other: Tensor) -> float:
    return float(one.double() @ other.double())
