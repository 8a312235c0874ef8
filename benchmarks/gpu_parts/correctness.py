"""Part 1: every update, network and measure on the GPU beside the CPU.

The reference is the CPU in float64. The CPU's own float32 result is e away from it, and that is what rounding does to
this computation; a GPU sums in another order, so its float32 error is another draw of the same size. Allowed is FACTOR
times e, at least FACTOR units of rounding; in float64 FACTOR times e * eps64 / eps32. Measures that search may end
elsewhere within their own tolerance, which is added. So no tolerance is fitted to a machine.

A check of updates whose allowed error is above INFORMATIVE says nothing, and fails: rounding grew too much on the way.

An update's error is |w - w64| / |w64 - start|, w the weights after training; a measure's is relative to its value in
float64. Float32 is without TF32 here. Left out: dropout, whose random numbers are the device's, and full-batch
optimizers in float32, whose line searches decide between losses that rounding makes equal. Networks are trained by SGD:
a bias before batch norm has a gradient of rounding errors alone, which Adam turns into whole steps.
"""

import json
import math
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from updates import SEARCHING, UPDATES, source_for

from gpu_parts import Row, Setting
from gpu_parts.images import patterns
from trainables.config import TrialConfig
from trainables.data import Dataset, Source, load_source
from trainables.data.rows import tensor_of
from trainables.measures.by_name import MEASURES, Context, measure
from trainables.models.of_config import build
from trainables.runtime.errors import one_line
from trainables.runtime.float32 import exact_products
from trainables.runtime.seeds import derive_seed
from trainables.sharpness import ModelLoss
from trainables.training.cuda_graph import cuda_graph
from trainables.training.loop import Training
from trainables.training.own_step import training_of as training_on
from trainables.training.recording import Recorder

TITLE = "Correctness: GPU beside CPU"
COLUMNS = ("check", "dtype", "error", "allowed", "passed")
NOTE = "Errors are relative to the CPU's float64 result; the table has what failed."

FACTOR = 16.0  # between two draws of one rounding error
INFORMATIVE = 0.01  # of the way that the weights have gone
EPSILON = {torch.float32: torch.finfo(torch.float32).eps, torch.float64: torch.finfo(torch.float64).eps}
RANDOM_ON_DEVICE = ("dropout", "micro-batches")
SHORT = {"batch_size": 40, "epochs": 1, "learning_rate": 2**-10}  # in which rounding does not grow
NETWORKS: dict[str, dict[str, Any]] = {
    "f1": {"model": "f1"},
    "c1": {"model": "c1", "model_options": '{"width": 8, "dropout": 0}', **SHORT},
    "c2": {"model": "c2", "model_options": '{"width": 8, "dropout": 0}', **SHORT},
}
OWN_TOLERANCE = {"pac_bayes_width": 1e-2, "adaptive_pac_bayes_width": 1e-2}
SEARCHED = ("box", "ball", "eig", "m_sharpness", "stability")
SEARCH_TOLERANCE = 1e-3
OF_BATCHES = {"batch_size": 10, "epochs": 12}  # enough to be recorded
BITS: dict[str, dict[str, Any]] = {  # with dropout, which is the device's own, and compared with itself
    **{name: UPDATES[name] for name in ("adam", "sgd", "batch norm", "dropout")},
    "gpt": {**UPDATES["gpt"], "optimizer": "adam"},
    "adamw": {"optimizer": "adamw"},
    "adagrad": {"optimizer": "adagrad"},
    "c1": {"model": "c1", "model_options": "{}"},
    "c2": {"model": "c2", "model_options": '{"width": 8}'},
    "gpt in bfloat16": {**UPDATES["gpt"], "precision": "bfloat16"},
}
RATE = 2**-7  # a number of float32


def run(setting: Setting) -> Iterator[Row]:
    digits = load_source("digits")
    for name, changes in (UPDATES | NETWORKS).items():
        if name not in RANDOM_ON_DEVICE:
            if "augmentation" in changes:
                changes = {**changes, "epochs": 1}
            config = config_of(**changes)
            if config.model != "mlp" and config.optimizer == "adam":
                config = config_of(**changes, optimizer="sgd")
            yield from failing(f"update: {name}", compare_update(name, config, digits, setting.device))
    trained = trained_by_the_cpu(digits)
    for name in MEASURES:
        yield from failing(f"measure: {name}", compare_measure(name, trained, setting.device))
    for name, changes in BITS.items():
        yield from failing(f"same bits: {name}", same_bits(name, changes | OF_BATCHES, digits, setting.device))


def failing(check: str, rows: Iterator[Row]) -> Iterator[Row]:
    """`rows`, and one of a check that failed where they raise, so that the others are made all the same."""
    try:
        yield from rows
    except Exception as error:
        traceback.print_exc()
        yield {"check": f"{check} ({one_line(error)})", "error": None, "passed": False}


def config_of(**changes: Any) -> TrialConfig:
    fields: dict[str, Any] = {
        "dataset": "digits",
        "data_fingerprint": "",
        "train_size": 40,
        "test_size": 20,
        "learning_rate": RATE,
        "batch_size": 10,
        "epochs": 3,
        "model_options": '{"widths": [16]}' if "model" not in changes else "{}",
        "measure_examples": 40,
    }
    if changes.get("model") == "lstm":
        changes = {**changes, "model_options": '{"width": 12, "dropout": 0}'}
    return TrialConfig(**fields | changes)


