"""The columns of the three tables of a sweep, with their types, and what a column was before it was recorded.

A table may have more columns than these, written by a newer version of this project; they are kept.
"""

import dataclasses
import types
import typing
from typing import Any

import pyarrow as pa

from trainables.config import TrialConfig
from trainables.remedies import REMEDIES
from trainables.tasks.names import TASKS

Row = dict[str, Any]

_ARROW_TYPES: dict[type, pa.DataType] = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}


def _arrow_type(annotation: Any) -> pa.DataType:
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not types.NoneType)
    return _ARROW_TYPES[annotation]


DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(TrialConfig)
    if field.default is not dataclasses.MISSING  # what a trial was before the field was there
}
DEFAULTS |= dict.fromkeys(
    (
        "numbers_version",
        "numpy_version",
        "measured",
        "measured_at",
        "within",
        "initial_weights",
        "frozen_parameters",
        "examples",
        "tokens",
        "weight_decay_form",
        "decayed_parameters",
        "weights",
    )
)  # unknown
OF_TASK = {
    "task": TASKS[0],
    "dataset_task": TASKS[0],
    "metric": "accuracy",
    "metric_unit": "points",
    "metric_direction": "higher",
}  # of trials from before there were tasks, which were all judged by their accuracy
DEFAULTS |= {**OF_TASK, "metrics": None}
METRIC_IS = {"train_metric": "train_accuracy", "test_metric": "test_accuracy"}  # likewise
DEFAULTS |= dict.fromkeys((*METRIC_IS, "steps_to_target", "examples_to_target", "train_loss_examples"))
RAW = "raw"  # the last weights of a trial whose own weights are an average of them
RAW_COLUMNS = tuple(f"{RAW}_{name}" for name in ("train_loss", "train_metric", "test_loss", "test_metric"))
DEFAULTS |= dict.fromkeys(RAW_COLUMNS)
NOISE_COLUMNS = (
    "gradient_noise_scale",
    "gradient_noise_scale_low",
    "gradient_noise_scale_high",
    "gradient_noise_trace",
    "gradient_noise_squared_gradient",
    "gradient_noise_layers",
)
DEFAULTS |= dict.fromkeys((*NOISE_COLUMNS, "noise_scale_parameters"))
DEFAULTS |= {"error": None}  # of a measure: one that failed left no rows
DEFAULT_OF_EARLIER_ROWS = {
    field.name: field.default
    for field in dataclasses.fields(TrialConfig)
    if field.name in DEFAULTS and not isinstance(field.type, types.UnionType)  # null has no meaning there
}
STATUSES = ("completed", "diverged", "failed")
REQUIRED = {  # of every row of a table
    "trials": (
        "trial_id",
        "status",
        *(field.name for field in dataclasses.fields(TrialConfig) if field.name not in DEFAULTS),
    ),
    "epochs": ("trial_id", "epoch"),
    "measures": ("trial_id", "measure"),
}
_FIELDS = sorted(dataclasses.fields(TrialConfig), key=lambda field: field.name in REMEDIES)

TRIALS = pa.schema(
    [
        ("trial_id", pa.string()),
        ("status", pa.string()),  # completed, diverged, failed
        ("numbers_version", pa.int64()),  # of the code that trained it, trainables.config; null before it was recorded
        *((field.name, _arrow_type(field.type)) for field in _FIELDS),
        ("remedy", pa.string()),  # what the trial does beyond the plain ones of its study, or none
        ("epochs_done", pa.float64()),  # fractional where a budget ends within an epoch
        ("steps", pa.int64()),
        ("examples", pa.int64()),  # used, each as often as it was used
        ("tokens", pa.int64()),  # of those; null where examples have one label each
        ("dataset_task", pa.string()),  # the task that the dataset itself is for; `task` is the trial's
        ("metric", pa.string()),  # the primary one of the task: accuracy, nats, mse, auc, ...
        ("metric_unit", pa.string()),  # of a difference in it; points are hundredths
        ("metric_direction", pa.string()),  # higher or lower, which is better
        ("train_loss_examples", pa.int64()),  # training examples that train_loss is of; null for all
        ("train_loss", pa.float64()),
        ("train_accuracy", pa.float64()),  # null where the task has none
        ("train_metric", pa.float64()),  # in the metric's own scale: accuracy in [0, 1]
        ("test_loss", pa.float64()),
        ("test_accuracy", pa.float64()),
        ("test_metric", pa.float64()),
        ("metrics", pa.string()),  # the others of the task, as JSON: {"test_balanced_accuracy": 0.9, ...}
        ("test_perplexity", pa.float64()),  # exp(test_loss), of language models
        *((name, pa.float64()) for name in RAW_COLUMNS),  # of the raw weights; null without an `average`
        ("generalization_gap", pa.float64()),  # of the metric, above 0 where the test set is worse
        ("large_batch_gap", pa.float64()),  # of the metric, above 0 where this trial is worse than its reference
        ("large_batch_loss_gap", pa.float64()),  # nats per example or token
        ("box_sharpness", pa.float64()),
        ("box_sharpness_paper", pa.float64()),
        ("hessian_max_eig", pa.float64()),
        ("measured", pa.list_(pa.string())),  # what has been measured and how, `TrialConfig.measurement`
        ("measured_at", pa.string()),  # when measures were added to the trained trial, as `finished_at`; else null
        ("reached_target", pa.bool_()),
        ("steps_to_target", pa.int64()),  # until a logging point first had it; null where none has
        ("examples_to_target", pa.int64()),
        ("flags", pa.list_(pa.string())),
        ("weight_decay_form", pa.string()),  # L2 or decoupled; null without weight decay
        ("decayed_parameters", pa.int64()),  # those that weight decay acts on; null where a user's own class decides
        ("parameters", pa.int64()),
        ("frozen_parameters", pa.int64()),  # of them; neither trained nor measured
        ("noise_scale_parameters", pa.int64()),  # that `noise_scale` covers; null without
        ("initial_weights", pa.string()),  # a hash; the same for two seeds if the network does not follow the seed
        ("train_seconds", pa.float64()),
        ("sharpness_seconds", pa.float64()),
        ("resumed_epoch", pa.float64()),  # where a checkpoint was taken up; null where the trial ran through
        ("finished_at", pa.string()),  # UTC, ISO 8601
        ("device", pa.string()),
        ("threads", pa.int64()),
        ("workers", pa.int64()),  # that trained it together
        ("micro_batch_size", pa.int64()),  # examples of a batch at once; null where batches were whole
        ("host", pa.string()),
        ("python_version", pa.string()),
        ("torch_version", pa.string()),
        ("numpy_version", pa.string()),
        ("ray_version", pa.string()),
        ("error", pa.string()),
    ]
)

