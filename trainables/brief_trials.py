"""What is odd about trials that can run, one line each, found out by brief trials on a few examples of the data.

Nothing here is a UserError: an update may rightly change nothing for a while, and a trial goes on without a measure.
"""

import contextlib
import dataclasses
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.data.rows import tensor_of
from trainables.models.libraries import library_of
from trainables.records.tables import Row
from trainables.runtime.compiled import uncompiled
from trainables.runtime.errors import reason_of
from trainables.runtime.importing import is_import_path
from trainables.runtime.time_limit import time_limit
from trainables.sharpness import ModelLoss
from trainables.tasks.outputs import prediction_of
from trainables.training.loop import Training
from trainables.training.own_step import OwnLoss, OwnTraining
from trainables.trial import Trial

IDLE_STEPS = 100  # of a user's own code, after which it is odd that no parameter has changed
SAME_LOSS = 1e-4  # of the largest: losses of an example that differ by less are the same but for rounding
LOGITS = ("classification", "language")  # tasks whose loss is the cross-entropy of a softmax
FIRST_EVALUATIONS = 12  # of a loss: enough for each kind that a measure asks for
MEASURES_SECONDS = 30.0  # for all measures of one network


def doubts(
    configs: Sequence[TrialConfig],
    source: Source,
    timeout: float | None,
    begin: Callable[[TrialConfig], object],
) -> Iterator[str]:
    """All lines; `begin` is called before the measures of a network are tried."""
    lines = doubts_about_code(configs, source), uncovered_parameters(configs, source)
    return itertools.chain(*lines, failing_measures(configs, source, timeout, begin))


def who(config: TrialConfig, source: Source) -> str:
    """What trains: a user's own trial or task is named, since the model need not be at fault."""
    task = config.task or source.task
    if config.trial is not None:
        return f"`--trial` {config.trial}"
    return f"`--task` {task} with --model {config.model}" if is_import_path(task) else f"`--model` {config.model}"


def failing_measures(
    configs: Sequence[TrialConfig],
    source: Source,
    timeout: float | None,
    begin: Callable[[TrialConfig], object] = lambda config: None,
) -> Iterator[str]:
    """For each reason why measures of `configs` have no value on the few examples of `source`, one line.

    A trial goes on without them, so this is no UserError. Each measure is begun after an update of the weights, and
    ends at FIRST_EVALUATIONS: what raises does so there. What takes more than MEASURES_SECONDS is not waited for.
    """
    seconds = MEASURES_SECONDS if timeout is None else min(timeout, MEASURES_SECONDS)
    late = f"took more than {seconds:g} s"
    for config in {_measured(config): config for config in configs if config.measures}.values():
        begin(config)
        try:
            with time_limit(seconds, late):
                trial = BriefTrial(config, source)
                with uncompiled():
                    trial.train()
                    trial.measure()
        except Exception as error:  # of these examples: the training itself has been checked
            yield f"measures on {config.model} could not be tried: {reason_of(error)}"
            continue
        names: dict[str, list[str]] = {}
        for row in trial.measures:
            names.setdefault(row["error"], []).append(row["measure"])
        for reason, failed in names.items():
            what = "could not be tried" if reason == late else "cannot be measured, the trials go on without"
            yield f"{', '.join(dict.fromkeys(failed))} on {config.model} {what}: {reason}"


def uncovered_parameters(configs: Sequence[TrialConfig], source: Source) -> Iterator[str]:
    """For each network with parameters that its noise scale does not cover, one line: how many, and which."""
    for config in {(c.model, c.model_options, c.task, c.noise_scale): c for c in configs if c.noise_scale}.values():
        scale = BriefTrial(config, source).training.noise_scale
        if scale is not None and (line := scale.uncovered()):
            yield f"on {config.model} {line}"


def doubts_about_code(configs: Sequence[TrialConfig], source: Source) -> Iterator[str]:
    """For each network, task or training step of a user's own whose results depend on what they should not, one line
    for each way: no parameter changes, a saved trial continues differently, an example's loss depends on its batch, a
    token's loss on the tokens after it, outputs are probabilities."""
    kinds = {(c.trial, c.model, c.model_options, c.task or source.task): c for c in configs}
    for (trial, model, _, task), config in kinds.items():
        if trial is None and not is_import_path(task) and (not is_import_path(model) or library_of(model)):
            continue
        found: list[str] = []
        with contextlib.suppress(Exception), time_limit(MEASURES_SECONDS, ""), uncompiled():  # of these few examples
            one, other = (BriefTrial(config, source, epochs=2) for _ in range(2))
            if not is_resumed(one, other):
                found.append(
                    "continues differently after it is saved and loaded, so interrupted trials end with other results; "
                    "its state_dict must hold all that a step depends on"
                )
            if is_idle(one) and is_idle(BriefTrial(config, source, epochs=IDLE_STEPS)):
                found.append(f"changes no parameter of its model in {IDLE_STEPS} steps on a few examples")
            for is_so, line in () if isinstance(one.training, OwnTraining) else DOUBTS_ABOUT_LOSSES:
                if is_so(one.training):  # one that raises ends the look, and leaves the lines before it
                    found.append(line)
        yield from (f"{who(config, source)} {line}" for line in found)


def is_resumed(one: Trial, other: Trial) -> bool:
    """Whether `one`, saved after an epoch and loaded into `other`, has the same second epoch there."""
    one.training.train_epoch()
    with tempfile.TemporaryDirectory() as folder:
        one.save(Path(folder) / "trial.pt")
        other.resume(Path(folder) / "trial.pt")
    for trial in (one, other):
        trial.train()
    first, second = (json.dumps(trial.training.epochs[-1] | {"seconds": 0}) for trial in (one, other))
    return first == second


