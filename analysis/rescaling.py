"""The counter-example, computed: one function, two networks, another sharpness (Dinh et al. 2017, arXiv 1703.04933).

    python analysis/rescaling.py results/NAME

In a ReLU network one layer's weights and bias times a and the next layer's weights over a give the same function for
any a > 0, so the same predictions, accuracy and gap. Sharpness that is measured in the weights' own units changes with
a as much as one likes; measures that scale with the weights do not. So sharpness cannot be what makes a network
generalize, whatever the correlation; at most it goes with what does, among networks that were trained alike.

The network is one of the sweep's own where its weights were kept and its data are at hand everywhere (an MLP on
digits), else a small one trained here for a moment. trainables.sharpness.invariance does the rescaling, and checks that
the function stays.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # else analysis/statistics.py shadows the standard library's

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from analysis.command import run
from analysis.figures import plain_number
from analysis.load import Sweep, load_sweep
from trainables.checkpoint import load_checkpoint
from trainables.data import Dataset, load_source
from trainables.models import build_model
from trainables.sharpness import ModelLoss, ball_sharpness, box_sharpness, hessian_eigenvalues, rescaling_invariance
from trainables.training.adam import Adam

FACTOR = 8.0  # a power of two: multiplying by it rounds nothing
EXAMPLES, STEPS, WIDTH = 100, 60, 16
RADIUS = 0.5  # of the adaptive ball

MEASURES: dict[str, Callable[[ModelLoss], float]] = {
    "box sharpness, epsilon 1e-3, strong [%]": lambda loss: box_sharpness(loss, loss.params).value,
    "largest Hessian eigenvalue": lambda loss: float(hessian_eigenvalues(loss, loss.params).values[0]),
    "adaptive l2 ball sharpness": lambda loss: ball_sharpness(loss, loss.params, radius=RADIUS, adaptive=True).value,
}


@dataclass(frozen=True)
class Rescaled:
    """A measure of the network, of the rescaled one that computes the same, and after / before."""

    measure: str
    before: float
    after: float
    ratio: float


@dataclass(frozen=True)
class Rescaling:
    """The measures before and after; `network`: which one. `function_error`: the largest change of an output, as a
    share of the largest output. `accuracy`: on the examples measured, before and after."""

    network: str
    factor: float
    function_error: float
    accuracy: tuple[float, float]
    rows: tuple[Rescaled, ...]


@lru_cache(maxsize=4)
def rescaling(sweep: Sweep) -> Rescaling:
    """The counter-example on a network of the sweep, or on a small one; about a second.

    On one thread: the network is so small that threads cost more than they bring, several times as much where other
    processes want the cores too, and the numbers are the same on any number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rescaling(sweep)
    finally:
        torch.set_num_threads(threads)


def _rescaling(sweep: Sweep) -> Rescaling:
    name, model, inputs, labels = _of_sweep(sweep) or _small()
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
        rows.append(Rescaled(measure, found.before, found.after[0], found.ratios[0]))
        errors.append(found.function_error)
        accuracies = seen[0], seen[1]
    return Rescaling(name, FACTOR, max(errors), accuracies, tuple(rows))


def rescaling_sentence(found: Rescaling) -> str:
    """The counter-example in words."""
    changes = ", ".join(f"{row.measure} times {plain_number(row.ratio)}" for row in found.rows)
    error = found.function_error
    same = f"outputs change by {error:.0e} of the largest" if error else "to the last bit"
    return (
        f"{found.network}: one layer times {found.factor:g} and the next over {found.factor:g} leave every prediction "
        f"as it is ({same}), but change {changes}."
    )


def _of_sweep(sweep: Sweep) -> tuple[str, nn.Module, Tensor, Tensor] | None:
    """The network of a trial whose weights were kept, with training examples of its own, in float64."""
    trials, weights = sweep.trials, sweep.folder / "weights"
    if not weights.is_dir():
        return None
    usable = trials[(trials["status"] == "completed") & (trials["dataset"] == "digits") & (trials["model"] == "mlp")]
    source = load_source("digits")
    for row in usable[usable["data_fingerprint"] == source.fingerprint].to_dict("records"):
        options = json.loads(row["model_options"])
        state = load_checkpoint(weights / f"{row['trial_id']}.pt", torch.device("cpu"))
        if state is None or options.get("batch_norm"):
            continue
        split_seed = None if row["split_seed"] != row["split_seed"] else int(row["split_seed"])
        data = source.split(int(row["train_size"]), int(row["test_size"]), split_seed)
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
        cross_entropy(model(data.train_inputs), data.train_labels).backward()
        optimizer.step()
    return f"A network trained on {EXAMPLES} digits", *_ready(model, data)


def _ready(model: nn.Module, data: Dataset) -> tuple[nn.Module, Tensor, Tensor]:
    return model.double().eval(), data.train_inputs[:EXAMPLES].double(), data.train_labels[:EXAMPLES]


def main(arguments: list[str]) -> int:
    return run(lambda folder: [rescaling_sentence(rescaling(load_sweep(folder)))], arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
