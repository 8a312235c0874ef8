"""The network of a trial's configuration."""

import json

from torch import nn

from trainables.config import TrialConfig
from trainables.data import Dataset
from trainables.models import build_model
from trainables.tasks.by_name import load_task


def build(config: TrialConfig, data: Dataset) -> nn.Module:
    """The network of `config` for data like `data`, with weights from torch's global generator."""
    options = json.loads(config.model_options)
    return build_model(
        config.model,
        data.input_shape,
        data.num_classes,
        input_dtype=data.input_dtype,
        task=load_task(config.task or data.task),
        label_shape=tuple(data.train_labels.shape[1:]),
        **options,
    )
