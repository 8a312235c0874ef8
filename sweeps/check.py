"""The check of trials before any starts, by trainables.check in a process of its own, beside the start of Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
from ray import tune

from sweeps.placement import Placement
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.errors import UserError


def check(configs: Sequence[TrialConfig], source: Source, placement: Placement) -> None:
    """Raises UserError where one of `configs` cannot run on data like `source`, also where its model ends a process."""
    with checking(configs, source, placement) as checked:
        checked.wait()


@contextlib.contextmanager
def checking(configs: Sequence[TrialConfig], source: Source, placement: Placement) -> Iterator[Checked]:
    """Checks `configs` beside the block; what is yielded raises as `check` does, when it is known."""
    two = dataclasses.replace(
        source,
        inputs=np.zeros((2, *source.inputs.shape[1:]), source.inputs.dtype.type),
        labels=np.zeros((2, *source.labels.shape[1:]), np.int64),
        test_inputs=None,
        test_labels=None,
    )
    limits = placement.trial_timeout, placement.micro_batch_size, placement.workers_per_trial
    with contextlib.ExitStack() as files:
        # Files, not pipes, for nobody reads or writes at the other end yet.
        arguments, answer, log = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        pickle.dump((configs, two, *limits), arguments)
        arguments.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "trainables.check"],
            stdin=arguments,
            stdout=answer,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # an interruption is for this process alone, which then ends that one
        )
        try:
            yield Checked(process, answer, log, configs[0].model)
        finally:
            process.kill()
            process.wait()


class Checked(tune.Callback):  # type: ignore[misc]
    """The outcome of a check: as a callback of Tune it ends the run as soon as it is bad, before any trial starts."""

    def __init__(self, process: subprocess.Popen[bytes], answer: IO[bytes], log: IO[bytes], model: str) -> None:
        self._process, self._answer, self._log, self._model = process, answer, log, model

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks

    def wait(self) -> None:
        """Raises UserError where a trial cannot run."""
        status = self._process.wait()
        self._answer.seek(0)
        if said := self._answer.read().decode():
            raise UserError(said)
        if status:
            self._log.seek(0)
            last = (self._log.read().decode(errors="replace").strip().splitlines() or ["nothing said"])[-1]
            raise UserError(
                f"`model` must train on two examples first, got {self._model}, which ended with status {status}: {last}"
            )

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._process.poll() is not None:
            self.wait()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.wait()
