"""The bound form: the loss of a model on given data, as a function of its flat parameters.

The caller's model is never written to, moved or switched: this works on a copy in eval mode (dropout off), in float64
unless told otherwise. Chunks are weighted by their examples, or by what these weigh in the task. Batch norm has three
modes (the same function without it):

- `running`: the trained running statistics, the loss of the model as it is deployed.
- `batch`: the statistics of the batch that a layer sees, as in the code of Keskar et al. 2017 (arXiv 1609.04836). Data
  is cut, in its order (shuffle sorted data first), into batches of `batch_size`; a last one of 1 joins the one before.
- `recalibrated`: at every point the statistics of all the data there, each layer's with those before it recalibrated.
  Right for averaged (Izmailov et al. 2018, SWA, arXiv 1803.05407, section 3.2) and interpolated weights, which running
  statistics do not belong to. It equals `batch` with batch_size = N, in chunks.

The gradient is always that of the value, through the statistics: with them held constant it would belong to another
function than line searches see. In chunks, `recalibrated` is f(x) = L(x, s), s = S(x, s): the moments S of all layers'
inputs are means over examples, as L is, and depend on earlier layers' s only. So df/dx is the x-part of the gradient of
L + m . S over the point (x, s, m), with multipliers m = its s-part, exact after one iteration per layer; the same on
the point's tangent gives Hessian-vector products.

Traps: averaged batch statistics (torch's update_bn) depend on the cuts, since later layers see inputs normalized batch
by batch; variances here divide by N, running ones by N - 1; what a module caches in inference mode has no gradients.
"""

import copy
import math
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.runtime.float32 import exact_products
from trainables.runtime.in_place import kept
from trainables.runtime.seeds import preserve_rng
from trainables.sharpness.batch_statistics import Tape
from trainables.sharpness.bound_model import BoundModel, spread_loss
from trainables.sharpness.objective import Objective, Pieces, Rounded, pulled_back
from trainables.tasks.by_name import load_task
from trainables.tasks.outputs import changed, prediction_of, tensors_of
from trainables.tasks.task import Task

BatchNorm = Literal["running", "batch", "recalibrated"]
Product = Callable[[Tensor], Tensor]

MEMORY = 2**28  # bytes that a chunk's graph may take on a CPU: fixed, so that a value never depends on what is free
MEMORY_RECALIBRATED = 2**30  # the same for `recalibrated`, which is slower in chunks
SHARE_OF_DEVICE = 16  # of an accelerator's whole memory, one part
LARGE = 2e6  # examples times parameters: less is as fast in float64
CERTIFIED_EXAMPLES = 8
GRAPH = 4  # times what a forward pass keeps: a graph of the gradient, and its gradient


