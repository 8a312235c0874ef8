"""What a reader has to know before a trial is compared with others: the column `flags` of trials.parquet.

Trials are compared at equal training loss. With a target loss, reaching it decides. Without one, high accuracy says
that a classifier was trained to its end; a language model has no such mark, as text is never known to 99.9 %.
"""

from collections.abc import Sequence

from trainables.config import LARGE_NETWORK, TrialConfig
from trainables.measures import by_name
from trainables.records.flag_names import (
    DIVERGED,
    ENDED_BEFORE_SWITCH,
    ENDED_BY_TEST_SET,
    FAILED_MEASURE,
    IN_FLOAT32,
    LOW_TRAIN_ACCURACY,
    MISSED_LOSS,
    MISSED_METRIC,
    NOT_CONVERGED,
    PAPER_FAR_BELOW_STRONG,
)
from trainables.records.tables import Row
from trainables.training.loop import Training
from trainables.training.results import is_of_tokens

HIGH_TRAIN_ACCURACY = 0.999
FAR_BELOW = 0.5  # times the strong method's value


def flags_of(config: TrialConfig, training: Training, measured: Sequence[Row]) -> list[str]:
    """The flags of a trial of `config` whose `training` has ended, with the rows of its measures."""
    if training.diverged:
        return [DIVERGED]
    flags = []
    if training.reached_target is False:
        flags.append(MISSED_METRIC if config.target_loss is config.target_test_loss is None else MISSED_LOSS)
    elif not config.has_target and _is_below(training, HIGH_TRAIN_ACCURACY):
        flags.append(LOW_TRAIN_ACCURACY)
    if config.has_held_out_target and config.validation_size is None:
        flags.append(ENDED_BY_TEST_SET)
    if config.switch_epoch is not None and training.epochs_done <= config.switch_epoch:
        flags.append(ENDED_BEFORE_SWITCH)
    at_end = [row for row in measured if row["epoch"] == training.epochs_done]
    last_rows = [row for row in at_end if row.get("weights") is None]
    paper, strong = (
        final_value(last_rows, training.epochs_done, "box_sharpness", method, by_name.EPSILONS[0])
        for method in ("paper", "strong")
    )
    if paper is not None and strong is not None and paper < FAR_BELOW * strong:
        flags.append(PAPER_FAR_BELOW_STRONG)
    if any(row.get("converged") is False for row in last_rows if row.get("method") != "paper"):
        flags.append(NOT_CONVERGED)
    if any(row.get("error") is not None for row in at_end):
        flags.append(FAILED_MEASURE)
    own = sum(parameter.numel() for parameter in training.model.parameters() if parameter.requires_grad)
    in_float64 = config.measure_dtype == "float64" or (config.measure_dtype == "auto" and own < LARGE_NETWORK)
    if in_float64 and any(row["dtype"] == "float32" for row in last_rows):
        flags.append(IN_FLOAT32)
    return flags


def final_value(
    measured: Sequence[Row], epoch: float, measure: str, method: str, epsilon: float | None
) -> float | None:
    """The value of a measure of the trial's weights in this setting after `epoch` epochs; None where it has none."""
    for row in measured:
        setting = row.get("weights"), row["measure"], row.get("method"), row.get("epsilon")
        if row["epoch"] == epoch and setting == (None, measure, method, epsilon):
            return float(row["value"])
    return None


def _is_below(training: Training, accuracy: float) -> bool:
    """Whether the training accuracy is lower, where it says that a training has come to its end."""
    of_examples = training.task.metric == "accuracy" and not is_of_tokens(training)
    return of_examples and training.epochs[-1]["train_accuracy"] < accuracy
