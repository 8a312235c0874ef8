"""Squared norms of per-example gradients, from one backward pass over a whole batch.

Forward hooks on the layers that trainables.training.layer_gradients supports keep the inputs. The norms are computed in
the backward pass, when the gradient of a layer's outputs arrives. The hooks only read tensors that the pass creates
anyway, so its results are bit-identical with and without them.

`PerExampleNorms.covering` decides before training which parameters are covered: those whose norms agree, on a few
examples, with autograd's for one example at a time. It compares at slightly perturbed weights, because initial weights
of 0 hide the layers below them. So a layer is excluded, not counted wrongly, if the network uses it without calling it
(`nn.MultiheadAttention`), if its inputs have no example dimension (learned positions), or if other hooks change it.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainables.data.rows import Examples, tensor_of
from trainables.runtime.seeds import preserve_rng
from trainables.tasks.task import Task
from trainables.training.layer_gradients import OF_LAST_AXIS, Gradient, Rule, rule_of, squared_norms

COMPARED = 3  # examples
AGREES = 1e-3  # relative error of a squared norm, in float32
MOVED = 0.02  # standard deviation of the perturbation of the weights
ROUNDING = 1e-9  # share of an example's whole squared norm that counts as 0, such as the gradient of a key's bias


class PerExampleNorms:
    """Collects, inside `watching`, the squared norms of per-example gradients for `parameters` of `model`.

    `names`: names from `model.named_parameters()`. None: all trainable parameters of supported layers, or of
    normalization layers if `only_normalization`.
    """

    def __init__(
        self, model: nn.Module, *, only_normalization: bool = False, names: Collection[str] | None = None
    ) -> None:
        own = {name: parameter for name, parameter in model.named_parameters() if names is None or name in names}
        name_of = {parameter: name for name, parameter in own.items() if parameter.requires_grad}
        self.parameters: dict[str, nn.Parameter] = {}
        self._watched: list[_Watched] = []
        for module in model.modules():
            mine = {name: p for name, p in module.named_parameters(recurse=False) if p in name_of}
            if mine and (rule := rule_of(module, only_normalization)) is not None:
                self._watched.append(_Watched(module, rule, mine))
                self.parameters |= {name_of[parameter]: parameter for parameter in mine.values()}
        self._count, self._is_whole = 0, True
        self._uses: Counter[nn.Parameter] = Counter()
        self._gradients: dict[nn.Parameter, list[Gradient]] = {}
        self._found: list[tuple[int, dict[nn.Parameter, Tensor]]] = []  # per pass: examples, norms

    @classmethod
    def covering(
        cls, model: nn.Module, inputs: Examples, labels: Examples, task: Task, *, only_normalization: bool = False
    ) -> "PerExampleNorms":
        """The norms of all parameters for which they agree with autograd's on the first examples.

        Weights, modes, buffers, gradients and the random state are restored.
        """
        few, targets = (tensor_of(part[:COMPARED]) for part in (inputs, labels))
        norms_of = partial(cls, model, only_normalization=only_normalization)
        modes = [(module, module.training) for module in model.modules()]
        task.evaluation_mode(model)
        try:
            with preserve_rng(few.device), _moved(model), torch.enable_grad():
                names = _agreeing(norms_of, model, few, targets, task)
        finally:
            for module, training in modes:
                module.training = training
        return norms_of(names=names)

    @contextlib.contextmanager
    def watching(self, count: int) -> Iterator[None]:
        """Collect the norms of one pass over `count` examples, or of each pass that `begin` announces."""
        self._found, self._count, self._is_whole = [(count, {})], count, True
        self._uses.clear()
        handles = [one.module.register_forward_hook(partial(self._forward, one)) for one in self._watched]
        try:
            yield
            self._finish()
        finally:
            for handle in handles:
                handle.remove()
            self._gradients.clear()

    def begin(self, count: int) -> None:
        """Announce a pass over `count` examples, part of a batch that is processed in parts."""
        self._finish()
        self._found = [*([] if self._is_whole else self._found), (count, {})]
        self._count, self._is_whole = count, False
        self._uses.clear()

    def squared(self) -> Tensor:
        """(N, parameters), in the order of the passes; 0 for a parameter that the loss does not depend on."""
        return torch.cat(
            [
                torch.stack([found.get(p, self._zeros(count)) for p in self.parameters.values()], 1)
                for count, found in self._found
            ]
        )

    @property
    def seen(self) -> set[str]:
        """The names of the parameters that got gradients in the last pass."""
        return {name for name, parameter in self.parameters.items() if parameter in self._found[-1][1]}

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros(count, device=next(iter(self.parameters.values())).device)

    def _forward(self, watched: "_Watched", module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not inputs or not isinstance(output, Tensor) or not output.requires_grad:
            return
        x = inputs[0].detach()
        rows = {len(one) if one.ndim else 0 for one in (x, output)}
        if rows == {self._count} or (isinstance(module, OF_LAST_AXIS) and all(n % self._count == 0 for n in rows)):
            self._uses.update(watched.parameters.values())
            output.register_hook(partial(self._backward, watched, x))

    @torch.no_grad()
    def _backward(self, watched: "_Watched", x: Tensor, y: Tensor) -> None:
        parameters = watched.parameters
        dtype = next(iter(parameters.values())).dtype
        y, x = y.to(dtype), x.to(dtype) if x.is_floating_point() else x
        if len(y) != self._count:  # an example's rows are adjacent
            x, y = (tensor.unflatten(0, (self._count, -1)) for tensor in (x, y))
        for name, gradient in watched.rule(watched.module, x, y).items():
            if (parameter := parameters.get(name)) is not None:
                uses = self._gradients.setdefault(parameter, [])
                uses.append(gradient)
                if len(uses) == self._uses[parameter]:
                    self._found[-1][1][parameter] = squared_norms(self._gradients.pop(parameter))

    @torch.no_grad()
    def _finish(self) -> None:
        """Count parameters only some of whose uses the loss depends on."""
        for parameter, uses in self._gradients.items():
            self._found[-1][1][parameter] = squared_norms(uses)
        self._gradients.clear()


@dataclass(frozen=True)
class _Watched:
    module: nn.Module
    rule: Rule
    parameters: dict[str, nn.Parameter]  # by their names in the module


@contextlib.contextmanager
def _moved(model: nn.Module) -> Iterator[None]:
    """Perturb the parameters of `model`, and restore them at the end."""
    with torch.no_grad():
        saved = [parameter.clone() for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=MOVED)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(model.parameters(), saved, strict=True):
                parameter.copy_(before)


def _agreeing(
    norms_of: Callable[..., PerExampleNorms], model: nn.Module, inputs: Tensor, labels: Tensor, task: Task
) -> set[str]:
    """The names of the parameters whose squared norms agree with gradients computed one example at a time."""
    parameters = norms_of().parameters
    wanted, names = list(parameters.values()), list(parameters)

    def gradients(rows: slice) -> tuple[Tensor, ...]:
        loss = task.example_losses(model(inputs[rows]), labels[rows]).sum()
        return torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)

    if not wanted:
        return set()
    alone = [gradients(slice(row, row + 1)) for row in range(len(inputs))]
    expected = torch.tensor([[float(one.double().square().sum()) for one in each] for each in alone])
    allowed = AGREES * expected + ROUNDING * expected.sum(1, keepdim=True)

    def found(own: Collection[str]) -> set[str]:
        norms = norms_of(names=own)
        try:
            with norms.watching(len(inputs)):
                gradients(slice(None))
        except Exception:
            if len(own) == 1:
                return set()
            return set().union(*(found({name}) for name in own))  # some layer is used in an unusual way
        columns = [names.index(name) for name in norms.parameters]
        agree = ((norms.squared().cpu() - expected[:, columns]).abs() <= allowed[:, columns]).all(0).tolist()
        return {name for name, agrees in zip(norms.parameters, agree, strict=True) if agrees and name in norms.seen}

    return found(set(names))
