"""How many examples a second each batch size trains on this device, by training for a moment.

Updates of whole batches alone are timed: no evaluation, no measures. Batch sizes take turns, so that a machine that
slows down or speeds up does so for all of them. The first pass of each is left out, because it allocates and compiles.
"""

import dataclasses
import time
from collections.abc import Sequence

import pandas as pd
import torch

from trainables.check import with_few_examples
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.trial import Trial

REPEATS = 5
PASS_SECONDS = 0.05  # the shortest pass that a clock and a scheduler allow
MOST_UPDATES = 4096  # of a pass


def measure_throughput(
    configs: Sequence[TrialConfig], source: Source, device: torch.device, seconds: float
) -> pd.DataFrame:
    """A row per repeat and batch size: `batch_size`, `replicate` (the number of the repeat), `throughput`.

    `configs` are trials of one batch size each; `seconds`: about as long is measured for each, in REPEATS repeats.
    """
    passes = [_Passes(config, source, device) for config in configs]
    rows = []
    for repeat in range(REPEATS):
        for one in passes:
            rows.append({"batch_size": one.batch_size, "replicate": repeat, "throughput": one.run(seconds / REPEATS)})
    return pd.DataFrame(rows)


class _Passes:
    """Passes of one trial over a few whole batches."""

    def __init__(self, config: TrialConfig, source: Source, device: torch.device) -> None:
        self.batch_size, self._device = config.batch_size, device
        updates, took = 1, 0.0
        most = min(MOST_UPDATES, config.train_size // config.batch_size)
        while True:
            few = dataclasses.replace(
                with_few_examples(config, updates * config.batch_size), batch_size=config.batch_size
            ).canonical()
            self._training = Trial(few, source, device).training
            self._examples = updates * config.batch_size
            self._pass()
            took = self._pass()
            if took >= PASS_SECONDS or updates == most:
                break
            updates = min(most, 4 * updates)

    def run(self, seconds: float) -> float:
        """Examples a second over passes that take `seconds`, and one at least."""
        examples, took = 0, 0.0
        while took < seconds:
            took += self._pass()
            examples += self._examples
        return examples / took

    def _pass(self) -> float:
        self._wait()
        started = time.perf_counter()
        self._training.pass_over_data()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
