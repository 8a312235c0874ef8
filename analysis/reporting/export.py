"""The winning setting of a sweep for other programs: as JSON, as YAML, and as a PyTorch script that trains with it.

The winner has the best mean of the primary metric over its replicates, among the settings that completed in the most
replicates. If the sweep has trials that held out a validation set, they choose; otherwise the test set does, and then
its result on that test set is too good.

The script has the loss, the optimizer and the schedule of the trial in plain PyTorch. Learning rates are kept as knots:
the rate is linear in the number of the update between them, to 0.01 % of its peak. What plain PyTorch lacks (Muon with
AdamW, groups of parameters, LARS, LAMB, full-batch methods, a task or network of the user's own) is imported from this
project, and what the script leaves out (SAM, augmentation, ...) is named in its first lines.
"""

import dataclasses
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.data.load import REPLICATE, Sweep, chosen_on_validation, comparable
from analysis.stats.means import Mean, mean_over_replicates
from trainables.config import LINE_SEARCH_OPTIMIZERS, MEASURING, TrialConfig
from trainables.records.saved import config_of
from trainables.records.tables import read_tables, record_of
from trainables.remedies import Remedies
from trainables.runtime.errors import UserError
from trainables.runtime.importing import is_import_path
from trainables.storage.folders import AnyPath, write_atomically
from trainables.training.schedule import batch_size_at, learning_rate_at

ROUNDING = 1e-4  # of the peak, by which the knots may miss a learning rate
WITH_L2 = {"adam": "Adam", "sgd": "SGD", "adagrad": "Adagrad", "adadelta": "Adadelta", "adamax": "Adamax",
           "asgd": "ASGD", "nadam": "NAdam", "radam": "RAdam", "rmsprop": "RMSprop", "rprop": "Rprop"}  # fmt: skip
DECOUPLED = {"adamw": "AdamW", "adafactor": "Adafactor"}  # biases and norms have no weight decay
LOSSES = {
    "classification": "F.cross_entropy(outputs.flatten(0, -2), targets.flatten(){smoothing})",
    "language": "F.cross_entropy(outputs.flatten(0, -2), targets.flatten(){smoothing})",
    "regression": "F.mse_loss(outputs.reshape(targets.shape), targets)",
    "multilabel": "F.binary_cross_entropy_with_logits(outputs, targets.float())",
    "binary": "F.binary_cross_entropy_with_logits(outputs.reshape(targets.shape), targets.float())",
}
IN_THE_SCRIPT = ("learning_rate_scaling", "base_batch_size", "same_steps", "batch_schedule", "decay", "decay_epochs",
                 "decay_factor", "decay_by", "decay_share", "decay_floor", "decay_fingerprint", "layer_adaptation",
                 "clip_norm", "label_smoothing")  # fmt: skip


@dataclass(frozen=True)
class Winner:
    """A setting, as the configuration of one of its trials, and its result; `chosen_on`: validation or test."""

    config: TrialConfig
    task: str
    trial_ids: tuple[str, ...]
    result: Mean
    chosen_on: str
    epochs_done: tuple[int, int]


def winner(sweep: Sweep) -> Winner:
    """The best setting of the sweep. Raises UserError where no trial has completed."""
    validation = chosen_on_validation(sweep)
    rows = validation if len(validation) else comparable(sweep)
    rows = rows[rows[sweep.metric.score].notna()]
    if rows.empty:
        raise UserError(f"`results` must hold a completed trial, got none in {sweep.folder}")
    settings = rows.groupby("configuration")
    counts = settings["replicate"].nunique()
    means = settings[sweep.metric.score].mean()[counts == counts.max()]
    best = rows[rows["configuration"] == means.idxmax()]
    found = mean_over_replicates(best, sweep.metric.column)
    assert found is not None
    row = record_of(read_tables(sweep.folder), best["trial_id"].iloc[0]).trial
    return Winner(
        config=config_of(row),
        task=row["task"],
        trial_ids=tuple(best["trial_id"]),
        result=found,
        chosen_on="validation" if len(validation) else "test",
        epochs_done=(int(best["epochs_done"].min()), int(best["epochs_done"].max())),
    )


