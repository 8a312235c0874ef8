"""The measures of one network before and after a rescaling of its layers, for analysis.questions.rescaling, as JSON.

    python -m trainables.measures.rescaled_network [results/NAME]

A process of its own, for PyTorch takes seconds and half a GiB. The network is one of the sweep's own where its weights
were kept and its data are at hand everywhere (an MLP on digits), else a small one trained here for a moment.
trainables.sharpness.invariance does the rescaling, and checks that the function stays. All on one thread: the network
is so small that threads cost more than they bring, and the numbers are the same on any number of cores.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.data import Dataset, load_source
from trainables.data.rows import tensor_of
from trainables.models import build_model
from trainables.records.tables import of_newest_version, read_tables
from trainables.sharpness import ModelLoss, ball_sharpness, box_sharpness, hessian_eigenvalues, rescaling_invariance
from trainables.storage.checkpoint import load_checkpoint
from trainables.storage.folders import AnyPath, place
from trainables.training.optimizers.plain import Adam

FACTOR = 8.0  # a power of two: multiplying by it rounds nothing
EXAMPLES, STEPS, WIDTH = 100, 60, 16
RADIUS = 0.5  # of the adaptive ball

MEASURES: dict[str, Callable[[ModelLoss], float]] = {
    "box sharpness, epsilon 1e-3, strong [%]": lambda loss: box_sharpness(loss, loss.params).value,
    "largest Hessian eigenvalue": lambda loss: float(hessian_eigenvalues(loss, loss.params).values[0]),
    "adaptive l2 ball sharpness": lambda loss: ball_sharpness(loss, loss.params, radius=RADIUS, adaptive=True).value,
}


def rescaled_network(folder: AnyPath | None) -> dict[str, Any]:
    """The fields of analysis.questions.rescaling.Rescaling, of a network of the sweep in `folder`, or of a small
    one.
    """
    name, model, inputs, labels = (folder and _of_sweep(folder)) or _small()
    rows, errors, accuracies = [], [], (0.0, 0.0)
    for measure, value in MEASURES.items():
        seen: list[float] = []

        def measured(
            network: nn.Module, value: Callable[[ModelLoss], float] = value, seen: list[float] = seen
        ) -> float:
            with torch.no_grad():
                seen.append(float((network(inputs).argmax(1) == labels).double().mean()))
            return value(ModelLoss(network, inputs, labels))

        found = rescaling_invariance(measured, model, factors=(FACTOR,), inputs=inputs)
        rows.append((measure, found.before, found.after[0], found.ratios[0]))
        errors.append(found.function_error)
        accuracies = seen[0], seen[1]
    return {
        "network": name,
        "factor": FACTOR,
        "function_error": max(errors),
        "accuracy": accuracies,
        "rows": rows,
    }


def _of_sweep(folder: AnyPath) -> tuple[str, nn.Module, Tensor, Tensor] | None:
    """The network of a trial whose weights were kept, with training examples of its own, in float64."""
    weights = folder / "weights"
    source = load_source("digits")
    usable = {"status": "completed", "dataset": "digits", "model": "mlp", "data_fingerprint": source.fingerprint}
    for row in of_newest_version(read_tables(folder))[0].trials.to_pylist():
        if any(row[name] != value for name, value in usable.items()):
            continue
        options = json.loads(row["model_options"])
        state = load_checkpoint(weights / f"{row['trial_id']}.pt", torch.device("cpu"))
        if state is None or options.get("batch_norm"):
            continue
        data = source.split(row["train_size"], row["test_size"], row["split_seed"])
        model = build_model("mlp", data.input_shape, data.num_classes, **options)
        model.load_state_dict(state)
        return f"The network of trial {row['trial_id']}", *_ready(model, data)
    return None


def _small() -> tuple[str, nn.Module, Tensor, Tensor]:
    """A multilayer perceptron trained on a few digits."""
    source = load_source("digits")
    data = source.split(*source.sizes(EXAMPLES, None), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model("mlp", data.input_shape, data.num_classes, widths=[WIDTH, WIDTH])
    optimizer = Adam(model.parameters(), 0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(model(data.train_inputs), tensor_of(data.train_labels)).backward()
        optimizer.step()
    return f"A network trained on {EXAMPLES} digits", *_ready(model, data)


def _ready(model: nn.Module, data: Dataset) -> tuple[nn.Module, Tensor, Tensor]:
    return model.double().eval(), data.train_inputs[:EXAMPLES].double(), data.train_labels[:EXAMPLES]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(rescaled_network(place(sys.argv[1]) if sys.argv[1:] else None)))
