"""Record an update as a list of tensor operations, and repeat it on a CPU without autograd.

For a small network, PyTorch spends more time in modules and in the autograd graph than in tensor operations. The list
repeats the operations in their order and writes each result to the memory of the recorded one, so the bits are the same
(speed: docs/speed.md). Views are not repeated, because they share the memory of their base.

Trap: the list calls an operation by its function in `torch`, which is faster than the operator object. If such a
function took its arguments in another order, the result would differ; every recording is checked before it is used.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # PyTorch documents this name

MEMORY = 2**22  # bytes of results that a list may keep: for larger ones the overhead hardly matters
UNFILLED = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


def operation_list(work: Callable[[], None]) -> Callable[[], None]:
    """Run `work` once and return a function that repeats its operations.

    Raises RuntimeError if the results take more than MEMORY bytes, or if `work` reads a tensor's value in Python.
    """
    with _Noted() as noted:
        work()
    calls = noted.calls

    @torch.no_grad()
    def replay() -> None:
        for call in calls:
            call()

    return replay


class _Noted(TorchDispatchMode):
    """Collects a call for every operation that runs while the mode is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Callable[[], Any]] = []
        self._bytes = 0

    def note(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = operation(*args, **(kwargs or {}))
        if operation.namespace == "profiler":  # it computes nothing
            return results
        name = operation.overloadpacket.__name__
        given, found = _detached((args, kwargs or {})), _detached(results)
        is_new = not _memory_of(found) <= _memory_of(given)
        self._bytes += sum(tensor.nbytes for tensor in _tensors(found)) if is_new else 0
        if name.endswith("_"):
            function = getattr(torch, name, None) or getattr(Tensor, name, operation)
            self.calls.append(partial(function, *given[0], **given[1]))
        elif is_new and name not in UNFILLED:
            self.calls.append(_repeated(operation, name, given[0], given[1], found))
        if self._bytes > MEMORY or isinstance(results, bool | int | float):
            raise RuntimeError(f"{name} cannot be part of a list of operations")
        return results


_Noted.__torch_dispatch__ = _Noted.note  # type: ignore  # defined in the class, it would import torch._dynamo


def _repeated(operation: Any, name: str, args: Any, kwargs: Any, found: Any) -> Callable[[], Any]:
    """Return a call of the operation that writes its results to the tensors of `found`."""
    if not isinstance(found, Tensor):

        def several() -> None:
            for place, result in zip(_tensors(found), _tensors(operation(*args, **kwargs)), strict=True):
                place.copy_(result)

        return several
    function = getattr(torch, name, operation)
    in_place = partial(function, *args, **kwargs, out=found)
    try:
        with torch.no_grad():
            in_place()
    except (TypeError, RuntimeError):  # it has no `out`
        return lambda: found.copy_(function(*args, **kwargs))
    return in_place


def _detached(tree: Any) -> Any:
    """Return the tree with every tensor detached from the autograd graph."""
    if isinstance(tree, Tensor):
        return tree.detach()
    if isinstance(tree, list | tuple):
        return type(tree)(_detached(part) for part in tree)
    if isinstance(tree, dict):
        return {name: _detached(part) for name, part in tree.items()}
    return tree


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _memory_of(tree: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in _tensors(tree)}