def write_best(sweep: Sweep) -> list[AnyPath]:
    """Writes FOLDER/export/best.json, best.yaml and best.py; returns their paths. Raises UserError as `winner`.

    There is no best.py of an optimizer with a line search, which takes more than a gradient for a step, nor of a trial
    whose steps are the user's own.
    """
    found = winner(sweep)
    content = described(sweep, found)
    folder = sweep.folder / "export"
    texts = {"json": json.dumps(content, indent=2) + "\n", "yaml": _yaml(content)}
    if found.config.optimizer not in LINE_SEARCH_OPTIMIZERS and found.config.trial is None:
        texts["py"] = script(sweep, found)
    try:
        folder.mkdir(exist_ok=True)
        (folder / "best.py").unlink(missing_ok=True)  # of another winner
        for kind, text in texts.items():
            write_atomically(folder / f"best.{kind}", text.encode())
    except OSError as error:
        raise UserError(f"`results` must be a folder that can be written, got {folder} ({error.strerror})") from error
    return [folder / f"best.{kind}" for kind in texts]


def described(sweep: Sweep, found: Winner) -> dict[str, Any]:
    """The setting and its result as JSON has them: fields at their default are left out, and so is the replicate.

    The result has no interval: the best of many settings looks better than it is, so a t-interval holds too rarely.
    """
    fields = {field.name: field.default for field in dataclasses.fields(TrialConfig)}
    setting = {
        name: value
        for name, value in vars(found.config).items()
        if name not in (*REPLICATE, *MEASURING) and (fields[name] is dataclasses.MISSING or value != fields[name])
    }
    metric = sweep.metric
    return {
        "sweep": sweep.name,
        "setting": {"task": found.task, **setting, "optimizer": found.config.optimizer, "model": found.config.model},
        "result": {
            "metric": metric.name,
            "unit": metric.unit,
            "direction": metric.direction,
            f"mean_{found.chosen_on}_metric": found.result.value,
            "replicates": found.result.replicates,
            "chosen_on": found.chosen_on,
            "trial_ids": list(found.trial_ids),
        },
    }


def updates(config: TrialConfig) -> Iterator[tuple[int, float]]:
    """Batch size and learning rate of every update that the trial may take, as its training loop has them."""
    last_step, last_example = config.length.as_bounds(config.train_size)
    step = examples = 0
    while step < last_step and examples < last_example:
        epoch, seen = divmod(examples, config.train_size)
        size = batch_size_at(config, epoch + seen / config.train_size, step)
        left = config.train_size - seen
        step, new = step + 1, left if left == size + 1 and size > 1 else min(size, left)
        examples += new
        yield size, learning_rate_at(config, epoch + (seen + new) / config.train_size, size, step)


def knots(values: Any, tolerance: float) -> list[int]:
    """The places, first and last included, between which `values` are linear to `tolerance` (Douglas, Peucker 1973)."""
    kept, open_parts = {0, len(values) - 1}, [(0, len(values) - 1)]
    while open_parts:
        first, last = open_parts.pop()
        if last - first < 2:
            continue
        line = np.linspace(values[first], values[last], last - first + 1)
        errors = np.abs(values[first : last + 1] - line)
        worst = int(errors.argmax())
        if errors[worst] > tolerance:
            kept.add(first + worst)
            open_parts += [(first, first + worst), (first + worst, last)]
    return sorted(kept)


