"""Record an update once and repeat it, which is faster where a small batch spends most of its time in Python.

A recording repeats the operations of an update at the same addresses: by one launch on a GPU
(trainables.training.cuda_graph), as a list on a CPU (trainables.training.operation_list). Everything that changes from
one update to the next must therefore have a fixed address: the indices of the batch and the learning rate are copied
there first; weights, moments and statistics are changed in place anyway.

Nothing is taken on trust. Before a recording is used it and the update do the same batch from the same state with the
same random numbers; unless both leave the same bits in every weight, buffer and moment, the recording is dropped. Where
an update could not be recorded it is done as ever.

Only updates of one gradient and one step are recorded, of networks whose recordings were seen on a GPU (docs/gpu.md),
and none that uses its own random generator. A recording keeps the memory of its activations until the training ends, so
the batch size and the number of recordings are limited. On a CPU large networks are not recorded.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.runtime.seeds import preserve_rng
from trainables.training.cuda_graph import cuda_graph
from trainables.training.operation_list import MEMORY, operation_list
from trainables.training.optimizers.optimizer import Optimizer
from trainables.training.update import Update

Work = Callable[[], None]
Recorder = Callable[[Work], Work]  # what it returns repeats the work; it may do the work itself, too

RECORDABLE_NETWORKS = ("mlp", "f1", "f2", "c1", "c2", "c3", "c4", "gpt")
RECORDABLE_OPTIMIZERS = ("adam", "adamw", "sgd", "adagrad")  # fused kernels that read their rate from memory
LARGEST_BATCH = 512
MOST_RECORDINGS = 4  # at a time, of as many batch sizes: each keeps memory
UPDATES_BEFORE = 20  # with a batch of that size: they make what is made once, and show that it comes often


def recorder_for(device: torch.device) -> Recorder:
    """Return the function that records updates on `device`."""
    return operation_list if device.type == "cpu" else cuda_graph


def is_recordable(config: TrialConfig) -> bool:
    """Whether an update of `config` is one gradient and one step, all on the device, the same operations every time.

    A user's network may not be: Python numbers of its own, such as a count of calls, would stay as they were recorded.
    Nor is the LSTM: cuDNN has random numbers of its own for its dropout, which cannot be put back.
    """
    drawn_on_the_cpu = (config.augmentation, config.noise_batch_size)
    of_several_gradients = (
        config.input_adversary,
        config.weight_adversary,
        config.sam_radius,
        config.proximal,
        config.gradient_penalty,
        config.svrg_every,
        config.local_workers,
    )
    is_plain = all(part is None for part in (*drawn_on_the_cpu, *of_several_gradients))
    is_of_one_kernel = config.optimizer in RECORDABLE_OPTIMIZERS and not config.layer_adaptation
    is_known = config.model in RECORDABLE_NETWORKS and config.noise_scale is None
    return is_plain and is_of_one_kernel and is_known


class RecordedUpdate:
    """An Update of the weights of `model`, to the same bits, by recordings that `record` makes.

    On a GPU the learning rate must be a number of float32: its kernels read no other from memory.
    """

    def __init__(self, update: Update, model: nn.Module, record: Recorder) -> None:
        self._update = update
        self._model = model
        self._record = record
        self._device = next(model.parameters()).device
        self._rates: list[Tensor] = []  # by group of the optimizer
        self._optimizer: Optimizer | None = None
        self._updates: dict[int, int] = {}  # by the size of the batch
        self._recordings: dict[int, tuple[Tensor, Work]] = {}  # the place of the batch, and its update
        self._recorded: dict[int, None] = {}
        self._gradient = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)

    @property
    def recorded(self) -> list[int]:
        """The batch sizes whose updates are or were replayed."""
        return list(self._recorded)

    def release(self) -> None:
        """Drops the recordings, with the memory that each has to itself."""
        self._recordings = {}

    def begin_epoch(self, epoch: int) -> None:
        self._update.begin_epoch(epoch)

    def random_state(self) -> list[Tensor]:
        return self._update.random_state()

    def restore_random_state(self, states: list[Tensor]) -> None:
        self._update.restore_random_state(states)

    def __call__(self, optimizer: Optimizer, batch: Tensor) -> None:
        if optimizer is not self._optimizer:  # its moments lie elsewhere
            self._optimizer, self._updates, self._recordings = optimizer, {}, {}
            kind = torch.float64 if self._device.type == "cpu" else torch.float32
            self._rates = [torch.zeros((), dtype=kind, device=self._device) for _ in optimizer.param_groups]
        size = len(batch)
        self._updates[size] = self._updates.get(size, 0) + 1
        if size in self._recordings:
            place, replay = self._recordings[size]
            place.copy_(batch)
            self._note_rates(optimizer)
            replay()
        elif self._updates[size] == UPDATES_BEFORE and self._is_small_enough(size) and _is_fused(optimizer):
            self._do_and_record(optimizer, batch)
        else:
            self._update(optimizer, batch)

    def _is_small_enough(self, size: int) -> bool:
        return size <= LARGEST_BATCH and (self._device.type != "cpu" or self._gradient <= MEMORY)

    def _do_and_record(self, optimizer: Optimizer, batch: Tensor) -> None:
        place, groups = batch.clone(), optimizer.param_groups
        self._note_rates(optimizer)
        state = self._state(optimizer)
        before = [tensor.clone() for tensor in state]

        def at_fixed_places() -> None:
            numbers = [group["lr"] for group in groups]
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = rate
            try:
                self._update(optimizer, place)
            finally:
                for group, number in zip(groups, numbers, strict=True):
                    group["lr"] = number

        try:
            with preserve_rng(self._device):
                replay = self._record(at_fixed_places)
            _restore(state, before)
            with preserve_rng(self._device):
                replay()
            replayed = [tensor.clone() for tensor in state]
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # of what cannot be recorded
            replayed = []
        _restore(state, before)
        del before
        self._update(optimizer, batch)
        if replayed and all(torch.equal(one, other) for one, other in zip(replayed, state, strict=True)):
            self._recordings[len(batch)] = place, replay
            self._recorded[len(batch)] = None
            if len(self._recordings) > MOST_RECORDINGS:
                oldest = next(iter(self._recordings))
                del self._recordings[oldest], self._updates[oldest]

    def _note_rates(self, optimizer: Optimizer) -> None:
        for rate, group in zip(self._rates, optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])

    def _state(self, optimizer: Optimizer) -> list[Tensor]:
        """All that an update changes."""
        weights = [parameter.detach() for parameter in self._model.parameters()]
        moments = [value for of_one in optimizer.state.values() for value in of_one.values()]
        return [*weights, *self._model.buffers(), *(value for value in moments if isinstance(value, Tensor))]


def _is_fused(optimizer: Optimizer) -> bool:
    """Whether its step reads the rate from memory; those of trainables.training.optimizers.plain do without saying."""
    return all(group.get("fused", True) for group in optimizer.param_groups)


def _restore(state: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(state, values, strict=True):
        tensor.copy_(value)