def is_idle(trial: Trial) -> bool:
    """Whether all steps of `trial` change no parameter."""
    while not trial.training.finished:
        trial.training.train_epoch()
        if trial.training.epochs[-1]["distance"]:
            break
    return not trial.training.epochs[-1]["distance"]


def depends_on_batch(training: Training) -> bool:
    """Whether the losses of examples in two halves of a batch are other ones than in the whole."""
    task, model = training.task, training.task.evaluation_mode(training.model)
    inputs, labels = (tensor_of(part) for part in (training.data.train_inputs, training.data.train_labels))
    with torch.no_grad():
        together, again = (task.example_losses(model(inputs), labels) for _ in range(2))
        halves = zip(inputs.chunk(2), labels.chunk(2), strict=True)
        apart = torch.cat([task.example_losses(model(half), targets) for half, targets in halves])
    is_other = (together - apart).abs().max() > SAME_LOSS * together.abs().max()
    return bool(is_other) and torch.equal(together, again)


def sees_the_answer(training: Training) -> bool:
    """Whether the losses of tokens depend on a later token, where each label is the next token."""
    inputs, labels = (tensor_of(part) for part in (training.data.train_inputs, training.data.train_labels))
    if labels.shape != inputs.shape or inputs.is_floating_point() or not torch.equal(inputs[:, 1:], labels[:, :-1]):
        return False
    task, model = training.task, training.task.evaluation_mode(training.model)
    changed = inputs.clone()
    changed[:, -1] = (inputs[:, -1] + 1) % training.data.num_classes
    with torch.no_grad():
        first, again, other = (task.loss(model(tokens), labels)[:, :-1] for tokens in (inputs, inputs, changed))
    return bool((first - other).abs().max() > SAME_LOSS * first.abs().max()) and torch.equal(first, again)


def gives_probabilities(training: Training) -> bool:
    """Whether the outputs of classes are all from 0 to 1 and sum to 1, where the loss takes logits."""
    task, model = training.task, training.task.evaluation_mode(training.model)
    if task.name not in LOGITS:
        return False
    with torch.no_grad():
        outputs = prediction_of(model(tensor_of(training.data.train_inputs)))
    sums = outputs.double().sum(-1)
    return bool((outputs >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=SAME_LOSS))


DOUBTS_ABOUT_LOSSES = (
    (
        depends_on_batch,
        "gives an example another loss with other examples in its batch, also in evaluation mode, so results depend on "
        "how data are cut into batches; is a batch_first=True missing?",
    ),
    (
        sees_the_answer,
        "sees the next tokens, which are the labels, so its losses mean nothing; is a causal mask missing?",
    ),
    (gives_probabilities, "gives probabilities, but the cross-entropy takes logits; leave its softmax out"),
)


class _EnoughEvaluations(BaseException):  # no Exception, which measures may catch
    """A measure has gone on without an error for as long as it was to."""


class _BriefLoss(ModelLoss):
    """`loss`, which can be evaluated only a few times."""

    def __init__(self, loss: ModelLoss) -> None:
        vars(self).update(vars(loss))
        self._count = 0

    @property
    def evaluations(self) -> int:
        return self._count

    @evaluations.setter
    def evaluations(self, count: int) -> None:
        if count > FIRST_EVALUATIONS:
            raise _EnoughEvaluations
        self._count = count


class BriefTrial(Trial):
    """A trial of so many epochs, whose `measures` are the rows of those that fail."""

    def __init__(self, config: TrialConfig, source: Source, epochs: int = 1) -> None:
        size = max(1, len(source.inputs) - 2)
        few = dataclasses.replace(
            with_few_examples(config, size),
            epochs=epochs,
            test_size=2,  # a batch of 1 is none to batch norm without statistics
            validation_size=None,
            measure_every=None,
            measure_share=None,
        )
        super().__init__(few, source)

    def _check_labels(self) -> None:
        """So few may well be all of one class."""

    def _bound(self) -> ModelLoss | OwnLoss:
        loss = super()._bound()
        return _BriefLoss(loss) if isinstance(loss, ModelLoss) else loss

    def _rows(self, name: str, loss: ModelLoss | OwnLoss | str) -> list[Row]:
        if isinstance(loss, ModelLoss):
            loss.evaluations = 0
        if isinstance(loss, OwnLoss):
            return []  # it cannot be told to end early
        try:
            return [row for row in super()._rows(name, loss) if row.get("error") is not None]
        except _EnoughEvaluations:
            return []


def _measured(config: TrialConfig) -> tuple[object, ...]:
    """What decides whether measures have a value."""
    how = config.measure_dtype, config.measure_batch_norm
    optimizer = config.optimizer, config.optimizer_options, config.parameter_groups
    return config.trial, config.model, config.model_options, *optimizer, config.measures, *how


def with_few_examples(config: TrialConfig, size: int) -> TrialConfig:
    """`config` for `size` training examples, all in one batch."""
    return dataclasses.replace(
        config,
        train_size=size,
        batch_size=size,
        measure_examples=size,
        epochs=1,
        budget=None,
        evaluate_every=None,
        warmup_epochs=0,
        warmup_steps=None,
        switch_epoch=None,
        switch_batch_size=None,
        batch_schedule=None,
        decay=None,
        decay_epochs=None,
        decay_factor=None,
        decay_by=None,
        decay_share=None,
        decay_floor=0.0,
        local_workers=None,
        local_steps=None,
        local_from=None,
    )