def training_of(
    config: TrialConfig, source: Source, device: torch.device, dtype: torch.dtype, record: Recorder | None = None
) -> tuple[Training, Tensor]:
    """A trial's training in `dtype`, trained to its end, and its first weights."""
    source = patterns(60, 16) if config.model in ("c1", "c2") else source_for(config, source)
    data = source.split(config.train_size, config.test_size, config.split_seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "weights"))
        model = build(config, data).to(device, dtype)
    inputs = [
        t.to(dtype) if t.is_floating_point() else t for t in map(tensor_of, (data.train_inputs, data.test_inputs))
    ]
    data = Dataset(inputs[0], data.train_labels, inputs[1], data.test_labels, data.num_classes).to(device)
    start = flat(model)
    training = training_on(config, (model, None), data, record=record)
    with exact_products(model.parameters(), config.batch_size):
        while not training.finished:
            training.train_epoch()
    return training, start


def flat(model: nn.Module) -> Tensor:
    """All weights in one float64 vector on the CPU."""
    return torch.cat([p.detach().reshape(-1).double().cpu() for p in model.parameters()])


def compare_update(name: str, config: TrialConfig, digits: Source, device: torch.device) -> Iterator[Row]:
    cpu = torch.device("cpu")
    reference, start = training_of(config, digits, cpu, torch.float64)
    exact = flat(reference.model)
    moved = float(torch.linalg.vector_norm(exact - start))

    def error(on: torch.device, dtype: torch.dtype) -> float:
        found = flat(training_of(config, digits, on, dtype)[0].model)
        return float(torch.linalg.vector_norm(found - exact)) / moved

    of_float32 = error(cpu, torch.float32)
    for dtype in (torch.float32, torch.float64):
        if not (dtype == torch.float32 and name in SEARCHING):
            row = verdict(f"update: {name}", dtype, error(device, dtype), of_float32, 0.0)
            yield {**row, "passed": row["passed"] and row["allowed"] <= INFORMATIVE}


def verdict(check: str, dtype: torch.dtype, error: float, of_float32: float, own: float) -> Row:
    scale = EPSILON[dtype] / EPSILON[torch.float32]
    allowed = FACTOR * max(of_float32 * scale, EPSILON[dtype]) + own
    name = str(dtype).removeprefix("torch.")
    return {"check": check, "dtype": name, "error": error, "allowed": allowed, "passed": error <= allowed}


def trained_by_the_cpu(digits: Source) -> Training:
    """A smooth network, so that no rounding switches a unit."""
    config = config_of(model="mlp", model_options=json.dumps({"widths": [16], "activation": "tanh"}), epochs=20)
    return training_of(config, digits, torch.device("cpu"), torch.float32)[0]


def compare_measure(name: str, training: Training, device: torch.device) -> Iterator[Row]:
    cpu, config, data = torch.device("cpu"), training.config, training.data
    context = Context.of(training.optimizer, training.model.parameters(), config.batch_size, config.train_size)

    def values(on: torch.device, dtype: torch.dtype) -> list[float]:
        inputs, labels = (tensor_of(part).to(on) for part in (data.train_inputs, data.train_labels))
        loss = ModelLoss(training.model, inputs, labels, dtype=dtype)
        return [float(row["value"]) for row in measure(loss, [name], context)]

    exact = values(cpu, torch.float64)
    scale = max((abs(value) for value in exact if math.isfinite(value)), default=0.0) or 1.0
    own = OWN_TOLERANCE.get(name, SEARCH_TOLERANCE if any(part in name for part in SEARCHED) else 0.0)

    def error(found: list[float]) -> float:
        return max(map(difference, found, exact)) / scale

    of_float32 = error(values(cpu, torch.float32))
    for dtype in (torch.float32, torch.float64):
        yield verdict(f"measure: {name}", dtype, error(values(device, dtype)), of_float32, own)


def difference(one: float, other: float) -> float:
    """0 where neither is there, such as a noise scale whose gradient is lost in the noise."""
    return 0.0 if math.isnan(one) and math.isnan(other) else math.inf if math.isnan(one + other) else abs(one - other)


def same_bits(name: str, changes: dict[str, Any], digits: Source, device: torch.device) -> Iterator[Row]:
    """A repeat, and recorded updates, which replay the kernels: both to the same bits."""
    config = config_of(**changes)
    plain, _ = training_of(config, digits, device, torch.float32)
    recorder = cuda_graph if device.type == "cuda" else repeat
    for check, record in (("deterministic repeat", None), ("CUDA graphs", recorder)):
        other, _ = training_of(config, digits, device, torch.float32, record)
        same = all(torch.equal(one, two) for one, two in zip(state(plain), state(other), strict=True))
        was_recorded = record is None or bool(other.recorded)
        yield {
            "check": f"{check}: {name}" + ("" if was_recorded else " (no update was recorded)"),
            "dtype": "float32",
            "error": 0.0 if same else None,
            "allowed": 0.0,
            "passed": same and was_recorded,
        }


def repeat(work: Any) -> Any:
    """In the place of a CUDA graph, for --smoke."""
    return work


def state(training: Training) -> list[Tensor]:
    return [*training.model.parameters(), *training.model.buffers()]


def table(rows: list[Row]) -> list[Row]:
    return [row for row in rows if not row["passed"]]


def summary(rows: list[Row]) -> str:
    most = max((row["error"] / row["allowed"] for row in rows if row["error"] and row["passed"]), default=0.0)
    passed = sum(row["passed"] for row in rows)
    return f"{passed} of {len(rows)} checks passed; their largest error is {most:.2f} of what is allowed."