EPOCHS = pa.schema(
    [
        ("trial_id", pa.string()),
        ("epoch", pa.float64()),  # epochs done at this logging point, by default the end of each epoch
        ("step", pa.int64()),
        ("examples", pa.int64()),  # as in TRIALS, until here
        ("tokens", pa.int64()),
        ("train_loss", pa.float64()),
        ("train_accuracy", pa.float64()),
        ("train_metric", pa.float64()),
        ("test_loss", pa.float64()),  # test_...: null where the test set was not evaluated (trainables.training.looks)
        ("test_accuracy", pa.float64()),
        ("test_metric", pa.float64()),
        ("metrics", pa.string()),
        ("distance", pa.float64()),  # l2 distance of the weights from the start
        ("lr", pa.float64()),
        ("batch_size", pa.int64()),
        ("seconds", pa.float64()),
        ("gradient_noise_scale", pa.float64()),  # of the steps until here, in examples; null without --noise-scale
        ("gradient_noise_scale_low", pa.float64()),  # its 95 % interval; an upper end is null where it is open
        ("gradient_noise_scale_high", pa.float64()),
        ("gradient_noise_trace", pa.float64()),  # tr(Sigma), of the gradient of one example
        ("gradient_noise_squared_gradient", pa.float64()),  # |G|^2
        ("gradient_noise_layers", pa.string()),  # by layer, as JSON: {"0": {"noise_scale": 9.1, "low": ...}, ...}
        # In the first epochs, the training loss of some of the examples between steps; `epoch` is fractional.
        ("within", pa.list_(pa.struct({"step": pa.int64(), "epoch": pa.float64(), "train_loss": pa.float64()}))),
    ]
)

MEASURES = pa.schema(
    [
        ("trial_id", pa.string()),
        ("epoch", pa.float64()),  # epochs done when it was measured: those of the trial, or fewer along the run
        ("weights", pa.string()),  # null for those of the trial; raw, of a trial with an `average`: the last ones
        ("measure", pa.string()),  # box_sharpness, hessian_max_eig, ...
        ("epsilon", pa.float64()),
        ("scale", pa.float64()),  # the radius of a ball, the standard deviation of a perturbation
        ("space", pa.string()),  # full
        ("method", pa.string()),  # paper, strong, lanczos, ...
        ("value", pa.float64()),
        ("loss_center", pa.float64()),
        ("residual", pa.float64()),
        ("stderr", pa.float64()),
        ("evaluations", pa.int64()),
        ("converged", pa.bool_()),
        ("seconds", pa.float64()),
        ("split", pa.string()),  # train
        ("examples", pa.int64()),
        ("batch_norm", pa.string()),  # running, batch, recalibrated
        ("batch_norm_batch_size", pa.int64()),
        ("dtype", pa.string()),
        ("seed", pa.int64()),
        ("error", pa.string()),  # why there is no value; null where there is one
    ]
)

RESULTS = ("train_loss", "train_accuracy", "train_metric", "test_loss", "test_accuracy", "test_metric")
SCHEMAS = {"trials": TRIALS, "epochs": EPOCHS, "measures": MEASURES}
