"""An update recorded as a list of operations: for processors, where a small batch costs PyTorch more than its numbers.

Between the operations of an update PyTorch runs modules, makes the graph of the gradient and walks it. The list does
the same operations in the same order, each with its result at the place where it was: the same bits, without what lies
between (docs/speed.md says what that gains). A view is of the same memory as before, so it is not made again.

Trap: operations are called by PyTorch's functions for Python, at a third of the cost of the operations themselves.
One that takes its arguments in another order leaves other bits, which the check of every recording finds.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # so named in PyTorch's manual

MEMORY = 2**22  # bytes of results that a list may keep: above it, operations take longer than what lies between them
UNFILLED = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


def operation_list(work: Callable[[], None]) -> Callable[[], None]:
    """Records `work`, which is done once.

    Raises RuntimeError where the results take more than MEMORY, or where Python looks at one of them.
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
    """Notes every operation as a call that repeats it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Callable[[], Any]] = []
        self._bytes = 0

    def note(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = operation(*args, **(kwargs or {}))
        if operation.namespace == "profiler":  # it notes times
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
            raise RuntimeError(f"{name} is not for a list of operations")
        return results


_Noted.__torch_dispatch__ = _Noted.note  # type: ignore  # in the class PyTorch imports its compiler for it


def _repeated(operation: Any, name: str, args: Any, kwargs: Any, found: Any) -> Callable[[], Any]:
    """A call of the operation that leaves its results at the places of `found`."""
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
    """The same tensors, apart from the graph of a gradient, in the same lists, tuples and dicts."""
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