def script(sweep: Sweep, found: Winner) -> str:
    """The setting as a Python script whose `train(model, inputs, labels)` trains as the trial did."""
    config = found.config
    sizes, rates = (np.array(column) for column in zip(*updates(config), strict=True))
    at = knots(rates, ROUNDING * rates.max())
    changes = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist()]
    imports, optimizer = _optimizer(config)
    loss_imports, task, loss = _loss(config, found.task)
    clip = f"torch.nn.utils.clip_grad_norm_(model.parameters(), {config.clip_norm})" if config.clip_norm else None
    lines = ["loss.backward()", *([clip] if clip else []), "optimizer.step()"]
    return TEMPLATE.format(
        about=_about(sweep, found),
        imports="".join(f"{line}\n" for line in sorted({*imports, *loss_imports})),
        learning_rate=config.learning_rate,
        updates=len(rates),
        batch_sizes=[(place, int(sizes[place])) for place in changes],
        learning_rates=_wrapped([(place, float(f"{rates[place]:.9g}")) for place in at]),
        optimizer=textwrap.indent(optimizer, "    "),
        setup=OF_TASK.format(task=found.task) if task else "    model.train()\n",
        forward=FORWARD_OF_TASK if is_import_path(found.task) else FORWARD,
        loss=loss,
        lines="".join(f"            {line}\n" for line in lines),
    )


TEMPLATE = '''"""{about}"""

import torch
import torch.nn.functional as F
{imports}
LEARNING_RATE = {learning_rate}  # the peak
UPDATES = {updates}
BATCH_SIZES = {batch_sizes}  # (updates done, batch size from there on)
LEARNING_RATES = {learning_rates}  # (updates done, learning rate of the next one), linear in between


def batch_size(done):
    return next(size for start, size in reversed(BATCH_SIZES) if done >= start)


def learning_rate(done):
    for (first, before), (last, after) in zip(LEARNING_RATES, LEARNING_RATES[1:]):
        if done < last:
            return before + (after - before) * (done - first) / (last - first)
    return LEARNING_RATES[-1][1]


def build_optimizer(model):
{optimizer}

def train(model, inputs, labels):
    """Trains `model` in place; inputs (N, ...) and labels (N, ...) are the training set, on the device of the model."""
    optimizer = build_optimizer(model)
{setup}    done = 0
    while done < UPDATES:
        order, seen = torch.randperm(len(inputs), device=inputs.device), 0
        while seen < len(inputs) and done < UPDATES:
            size = batch_size(done)
            size += size > 1 and len(inputs) - seen == size + 1  # a single example left over joins the batch
            batch = order[seen : seen + size]
            for group in optimizer.param_groups:
                group["lr"] = group.get("lr_ratio", 1.0) * learning_rate(done)
            optimizer.zero_grad()
{forward}            loss = {loss}
{lines}            seen, done = seen + len(batch), done + 1
    return model
'''


OF_TASK = """    task = load_task({task!r}, [labels])
    task.set_mode(model, True)
    generator = torch.Generator().manual_seed(0)  # of the task's augmentation
"""
FORWARD = "            outputs, targets = model(inputs[batch]), labels[batch]\n"
FORWARD_OF_TASK = """            given, targets = task.augment(inputs[batch], labels[batch], generator)
            outputs = model(given)
"""


def _optimizer(config: TrialConfig) -> tuple[list[str], str]:
    """The imports, and the lines of `build_optimizer`."""
    name, options = config.optimizer, _options(config)
    # Without weight decay the script says so: PyTorch's default for AdamW is 0.01.
    given = {"weight_decay": config.weight_decay, **options} if config.weight_decay or name in DECOUPLED else options
    if name == "sgd":
        given = {"momentum": config.momentum, **given}
    arguments = "".join(f", {key}={value!r}" for key, value in given.items())
    spares_some = name in WITH_L2 and options.get("decoupled_weight_decay", False)
    is_plain = not config.layer_adaptation and config.parameter_groups is None and not spares_some
    if name in WITH_L2 and is_plain:
        return [], f"return torch.optim.{WITH_L2[name]}(model.parameters(), lr=LEARNING_RATE{arguments})\n"
    if name in DECOUPLED and is_plain:
        lines = [
            "named = list(model.named_parameters())",
            'spared = [p for name, p in named if p.ndim < 2 or name.endswith("bias")]  # without weight decay',
            'decayed = [p for name, p in named if not (p.ndim < 2 or name.endswith("bias"))]',
            'groups = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]',
            f"return torch.optim.{DECOUPLED[name]}(groups, lr=LEARNING_RATE{arguments})",
        ]
        return [], "\n".join(lines) + "\n"
    imports = [
        "import json",
        "from trainables.config import TrialConfig",
        "from trainables.training.optimizers.by_name import build_optimizer as build",
    ]
    defaults = {field.name: field.default for field in dataclasses.fields(TrialConfig)}
    fields = {key: value for key, value in vars(config).items() if value != defaults[key]}
    shown = json.dumps(fields)
    return imports, f"fields = json.loads({shown!r})\nreturn build(TrialConfig(**fields), model)\n"


