"""How many examples a second each batch size trains on this device, by training for a moment.

Updates of whole batches alone are timed: no evaluation, no measures. Batch sizes take turns, so that a machine that
slows down or speeds up does so for all of them. The first pass of each is left out, because it allocates and compiles.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from trainables.brief_trials import with_few_examples
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.training.parallel import Workers
from trainables.trial import Trial

REPEATS = 5
PASS_SECONDS = 0.05  # the shortest pass that a clock and a scheduler allow
MOST_UPDATES = 4096  # of a pass


@dataclass(frozen=True)
class Throughput:
    """A row per repeat and batch size: `batch_size`, `replicate` (the number of the repeat), `throughput`; and the size
    of the gradient that several workers would sum."""

    passes: pd.DataFrame
    gradient_bytes: int


def measure_throughput(
    configs: Sequence[TrialConfig], source: Source, device: torch.device, seconds: float
) -> Throughput:
    """Examples per second.

    `configs` are trials of one batch size each; `seconds`: about as long is measured for each, in REPEATS repeats.
    """
    passes = [Passes(config, source, device) for config in configs]
    rows = []
    for repeat in range(REPEATS):
        for one in passes:
            rows.append({"batch_size": one.batch_size, "replicate": repeat, "throughput": one.run(seconds / REPEATS)})
    return Throughput(pd.DataFrame(rows), passes[0].gradient_bytes)


class Passes:
    """Passes of one trial over a few whole batches: `updates` of them, or as many as a clock needs.

    Of several `workers` each has its Passes, with the same number of `updates`.
    """

    def __init__(
        self,
        config: TrialConfig,
        source: Source,
        device: torch.device,
        workers: Workers | None = None,
        updates: int | None = None,
    ) -> None:
        self.batch_size, self._device = config.batch_size, device
        self.updates = updates or 1
        most = updates or min(MOST_UPDATES, config.train_size // config.batch_size)
        while True:
            few = dataclasses.replace(
                with_few_examples(config, self.updates * config.batch_size), batch_size=config.batch_size
            )
            self._training = Trial(few, source, device, workers).training
            self.run_once()
            self._seconds = self.run_once()
            if self._seconds >= PASS_SECONDS or self.updates == most:
                break
            self.updates = min(most, 4 * self.updates)

    @property
    def gradient_bytes(self) -> int:
        """The size of the gradient that workers would sum."""
        parameters = self._training.model.parameters()
        return sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)

    def passes_in(self, seconds: float) -> int:
        """How many passes take about `seconds`, one at least."""
        return max(1, round(seconds / self._seconds))

    def run(self, seconds: float) -> float:
        """Examples a second over passes that take `seconds`, and one at least."""
        examples, took = 0, 0.0
        while took < seconds:
            took += self.run_once()
            examples += self.updates * self.batch_size
        return examples / took

    def run_once(self) -> float:
        """Seconds of one pass."""
        self._wait()
        started = time.perf_counter()
        self._training.pass_over_data()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
