"""Parts of the Hessian: the generalized Gauss-Newton matrix, and the block of some coordinates.

    H = G + R,   G = (1/N) sum_n J_n' H_n J_n,   R = (1/N) sum_n sum_k g_nk d^2 z_nk / dx^2

with z_n the outputs for example n, J_n = dz_n / dx (K, n), and g_n and H_n gradient and Hessian of its loss in the
outputs. For cross-entropy H_n = diag(p_n) - p_n p_n' and g_n = p_n - y_n, p_n = softmax(z_n), y_n the labels as
probabilities; then G is the Fisher information of the model's own predictions. G is positive semidefinite where the
loss is convex in the outputs, as those of all built-in tasks are. G = H where the outputs are linear in x (softmax
regression), where every residual g is 0, and, for a piecewise linear network (ReLU), in the block of any one
layer, because the outputs are linear in one layer as long as no unit switches; batch norm with `running` keeps that.

Source: Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural Computation 14,
2002, section 3. A product J v is taken by differentiating J' u in u (the double-backward trick): measured on MLPs of
64-128-128-10 and 784-512-512-512-10 on one core it took 0.67 to 0.76 of the time of forward-mode AD on a kept graph and
of a Hessian-vector product; with the graph made anew (in chunks) forward mode would be 20 % faster, but knows fewer
operators.

Traps: where the fit is poor R is not small, and G hides negative curvature; the blocks of one layer each leave out what
the layers do together, so that the largest eigenvalue of H is at least that of every block, and the trace their sum.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trainables.sharpness.model_loss import ModelLoss, Product
from trainables.sharpness.objective import Objective, Pieces, Rounded, Substituted, pulled_back
from trainables.sharpness.second_derivatives import check_jacobian, suspects
from trainables.tasks.outputs import tensors_of


class GaussNewton(Objective):
    """`loss`, with G in the place of its Hessian: `hessian_eigenvalues(GaussNewton(loss), loss.params)`, trace, ...

    A product costs about a Hessian-vector product. `batch` and `recalibrated` batch norm: z and J are of the whole
    batch, or data, through its statistics.
    """

    def __init__(self, loss: ModelLoss) -> None:
        self._of = loss
        self.evaluations = 0

    def value(self, params: Tensor) -> float:
        self.evaluations += 1
        return self._of.value(params)

    def value_and_gradient(self, params: Tensor) -> tuple[float, Tensor]:
        self.evaluations += 1
        return self._of.value_and_gradient(params)

    def value_and_hessian(self, params: Tensor) -> tuple[float, Product]:
        """The loss and the map v -> G v, (n,), at `params`."""
        product = self._of.products(self._of.point(params), self._of_chunk)

        def counted(vector: Tensor) -> Tensor:
            self.evaluations += 1
            return product(vector)

        return self.value(params), counted

    def certify(self, params: Tensor) -> None:
        """Raise ValueError if J v is not the derivative of the outputs; checked once per model, on a few examples."""
        if "jacobian" in self._of.certified:
            return
        few, point = self._of.outputs_of_few(params)
        leaf = point.detach().clone().requires_grad_()
        with torch.enable_grad():
            outputs = few(leaf)
            duals = [torch.zeros_like(output, requires_grad=True) for output in outputs]
            pulled = pulled_back(outputs, [leaf], duals, create_graph=True)
        check_jacobian(
            leaf.detach(),
            lambda vector: _flat(pulled_back(pulled, duals, [vector])),
            lambda moved: _flat([output.detach() for output in few(moved)]),
            lambda: suspects(torch.stack([output.sum() for output in outputs]).sum()),
        )
        self._of.certified.add("jacobian")

    def in_float32(self) -> Objective | None:
        single = self._of.single()
        return single and Rounded(GaussNewton(single))

    def _of_chunk(self, leaves: Pieces, inputs: Tensor, labels: Tensor) -> Callable[[Pieces], Pieces]:
        """v -> sum_n J_n' H_n J_n v over the chunk; at multipliers 0, `coupling` adds how statistics depend on v."""
        found, coupling = self._of.outputs(leaves, inputs)
        outputs = tensors_of(found)
        curvature = self._of.task.curvature(found, labels)
        duals = [torch.zeros_like(output, requires_grad=True) for output in outputs]
        pulled = pulled_back(outputs, leaves, duals, create_graph=True)  # J' u, linear in u
        coupled = None
        if coupling is not None:
            coupled = pulled_back([coupling], leaves, [torch.ones_like(coupling)], create_graph=True)

        def product(vectors: Pieces) -> Pieces:
            moved = pulled_back(pulled, duals, vectors)  # J v
            total = pulled_back(outputs, leaves, curvature(list(moved)))
            if coupled is None:
                return total
            return [own + more for own, more in zip(total, pulled_back(coupled, leaves, vectors), strict=True)]

        return product


def _flat(pieces: Pieces) -> Tensor:
    return torch.cat([piece.flatten() for piece in pieces])


class Restricted(Substituted):
    """f as a function of some coordinates, the others held at `params`: x[where] -> f(x), its Hessian H[where, where].

    `where` is a slice, or an index (m,) without repetition. Any measure works on a layer or a group of parameters:

        part = Restricted(loss, loss.params, coordinates(loss, "0"))
        hessian_eigenvalues(part, part.params)

    An evaluation costs what one of all of f does.
    """

    def __init__(self, objective: Objective, params: Tensor, where: Tensor | slice) -> None:
        self.params = params.detach()[where].clone()
        reached, held = torch.zeros_like(params), params.detach().clone()
        reached[where], held[where] = 1, 0
        if self.params.numel() != int(reached.count_nonzero()):
            raise ValueError("`where` must name every coordinate once, got some repeatedly; pass where.unique()")

        def put(part: Tensor) -> Tensor:
            whole = torch.zeros_like(held)
            whole[where] = part.detach()
            return whole

        super().__init__(objective, held, put, lambda vector: vector[where])


def coordinates(loss: ModelLoss, *names: str) -> Tensor:
    """Where parameters lie in `loss.params`, (m,): "0.weight" is one parameter, "0" all of module 0.

    Raises ValueError for a name that is neither a parameter in `loss.params` nor a module that has one.
    """
    chosen = torch.zeros_like(loss.params, dtype=torch.bool)
    for name in names:
        found = [own == name or own.startswith(name + ".") for own in loss.shapes]
        if not any(found):
            raise ValueError(f"`names` must be among {', '.join(loss.shapes)}, or modules of these, got {name!r}")
        sizes = [shape.numel() for shape in loss.shapes.values()]
        for piece, is_named in zip(chosen.split(sizes), found, strict=True):
            piece |= is_named
    return chosen.nonzero()[:, 0]
