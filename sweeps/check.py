"""The check of trials before any starts, by trainables.check in a process of its own."""

import contextlib
import dataclasses
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

from sweeps.placement import Placement
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.errors import UserError
from trainables.importing import importing_alike

COMMAND = "import gc; gc.disable(); from trainables.check import main; main()"  # PyTorch is imported sooner so


def check(configs: Sequence[TrialConfig], source: Source, placement: Placement) -> None:
    """Raises UserError where one of `configs` cannot run on data like `source`, also where its model ends a process."""
    with checking(configs, source, placement) as passed:
        passed()


@contextlib.contextmanager
def checking(configs: Sequence[TrialConfig], source: Source, placement: Placement) -> Iterator[Callable[[], None]]:
    """Checks `configs` beside the block; what is yielded waits for the outcome, and raises as `check` does."""
    few = dataclasses.replace(
        source, inputs=source.inputs[:2], labels=source.labels[:2], test_inputs=None, test_labels=None
    )
    limits = placement.trial_timeout, placement.micro_batch_size, placement.workers_per_trial
    with contextlib.ExitStack() as files:
        # Files, not pipes, for nobody reads or writes at the other end yet.
        arguments, answer, log = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        pickle.dump((configs, few, *limits), arguments)
        arguments.seek(0)
        process = subprocess.Popen(  # noqa: S603, a constant
            [sys.executable, "-c", COMMAND],
            stdin=arguments,
            stdout=answer,
            stderr=log,
            env=importing_alike(),
            start_new_session=True,  # an interruption is for this process alone, which then ends that one
        )

        def passed() -> None:
            status = process.wait()
            answer.seek(0)
            if said := answer.read().decode():
                raise UserError(said)
            if status:
                log.seek(0)
                last = (log.read().decode(errors="replace").strip().splitlines() or ["nothing said"])[-1]
                raise UserError(
                    f"`model` must train on two examples first, got {configs[0].model}, "
                    f"which ended with status {status}: {last}"
                )

        try:
            yield passed
        finally:
            process.kill()
            process.wait()
