"""Examples as they are stored, turned into values one batch at a time.

Images stay uint8 and tokens uint16 or uint32, in memory or in a memory-mapped file, and become float32 or int64 when a
batch of them is taken, on the device where the batch is used:

    value = (stored / divisor - mean) / std          per channel, each step rounded to float32

NumPy, PyTorch on a CPU and PyTorch on a GPU round these steps alike: they divide by a tensor, because PyTorch replaces
a division by a Python number on a GPU with a multiplication, which rounds differently.

`Rows` has the few verbs of a tensor that training, evaluation and measures use on examples, so that they need not know
which of the two they were given. Indexing by a slice is lazy, by a tensor or a number it gives values.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainables.runtime.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Stored = NDArray[Any]
Examples: TypeAlias = "Tensor | Rows"

COPIED = 2**26  # bytes of values: fewer are copied out of what is stored, which saves a fifth of a small step
CHUNK = 2**22  # numbers that are looked at together, so that no check or digest needs a copy of all
EXACT = 2**24  # float32 holds all integers up to it
NONE = -1, -1  # the range of no numbers
RESIDENT_SHARE = 4  # stored examples that take at most this part of a GPU's memory are kept there, once per process


@dataclass(frozen=True)
class Scaling:
    """How stored numbers become float32 values; `mean` and `std` hold one number, or one for each channel."""

    divisor: int = 1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def values(self, stored: Stored) -> NDArray[np.float32]:
        """The values of stored examples (N, C, ...)."""
        values: NDArray[np.float32] = stored.astype(np.float32)
        for change, numbers in self._steps():
            one = np.array(numbers, dtype=np.float32).reshape(-1, *[1] * (values.ndim - 2))
            {"/": np.divide, "-": np.subtract}[change](values, one, out=values)
        return values

    def tensor(self, stored: Tensor) -> Tensor:
        """`values` of a tensor, on its device and to the same bits."""
        import torch

        values = stored.to(torch.float32, copy=True)
        for change, numbers in self._steps():
            one = torch.tensor(numbers, dtype=torch.float32, device=values.device)
            one = one.view(-1, *[1] * (values.ndim - 2)) if len(numbers) > 1 else one.view(())
            (values.div_ if change == "/" else values.sub_)(one)
        return values

    def _steps(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        if self.divisor != 1:
            yield "/", (self.divisor,)
        if self.mean is not None:
            yield "-", self.mean
        if self.std is not None:
            yield "/", self.std


def values_of(stored: Stored, scaling: Scaling | None) -> NDArray[Any]:
    """The values of stored examples: float32 with a scaling, int64 (tokens, labels) without."""
    if scaling is None:
        return stored if stored.dtype == np.float32 else stored.astype(np.int64, copy=False)
    return stored if stored.dtype == np.float32 and scaling == Scaling() else scaling.values(stored)


class Rows:
    """The examples `chosen` (None: all, in order) of `stored`, with batches on `device`."""

    def __init__(
        self, stored: Tensor, chosen: Tensor | None, scaling: Scaling | None, device: torch.device | None = None
    ) -> None:
        self._stored, self._chosen, self._scaling = stored, chosen, scaling
        self._device = device or stored.device

    def __len__(self) -> int:
        return len(self._stored if self._chosen is None else self._chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._stored.shape[1:])

    @property
    def ndim(self) -> int:
        return self._stored.ndim

    @property
    def device(self) -> torch.device:
        """The device of batches."""
        return self._device

    @property
    def is_resident(self) -> bool:
        """Whether the stored examples are on the device of the batches."""
        return self._stored.device == self._device

    @property
    def is_unsigned(self) -> bool:
        """Whether no number that is stored can be negative."""
        return not self._stored.dtype.is_signed

    @property
    def dtype(self) -> torch.dtype:
        """The type of values."""
        import torch

        return torch.int64 if self._scaling is None and not self._stored.is_floating_point() else torch.float32

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def numel(self) -> int:
        return len(self) * self._stored[0].numel()

    def index_select(self, dimension: int, indices: Tensor) -> Tensor:
        """The values of the examples at `indices`, (b, ...)."""
        if dimension != 0:
            raise ValueError(f"`dimension` must be 0, that of the examples, got {dimension}")
        indices = indices.to(self._stored.device)
        if self._chosen is not None:
            indices = self._chosen.to(self._stored.device).index_select(0, indices)
        return self._values(self._stored.index_select(0, indices))

    def split(self, size: int | list[int]) -> Iterator[Tensor]:
        """The values in chunks of `size`, or of these sizes, one chunk in memory at a time."""
        sizes = [size] * -(-len(self) // size) if isinstance(size, int) else size
        begin = 0
        for one in sizes:
            yield self[begin : begin + one].values()
            begin += one

    def values(self) -> Tensor:
        """All values, (N, ...)."""
        if self._chosen is None:
            return self._values(self._stored)
        return self._values(self._stored.index_select(0, self._chosen.to(self._stored.device)))

    def __getitem__(self, key: Any) -> Any:
        """Rows for a slice; the values of one example for a number, of several for a tensor of indices."""
        import torch

        if isinstance(key, slice) and key.step in (None, 1):
            if self._chosen is None:
                return Rows(self._stored[key], None, self._scaling, self._device)
            return Rows(self._stored, self._chosen[key], self._scaling, self._device)
        if isinstance(key, int):
            return self.index_select(0, torch.tensor([key % len(self)]))[0]
        if isinstance(key, torch.Tensor) and key.dtype == torch.int64:
            return self.index_select(0, key.reshape(-1)).view(*key.shape, *self.shape[1:])
        raise TypeError(f"examples are indexed by a number, a slice or a tensor of integers, got {key!r}")

    def at(self, indices: Tensor) -> Rows:
        """The examples at `indices`, of which no values are made yet."""
        chosen = indices if self._chosen is None else self._chosen[indices.to(self._chosen.device)]
        return Rows(self._stored, chosen, self._scaling, self._device)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.values().cpu().numpy(), dtype=dtype)

    def to(self, device: torch.device) -> Rows:
        """The same examples with batches on `device`, where what is stored is kept too if it takes a small part."""
        stored = self._stored
        if device.type != "cpu" and _fits(stored, device):
            stored = _copy(stored, device)
        return Rows(stored, None if self._chosen is None else self._chosen.to(stored.device), self._scaling, device)

    def _values(self, stored: Tensor) -> Tensor:
        import torch

        if stored.device != self._device:
            stored = stored.pin_memory() if self._device.type == "cuda" else stored
            stored = stored.to(self._device, non_blocking=True)
        if self._scaling is not None:
            return self._scaling.tensor(stored)
        return stored if stored.is_floating_point() else stored.to(torch.int64)


def rows_of(stored: Tensor, chosen: NDArray[np.int64] | None, scaling: Scaling | None) -> Examples:
    """The examples `chosen` (None: all) of `stored`: a tensor where that needs no copy or a small one, else Rows."""
    import torch

    rows = Rows(stored, None if chosen is None else torch.from_numpy(chosen), scaling)
    is_value = stored.dtype == rows.dtype and scaling in (None, Scaling())
    if is_value and chosen is None:
        return stored
    return held(rows)


def held(rows: Rows) -> Examples:
    """A tensor where that needs a small copy, else `rows` themselves."""
    return rows.values() if rows.numel() * rows.dtype.itemsize <= COPIED else rows


def tensor_of(examples: Examples) -> Tensor:
    """All values of `examples` in memory."""
    return examples.values() if isinstance(examples, Rows) else examples


def is_resident(examples: Examples) -> bool:
    """Whether a batch of `examples` is taken without leaving the device."""
    return not isinstance(examples, Rows) or examples.is_resident


def as_tensor(stored: Stored) -> Tensor:
    """`stored` itself as a tensor, or a copy where it runs backwards. Trap: it may be read-only: never write to it."""
    import torch

    if min(stored.strides, default=0) < 0:  # which tensors cannot
        stored = np.ascontiguousarray(stored)
    with warnings.catch_warnings():  # shared and mapped arrays are read-only; nothing here writes to them
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(stored)


def chunks(array: Stored) -> Iterator[Stored]:
    """`array` in pieces of some rows."""
    rows = max(1, CHUNK // max(1, array[:1].size))
    return (array[first : first + rows] for first in range(0, len(array), rows))


def require_exact(name: str, inputs: Stored) -> None:
    """Raises UserError for integers that float32 cannot tell apart."""
    if inputs.dtype.kind not in "iu" or inputs.dtype.itemsize < 4 or not len(inputs):
        return
    low, high = map(int, range_of(inputs))
    if max(-low, high) > EXACT:
        raise UserError(
            f"`dataset` {name} must have integer inputs from -{EXACT} to {EXACT}, which float32 holds exactly, "
            f"got {low} to {high}; scale them, or give token ids a label for each token"
        )


def range_of(array: Stored, padding: int | None = None) -> tuple[Any, Any]:
    """The smallest and the largest number but for `padding`; NONE where there is no other."""
    known = (chunk if padding is None else chunk[chunk != padding] for chunk in chunks(array))
    found = [(chunk.min(), chunk.max()) for chunk in known if chunk.size] or [NONE]
    return min(low for low, _ in found), max(high for _, high in found)


def _fits(stored: Tensor, device: torch.device) -> bool:
    import torch

    if device.type != "cuda":
        return True
    total = torch.cuda.get_device_properties(device).total_memory * torch.cuda.get_per_process_memory_fraction(device)
    return stored.numel() * stored.element_size() <= total / RESIDENT_SHARE


def _copy(stored: Tensor, device: torch.device) -> Tensor:
    """The copy of `stored` on `device`, made once in this process for all trials that share it."""
    kept: dict[torch.device, Tensor] = vars(stored).setdefault("copies", {})  # so they end with it
    if device not in kept:
        kept[device] = stored.to(device)
    return kept[device]
