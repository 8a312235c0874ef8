"""Check the trials before the first one starts, with trainables.check in a separate process.

Trials that cannot be trained are refused. A measure that fails does not stop the sweep: a line reports it.
"""

import contextlib
import dataclasses
import json
import pickle
from collections.abc import Callable, Iterator, Sequence

from sweeps.session.placement import Placement
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.data.dataset import EXAMPLES
from trainables.data.streams import StreamSource
from trainables.runtime.errors import LONGEST_REASON, UserError
from trainables.runtime.own_process import beside
from trainables.tasks.names import OF_CLASS_NUMBERS

COMMAND = "from trainables.check import main; main()"


def check(configs: Sequence[TrialConfig], source: Source, placement: Placement) -> list[str]:
    """Raises UserError where one of `configs` cannot run on data like `source`, also where its model ends a process.

    Returns a line for each reason why measures will have no value.
    """
    with checking(configs, source, placement) as passed:
        return passed()


@contextlib.contextmanager
def checking(configs: Sequence[TrialConfig], source: Source, placement: Placement) -> Iterator[Callable[[], list[str]]]:
    """Checks `configs` beside the block; what is yielded waits for the outcome, and is like `check`."""
    few = source  # whose images, those that the trials need, the other process decodes
    if source.decoded is None and not isinstance(source, StreamSource):
        first, own = source.inputs[:EXAMPLES], source.labels[:EXAMPLES]
        few = dataclasses.replace(source, inputs=first, labels=own, test_inputs=None, test_labels=None, is_checked=True)
    labels = () if source.task in OF_CLASS_NUMBERS else (source.labels, source.test_labels)
    limits = placement.trial_timeout, placement.micro_batch_size, placement.workers_per_trial
    arguments = configs, few, *limits, labels
    with beside(COMMAND, lambda given: pickle.dump(arguments, given)) as process:

        def passed() -> list[str]:
            status, answer = process.wait()
            said = [json.loads(line) for line in answer.splitlines()]
            answers = [line for line in said if isinstance(line, str)]
            refusal, failing = (answers[0], answers[1:]) if answers else (None, [])
            tried = [line["model"] for line in said if isinstance(line, dict)] or [configs[0].model]
            if refusal:
                raise UserError(refusal)
            if not status:
                return failing
            last = process.last_line()[:LONGEST_REASON]
            if refusal is None:
                raise UserError(
                    f"`--model` {tried[-1]} cannot train on two examples: its process ended with status {status}: "
                    f"{last}"
                )
            return [*failing, f"measuring {tried[-1]} ended its process with status {status}: {last}"]

        yield passed