class ModelLoss(Objective):
    """f(params) = the loss of `task` over (inputs, labels); without one the cross-entropy, nats per example or token.

    `inputs` (N, ...), floating point or integer (token ids), on the device where the work is to be done; `labels` (N,)
    class ids or (N, K) probabilities, or (N, T) for logits (N, T, K), or what the task takes (trainables.tasks).
    `params` (n,) are the model's parameters that require gradients at the time of the call, in the order of
    `model.parameters()`, a shared one once; the others (frozen) stay constant.

    A gradient costs a forward and backward pass, a Hessian-vector product about two. In chunks, `recalibrated` with L
    layers makes a gradient L + 1 and a product 2 L + 1 times as dear, with L + 1 forward passes more at every point: if
    memory allows, set `chunk_size` to N. Raises ValueError for unfit data, parameters, statistics or sizes.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        *,
        task: Task | None = None,
        dtype: torch.dtype = torch.float64,
        chunk_size: int | None = None,
        batch_norm: BatchNorm = "running",
        batch_size: int | None = None,
    ) -> None:
        _check(model, len(inputs), len(labels), chunk_size, batch_norm, batch_size)
        self.task = task or load_task("classification")
        self._model = BoundModel(model, inputs, dtype, self.task.evaluation_mode)
        self.shapes, self.params = self._model.shapes, self._model.params
        self._sizes = [shape.numel() for shape in self.shapes.values()]
        self.batch_norm, self.batch_size = batch_norm, batch_size
        self._inputs = inputs.to(self.params.dtype) if inputs.is_floating_point() else inputs
        self._labels = labels.to(inputs.device, torch.float64 if labels.is_floating_point() else torch.int64)
        self._tape = Tape()
        self._logit_scale: float | None = None
        self.certified = set[str]()  # derivatives; one set for all losses of the model
        self._widths: list[int] = []  # of the statistics in a point, call by call: a layer may be used twice
        layers = [m for m in self._model.module.modules() if isinstance(m, _BatchNorm) and batch_norm != "running"]
        for layer in layers:
            layer.running_mean = layer.running_var = None  # in eval mode, it then takes those of its inputs
        self._weigh()
        self._chunk = chunk_size or (self._examples_that_fit() if len(inputs) > 2 else len(inputs))
        self._cut()
        self._in_chunks = batch_norm == "recalibrated" and not self._fits and bool(layers)
        for layer in layers if self._in_chunks else []:  # its own norm becomes the identity
            layer.running_mean = self.params.new_zeros(layer.num_features)
            layer.running_var = torch.ones_like(layer.running_mean) - layer.eps
            layer.register_forward_pre_hook(self._tape.normalize)
        with preserve_rng(inputs.device), torch.no_grad():
            with kept("`model`", "inputs", self._inputs):
                outputs = self._forward(self._pieces(self.params), [], self._inputs[:2])[0]
            self.task.check(outputs, labels)

    def _weigh(self) -> None:
        """Notes what all examples weigh together, by which sums over them are divided."""
        weights = self.task.example_weights(self._labels)
        self.weight = len(self._inputs) if weights is None else float(weights.sum(dtype=torch.float64))
        if not self.weight > 0:
            raise ValueError("`labels` must have some that weigh more than 0, got padding alone")

    def _cut(self) -> None:
        """Into chunks, or into the batches of batch norm."""
        self.examples, self.evaluations = len(self._inputs), 0
        self._fits = self.examples <= self._chunk  # so a graph of all the data may be kept
        self._cuts = [len(cut) for cut in torch.arange(self.examples).split(self.batch_size or self._chunk)]
        if self.batch_size and len(self._cuts) > 1 and self._cuts[-1] == 1:
            self._cuts[-2:] = [self.batch_size + 1]
        self._exact_products = exact_products(self._weights(self.params), max(self._cuts))

    def on(self, examples: slice | Tensor) -> "ModelLoss":
        """The same loss on some of its examples; the model and the data are shared."""
        part = copy.copy(self)
        part._inputs, part._labels = self._inputs[examples], self._labels[examples]
        part._weigh()
        part._cut()
        return part

    def single(self) -> "ModelLoss | None":
        """The same loss in float32, cut alike; None if this one is not in float64, or too small to gain by it."""
        if self.params.dtype != torch.float64 or self.examples * len(self.params) < LARGE:
            return None
        return self._cast(torch.float32)

    def _cast(self, dtype: torch.dtype) -> "ModelLoss":
        """Return the same loss, computed in `dtype`; the modules are shared."""
        other = copy.copy(self)
        other._model, other.params = self._model.cast(dtype), self.params.to(dtype)
        other._inputs = self._inputs.to(dtype) if self._inputs.is_floating_point() else self._inputs
        other._widths, other.evaluations = [], 0
        other._exact_products = exact_products(other._weights(other.params), max(other._cuts))
        return other

    def in_float32(self) -> Objective | None:
        single = self.single()
        return single and Rounded(single)

    def certify(self, params: Tensor) -> None:
        """Check second derivatives as for any loss, once per model, on a few examples and `spread_loss`."""
        if "hessian" not in self.certified:
            outputs, point = self.outputs_of_few(params)
            Objective(lambda point: spread_loss(outputs(point))).certify(point)
            self.certified.add("hessian")

    def outputs_of_few(self, params: Tensor) -> tuple[Callable[[Tensor], list[Tensor]], Tensor]:
        """Return the outputs of a few examples as a function of the parameters, and `params`, to check derivatives.

        Both are in float64 if the model can compute in it, because differences of float32 values have few digits.
        """
        few = min(CERTIFIED_EXAMPLES, self._chunk)

        def of(loss: ModelLoss) -> Callable[[Tensor], list[Tensor]]:
            def outputs(point: Tensor) -> list[Tensor]:
                with loss._exact_products, preserve_rng(point.device):
                    found = loss._forward(loss._pieces(point), [], loss._inputs[:few])[0]
                    return [tensor.double() for tensor in tensors_of(found)]

            return outputs

        exact, point = of(self._cast(torch.float64)), params.double()
        try:
            with torch.no_grad():
                exact(point)
        except (RuntimeError, ValueError, TypeError):
            return of(self._cast(params.dtype)), params
        return exact, point

    def with_normalized_logits(self, scale: float = 1.0) -> "ModelLoss":
        """The same loss of scale * z / sqrt(mean_k (z_k - mean z)^2), z the logits of an example.

        A factor on all logits then changes nothing, neither the loss nor a sharpness that is invariant in the weights
        (Andriushchenko et al. 2023, arXiv 2302.07011). Raises ValueError for a scale that is not a number above 0, and
        for a task without classes.
        """
        if not self.task.has_classes:
            raise ValueError(f"`loss` must be of class logits to normalize them, got the task {self.task.name}")
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"`scale` must be a number above 0, got {scale}")
        normalized = copy.copy(self)
        normalized._logit_scale, normalized.evaluations = scale, 0
        return normalized

    def of_examples(self, params: Tensor, indices: Tensor) -> Tensor:
        """The mean loss of the examples at `indices`, (b,), differentiable: a batch, also to batch norm.

        Examples of other weights than the mean count in proportion, so that the mean over all examples is f.
        """
        alone = copy.copy(self)
        alone._widths = []  # a point without statistics; those of a product under way stay
        return alone._sum(alone._pieces(params), self._inputs[indices], self._labels[indices]) / (
            len(indices) * (self.weight / self.examples)
        )

    def _examples_that_fit(self) -> int:
        """How many examples' graph takes the memory to spend, by what a forward pass of two keeps for derivatives."""
        leaf = self.params.clone().requires_grad_()
        own, kept, sizes = leaf.untyped_storage().data_ptr(), list[Tensor](), dict[int, int]()

        def note(tensor: Tensor) -> None:
            storage = tensor.untyped_storage()
            if storage.data_ptr() != own:
                size = min(tensor.numel() * tensor.element_size(), storage.nbytes())
                sizes[tensor.data_ptr()] = max(size, sizes.get(tensor.data_ptr(), 0))
                kept.append(tensor.detach())  # so that no address is used twice; the graph itself would never be freed

        with (
            preserve_rng(leaf.device),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(note, lambda nothing: nothing),
        ):
            self._forward(self._pieces(leaf), [], self._inputs[:2])
        memory = MEMORY_RECALIBRATED if self.batch_norm == "recalibrated" else MEMORY
        if leaf.is_cuda:
            memory = torch.cuda.get_device_properties(leaf.device).total_memory // SHARE_OF_DEVICE
        return max(1, 2 * memory // (GRAPH * max(1, sum(sizes.values()))))

    def value(self, params: Tensor) -> float:
        self.evaluations += 1
        with torch.no_grad(), self._exact_products:
            pieces = self._pieces(self.point(params))
            total = torch.stack([self._sum(pieces, *chunk) for chunk in self._chunks()]).sum()
            return float(self._over_all(total)) / self.weight

    def value_and_gradient(self, params: Tensor) -> tuple[float, Tensor]:
        self.evaluations += 1
        with self._exact_products:
            value, gradient = self._value_and_gradient(self._with_multipliers(self.point(params)))
        return value, gradient[: len(params)]

    def value_and_hessian(self, params: Tensor) -> tuple[float, Product]:
        values: list[Tensor] = []

        def of_chunk(leaves: Pieces, inputs: Tensor, labels: Tensor) -> Callable[[Pieces], Pieces]:
            loss = self._sum(leaves, inputs, labels)
            if self._fits:
                values.append(loss.detach())
            gradients = self._differentiate(loss, leaves, create_graph=True)
            return lambda tangents: pulled_back(gradients, leaves, tangents)

        with self._exact_products:
            product = self.products(self._with_multipliers(self.point(params)), of_chunk)
        if not values:  # every product makes its graphs anew
            return self.value(params), product
        self.evaluations += 1
        return float(self._over_all(torch.stack(values).sum())) / self.weight, product

    def products(
        self, point: Tensor, of_chunk: Callable[[Pieces, Tensor, Tensor], Callable[[Pieces], Pieces]]
    ) -> Product:
        """v -> M v, (n,), where M times the weight of all examples is the sum of `of_chunk(leaves, inputs, labels)`.

        Its graphs are kept if the data fits.
        """
        leaves = self._leaves(point)
        with torch.enable_grad(), self._exact_products:
            kept = [of_chunk(leaves, *chunk) for chunk in self._chunks()] if self._fits else []

        @torch.enable_grad()
        def summed(vector: Tensor) -> Tensor:
            tangents = self._pieces(vector)
            products = kept or (of_chunk(leaves, *chunk) for chunk in self._chunks())
            with self._exact_products:
                total = reduce(torch.add, (_flat(product(tangents)) for product in products))
            return self._over_all(total).div_(self.weight)

        def product(vector: Tensor) -> Tensor:
            self.evaluations += 1
            tangent = torch.cat([vector, vector.new_zeros(len(point) - len(vector))]) if self._widths else vector
            for _ in range(2 * len(self._widths)):  # the statistics' tangent first, then the multipliers'
                _, statistics, multipliers = summed(tangent).split(self._split)
                tangent = torch.cat([vector, multipliers, statistics])
            return summed(tangent)[: len(vector)]

        return product

    def outputs(self, pieces: Pieces, inputs: Tensor) -> tuple[Any, Tensor | None]:
        """The outputs of a chunk, and 0 with the gradient of m . S where the point has multipliers m."""
        given = [one.view(2, -1) for one in pieces[-2].split(self._widths)] if self._widths else []
        outputs, moments = self._forward(pieces, given, inputs)
        outputs = changed(outputs, Tensor.double)  # small losses have digits, in float32 too
        if self._logit_scale is not None:
            logits = prediction_of(outputs)
            outputs = logits * (self._logit_scale / logits.std(-1, correction=0, keepdim=True))
        if not self._widths:
            return outputs, None
        coupling = len(inputs) * (self.weight / self.examples) * (pieces[-1] @ _flat(moments))
        return outputs, coupling - coupling.detach()

    def _forward(self, pieces: Pieces, given: list[Tensor], inputs: Tensor) -> tuple[Any, list[Tensor]]:
        """The outputs, and (2, channels) for every call of a hooked layer: see `Tape`."""
        self._tape.begin(given)
        outputs = self._model(pieces, inputs)
        return outputs, self._tape.end()

    @property
    def _split(self) -> list[int]:
        """The sizes of a point's parameters, statistics and multipliers."""
        return [len(self.params), sum(self._widths), sum(self._widths)]

    def _pieces(self, point: Tensor) -> list[Tensor]:
        """The parameters in their shapes, then statistics and multipliers where the point has some."""
        params, *others = point.split(self._split) if self._widths else (point,)
        return [*self._weights(params), *others]

    def _weights(self, params: Tensor) -> list[Tensor]:
        own = zip(params.split(self._sizes), self.shapes.values(), strict=True)
        return [piece.view(shape) for piece, shape in own]

    def _leaves(self, point: Tensor) -> Pieces:
        """The pieces as what derivatives are taken in: of a flat point, each would be put together from its pieces."""
        return [piece.requires_grad_() for piece in self._pieces(point.detach().clone())]

    @torch.no_grad()
    def point(self, params: Tensor) -> Tensor:
        """`params`; `recalibrated` in chunks, then its statistics, layer by layer, and multipliers of 0."""
        given: list[Tensor] = []
        self._widths = []
        while self._in_chunks:
            pieces = self._pieces(params)
            seen = [self._forward(pieces, given, inputs)[1][len(given) :] for inputs, _ in self._chunks()]
            if not seen[0]:  # every layer has its statistics
                break
            shares = self.params.new_tensor(self._cuts)[:, None] / self.examples
            means, variances = torch.stack([moments[0] for moments in seen], dim=1)
            mean = self._over_all((shares * means).sum(0))
            variance = self._over_all((shares * (variances + (means - mean).square())).sum(0))
            given.append(torch.stack([mean, variance]))
        self._widths = [one.numel() for one in given]
        return torch.cat([params, *(one.view(-1) for one in given), params.new_zeros(sum(self._widths))])

    def _sum(self, pieces: Pieces, inputs: Tensor, labels: Tensor) -> Tensor:
        """The summed loss of one chunk; float64 as a number, whatever the network computes in."""
        outputs, coupling = self.outputs(pieces, inputs)
        loss = self.task.example_losses(outputs, labels).sum(dtype=torch.float64)
        return loss if coupling is None else loss + coupling

    def _value_and_gradient(self, point: Tensor) -> tuple[float, Tensor]:
        leaves = self._leaves(point)
        total, gradient = torch.zeros((), dtype=torch.float64, device=point.device), torch.zeros_like(point)
        for inputs, labels in self._chunks():
            with torch.enable_grad():
                loss = self._sum(leaves, inputs, labels)
            gradient += _flat(self._differentiate(loss, leaves))
            total += loss.detach()
        return self._over_all(total).item() / self.weight, self._over_all(gradient).div_(self.weight)

    def _with_multipliers(self, point: Tensor) -> Tensor:
        """`point` with the multipliers that make the first part of its gradient that of `params`."""
        for _ in self._widths:
            gradient = self._value_and_gradient(point)[1]
            point = torch.cat([*point.split(self._split)[:2], gradient.split(self._split)[1]])
        return point

    def _over_all(self, total: Tensor) -> Tensor:
        """The sum over all examples, from that over `_chunks`: for subclasses that have some of them elsewhere."""
        return total

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self._inputs.split(self._cuts), self._labels.split(self._cuts), strict=True)