def _options(config: TrialConfig) -> dict[str, Any]:
    """The options of the optimizer that are not at their default; lists as PyTorch has them."""
    options = json.loads(config.optimizer_options)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _loss(config: TrialConfig, task: str) -> tuple[list[str], bool, str]:
    """The imports, whether they bring the task, and the loss of a batch.

    In plain PyTorch for a task and a network of this project, of torchvision or of timm: their outputs are one tensor.
    """
    is_own = is_import_path(config.model) and not config.model.startswith(("torchvision:", "timm:"))
    if task in LOSSES and not is_own:
        smoothing = f", label_smoothing={config.label_smoothing}" if config.label_smoothing else ""
        return [], False, LOSSES[task].format(smoothing=smoothing)
    smoothing = f", smoothing={config.label_smoothing}" if config.label_smoothing else ""
    imports = ["from trainables.tasks.by_name import load_task"]
    return imports, True, f"task.mean_loss(outputs, targets{smoothing})"


def _about(sweep: Sweep, found: Winner) -> str:
    """The first lines of the script: what it is, how good, and what of the trial is not in it."""
    config, metric = found.config, sweep.metric
    level = metric.named(found.result.value, found.chosen_on)
    over = f"mean of {found.result.replicates} replicate{'s' * (found.result.replicates != 1)}"
    model = config.model if config.model_options == "{}" else f"{config.model} with {config.model_options}"
    parts = [
        f"The best setting of the sweep {sweep.name}: {level} ({over}, chosen by it).",
        f"Trained on {config.train_size} examples of {config.dataset}, network {model}.",
    ]
    if config.target_loss is not None:
        first, last = found.epochs_done
        done = f"{first}" if first == last else f"{first} to {last}"
        parts.append(f"Its trials ended after {done} epochs, at a training loss of {config.target_loss:g}.")
    defaults = {field.name: field.default for field in dataclasses.fields(Remedies)}
    values = {name: getattr(config, name) for name in defaults if name not in IN_THE_SCRIPT}
    missing = [f"{name}={value}" for name, value in values.items() if value != defaults[name]]
    if config.switch_optimizer_state == "reset":
        missing.append("the optimizer's new start where the batch size changes")
    if config.precision != "float32":
        missing.append(f"precision={config.precision}")
    if missing:
        parts.append(f"Not in this script: {', '.join(missing)} (docs/remedies.md).")
    return textwrap.fill(" ".join(parts), 100, break_long_words=False).replace("\\", "\\\\").replace('"' * 3, '"')


def _wrapped(pairs: list[tuple[int, float]]) -> str:
    """A list of pairs as Python has it, over several lines where it is long."""
    whole = str(pairs)
    if len(whole) < 80:
        return whole
    return "[\n" + textwrap.fill(whole[1:-1] + ",", 100, initial_indent="    ", subsequent_indent="    ") + "\n]"


def _yaml(content: dict[str, Any], indent: str = "") -> str:
    """Mappings in blocks, all else as JSON has it, which YAML reads."""
    lines = []
    for name, value in content.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{name}:\n{_yaml(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{name}: {json.dumps(value)}\n")
    return "".join(lines)
