"""Part 3: box sharpness and the largest eigenvalue of C1, on the GPU and on the CPU: seconds and value.

The network is trained a little on the GPU, on images of ten noisy patterns, and both devices measure that one. The GPU
comes first, the CPU as far as the time goes: its box search may take minutes on few cores.
"""

import time
from collections.abc import Iterator

import torch

from gpu_parts import Row, Setting, synchronize
from gpu_parts.images import patterns
from trainables.config import TrialConfig
from trainables.measures.by_name import loss_of, measure
from trainables.trial import Trial

TITLE = "Measures of C1"
COLUMNS = ("measure", "method", "epsilon", "dtype", "device", "seconds", "value", "converged", "evaluations")
NOTE = "One network, measured on both devices. Rows of one result have its seconds by their evaluations."

EXAMPLES = 500


def run(setting: Setting) -> Iterator[Row]:
    examples = 20 if setting.smoke else EXAMPLES
    source = patterns(2 * examples, 8 if setting.smoke else 32)
    config = TrialConfig(
        dataset="patterns",
        data_fingerprint=source.fingerprint,
        train_size=examples,
        test_size=examples,
        model="c1",
        model_options='{"width": 4}' if setting.smoke else "{}",
        learning_rate=1e-3,
        batch_size=min(examples, 100),
        epochs=2 if setting.smoke else 20,
        measure_examples=examples,
    )
    trial = Trial(config, source, setting.device)
    trial.train()
    model, data = trial.training.model, trial.training.data
    places = [(setting.device, dtype) for dtype in ("float32", "float64")]
    places += [(torch.device("cpu"), dtype) for dtype in ("float32", "float64")]
    for device, dtype in dict.fromkeys(places):
        loss = loss_of(model.to(device), data.to(device), examples=examples, dtype=dtype)
        loss.value(loss.params)  # what is made once is made
        for name in ("hessian_max_eig", "box_sharpness"):
            synchronize(device)
            started = time.perf_counter()
            rows = measure(loss, [name])
            synchronize(device)
            for row in rows:
                share = row["seconds"] / sum(other["seconds"] for other in rows)
                seconds = share * (time.perf_counter() - started)
                yield {**row, "dtype": dtype, "device": device.type, "seconds": seconds}