def _flat(pieces: Pieces) -> Tensor:
    return torch.cat([piece.reshape(-1) for piece in pieces])


def _check(
    model: nn.Module, examples: int, labels: int, chunk_size: int | None, mode: str, batch_size: int | None
) -> None:
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    odd = [f"{name} of {own.dtype}" for name, own in model.named_parameters() if not own.is_floating_point()]
    if examples == 0 or examples != labels:
        raise ValueError(f"`inputs` must hold as many examples as `labels`, and some, got {examples} and {labels}")
    if odd:
        raise ValueError(f"`model` must have floating-point parameters, got {', '.join(odd)}; make them buffers")
    if not any(own.requires_grad for own in model.parameters()):
        raise ValueError("`model` must have parameters that require gradients, got none; unfreeze those to measure")
    if mode not in get_args(BatchNorm):
        raise ValueError(f"`batch_norm` must be one of {', '.join(get_args(BatchNorm))}, got {mode!r}")
    if (batch_size is None or batch_size < 2 or chunk_size is not None) if mode == "batch" else batch_size is not None:
        raise ValueError(f"`batch_size` must be 2 or more with 'batch', and no chunk_size; else None, got {batch_size}")
    if mode == "running" and any(layer.running_mean is None for layer in layers):
        raise ValueError("`batch_norm` must be 'batch' or 'recalibrated' for layers without running statistics")
    if mode != "running" and layers and examples == 1:
        raise ValueError(f"`inputs` must hold 2 examples or more for batch_norm={mode!r}, got 1; use 'running'")
