"""Small trials that between them do every kind of update: for the stand-in, and for benchmarks/gpu.py on a real GPU."""

from typing import Any

import numpy as np

from trainables.config import TrialConfig
from trainables.data import Source

F1 = {"model": "f1", "model_options": '{"width": 16, "depth": 2}', "batch_size": 20}
RESNET = {"model": "resnet", "model_options": '{"depth": 8}', "test_size": 20, "measure_examples": 40}
LSTM = {"model": "lstm", "model_options": '{"width": 12, "dropout": 0.1}', "test_size": 20, "measure_examples": 40}
SMALL = '{"width": 16, "depth": 1, "heads": 2}'
# By SGD: the gradient of a bias of the keys is nothing but rounding, which Adam turns into whole steps.
# Not tied: PyTorch parts shared weights where it moves them to the stand-in, and on a GPU it does not.
GPT = {**LSTM, "model": "gpt", "model_options": SMALL[:-1] + ', "tied": false}', "optimizer": "sgd"}
VIT = {**RESNET, "model": "vit", "model_options": SMALL[:-1] + ', "patch_size": 4}', "optimizer": "sgd"}
UPDATES: dict[str, dict[str, Any]] = {
    "adam": {},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "momentum_correction": False, "warmup_epochs": 2},
    "adagrad": {"optimizer": "adagrad"},
    "lars": {"optimizer": "sgd", "layer_adaptation": True},
    "lamb": {"layer_adaptation": True},
    "sam": {"sam_radius": 0.05},
    "asam": {"sam_radius": 0.5, "sam_adaptive": True},
    "clipped": {"clip_norm": 0.5},
    "smoothed": {"label_smoothing": 0.1},
    "conservative": {"proximal": 0.1},
    "robust": {"weight_adversary": 0.01},
    "adversarial": {"input_adversary": 0.1},
    "noisy": {"noise_batch_size": 4},
    "switched": {"switch_epoch": 1, "switch_batch_size": 40},
    "batch norm": F1,
    "ghost batch norm": {**F1, "ghost_batch_size": 5},
    "dropout": {"model_options": '{"widths": [16], "dropout": 0.2}'},
    "micro-batches": {"model_options": '{"widths": [16], "dropout": 0.2}'},
    "convolutions": RESNET,
    "paper's augmentation": {**RESNET, "augmentation": "paper"},
    "crops": {**RESNET, "augmentation": "crop_flip"},
    "lstm": LSTM,
    "gradient descent": {"optimizer": "gradient_descent", "batch_size": 40},
    "lbfgs": {"optimizer": "lbfgs", "batch_size": 40},
    "averaged": {"average": "ema"},
    "local": {"local_workers": 2, "local_steps": 2},
    "gradient penalty": {"gradient_penalty": 0.1, "penalty_batch_size": 5},
    "variance reduction": {"svrg_every": "1epochs"},
    "gpt": GPT,
    "vit": VIT,
    "progressive lbfgs": {"optimizer": "progressive_lbfgs"},
}
SEARCHING = ("gradient descent", "lbfgs", "progressive lbfgs")  # along a line, so they wait


def source_for(config: TrialConfig, digits: Source) -> Source:
    draw = np.random.default_rng(0)
    if config.model in ("lstm", "gpt"):
        tokens, labels = draw.integers(0, 9, (2, 60, 7))
        return Source("tokens", tokens[:40], labels[:40], tokens[40:], labels[40:], 9)
    if config.model in ("resnet", "vit"):
        images, labels = draw.random((60, 3, 8, 8), dtype=np.float32), draw.integers(0, 10, 60)
        return Source("images", images[:40], labels[:40], images[40:], labels[40:], 10)
    return digits
