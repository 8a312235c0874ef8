"""Any measure on saved weights, of a sweep's trial or of your own model.

    python -m trainables.sharpness results/NAME/weights/TRIAL_ID.pt --measures hessian_trace l2_ball_sharpness
    python -m trainables.sharpness weights.pt --model my_package.nets:build --dataset my_package.data:load

A trial's own model, data split, batch norm and learning rate are read from the tables beside its weights. Weights are a
state_dict, loaded without executing anything.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.progress import track

from trainables.config import DEFAULT_MEASURES, TrialConfig
from trainables.data import Dataset, load_source
from trainables.measures.by_name import MEASURES, Context, in_dtype, loss_of, measure
from trainables.measures.context import KNOWN
from trainables.measures.costs import unknown_measure
from trainables.measuring import MEASURE_BATCH_NORMS, MEASURE_DTYPES
from trainables.models import build_model
from trainables.records.saved import config_of, source_of, split_of
from trainables.records.tables import Row, read_tables
from trainables.runtime.errors import UserError, one_line
from trainables.runtime.memory import keep_freed_memory
from trainables.runtime.options import KeyValues
from trainables.runtime.output import reliable_output
from trainables.runtime.parser import Parser
from trainables.sharpness import ModelLoss
from trainables.storage.checkpoint import load_checkpoint
from trainables.tasks.by_name import load_task

COLUMNS = (
    *("measure", "method", "epsilon", "scale", "space", "value", "stderr", "residual"),
    *("converged", "evaluations", "seconds"),
)


def main(arguments: list[str]) -> int:
    """Measures, prints a table and writes it where asked; the exit status is 0, or 2 for a user's mistake.

    Interrupted it is 130, and the table holds the measures that had ended.
    """
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    rows: list[Row] = []
    status = 0
    try:
        status = _measure(options, rows)
    except (UserError, ValueError) as error:
        print(f"trainables.sharpness: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: measures that had ended are kept.", file=sys.stderr)
        status = 130
    if not rows:
        return status
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.parquet:
        pq.write_table(pa.Table.from_pylist(rows), options.parquet)
    with reliable_output("trainables.sharpness", goes_on=False) as output:
        print(_table(rows))
    return status or output.status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m trainables.sharpness", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("weights", type=Path, help="a state_dict, such as results/NAME/weights/TRIAL_ID.pt")
    add("--measures", nargs="+", default=list(DEFAULT_MEASURES), metavar="NAME", help=", ".join(MEASURES))
    add(
        "--model",
        metavar="NAME",
        help="for weights that do not belong to a trial: a model's name or package.module:function",
    )
    key_values: dict[str, Any] = {"nargs": "+", "action": KeyValues, "default": {}, "metavar": "KEY=VALUE"}
    add("--model-options", **key_values, help="options of --model, such as widths=256,256 batch_norm=true")
    add(
        "--dataset",
        metavar="NAME",
        help="for weights that do not belong to a trial: a dataset's name or package.module:function",
    )
    add("--dataset-options", **key_values, help="options of --dataset")
    add("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="where the dataset's files are")
    add("--examples", type=int, metavar="N", help="training examples to measure on (default: the trial's, or all)")
    add("--dtype", choices=MEASURE_DTYPES, help="precision (default: the trial's, or auto)")
    add("--batch-norm", choices=MEASURE_BATCH_NORMS, help="statistics of batch norm (default: the trial's, or running)")
    add("--batch-norm-batch-size", type=int, metavar="N", help="batch size for --batch-norm batch")
    add(
        "--learning-rate",
        type=float,
        metavar="X",
        help="for measures of steps, such as stability (default: the trial's last)",
    )
    add("--momentum", type=float, metavar="X", help="for measures of steps, such as stability")
    add("--batch-size", type=int, metavar="N", help="for measures of steps, such as batch_sharpness")
    add("--device", default="cpu", help="device, such as cuda (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    add("--parquet", type=Path, metavar="FILE", help="also write the rows to this file")
    return parser


def _measure(options: argparse.Namespace, rows: list[Row]) -> int:
    """Adds to `rows` those of one measure after another; returns 2 where one fails, which is told in a line, else 0."""
    for name in options.measures:
        if name not in MEASURES:
            raise unknown_measure(name, MEASURES)
    for argument in ("json", "parquet"):
        path = getattr(options, argument)
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UserError(f"`{argument}` must be a file in a folder that exists, got {path}")
    loss, context = _bind(options)
    about: Row = {
        "space": "full",
        "split": "train",
        "examples": loss.examples,
        "batch_norm": loss.batch_norm,
        "batch_norm_batch_size": loss.batch_size,
        "dtype": str(loss.params.dtype).removeprefix("torch."),
    }
    if not math.isfinite(center := loss.value(loss.params)):
        raise UserError(f"`weights` must give a finite loss on the data, got {center}; these have diverged")
    steps = track(
        options.measures,
        description="measuring",
        transient=True,
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    status = 0
    for name in steps:
        try:
            found = measure(loss, [name], context)
        except Exception as error:
            print(f"trainables.sharpness: error: {name}: {one_line(error)}", file=sys.stderr)
            found, status = [{"measure": name, "value": None, "error": one_line(error)}], 2
        for row in found:
            whole = {**about, **row}
            rows.append({column: None if _is_missing(value) else value for column, value in whole.items()})
    return status


def _bind(options: argparse.Namespace) -> tuple[ModelLoss, Context | None]:
    """The loss of the weights, and what is known of the optimizer."""
    device = _device(options.device)
    state = load_checkpoint(options.weights, device)
    if state is None:
        raise UserError(
            f"`weights` must be a state_dict saved by torch.save, got {options.weights}, which cannot be read"
        )
    config: TrialConfig | None = None
    last: Row = {}
    if not options.model:
        config, last = _trial_of(options.weights)
    data, name, model_options = _data(options, config)
    task = load_task((config and config.task) or data.task, data.chunks_of_labels())
    model = build_model(
        name,
        data.input_shape,
        data.num_classes,
        input_dtype=data.input_dtype,
        task=task,
        label_shape=tuple(data.train_labels.shape[1:]),
        **model_options,
    )
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"`weights` must fit the model {name}, got {str(error).splitlines()[-1].strip()}") from error
    batch_norm, batch_size = options.batch_norm, options.batch_norm_batch_size
    if config is not None and batch_norm is None:
        batch_norm, batch_size = config.measure_batch_norm, batch_size or config.measure_batch_size
    data = data.to(device)
    model.to(device)
    loss = in_dtype(
        options.dtype or (config.measure_dtype if config else MEASURE_DTYPES[0]),
        lambda dtype: loss_of(
            model,
            data,
            examples=options.examples or (config.measure_examples if config else len(data.train_labels)),
            dtype=dtype,
            task=task,
            batch_norm=batch_norm or MEASURE_BATCH_NORMS[0],
            batch_size=batch_size,
        ),
    )
    rate = options.learning_rate or last.get("lr")
    if rate is None:
        return loss, None
    momentum = options.momentum if options.momentum is not None else (config.momentum if config else None)
    batch_size = options.batch_size or last.get("batch_size")
    unknown = config.optimizer if config is not None and config.optimizer not in KNOWN else None
    return loss, Context(rate, batch_size, len(data.train_labels), momentum or 0.0, unknown=unknown)


def _data(options: argparse.Namespace, config: TrialConfig | None) -> tuple[Dataset, str, dict[str, Any]]:
    """The data, and the name and options of the model."""
    if config is None and not options.dataset:
        raise UserError("`dataset` must be given with `model`, got none")
    if config is None:
        source = load_source(options.dataset, root=options.data_dir, options=options.dataset_options)
        return source.split(*source.sizes(None, None), 0), options.model, options.model_options
    source = source_of(config, root=options.data_dir, options=options.dataset_options)
    return split_of(config, source), config.model, json.loads(config.model_options)


def _trial_of(weights: Path) -> tuple[TrialConfig, Row]:
    """The configuration of the trial whose weights these are, from its sweep's tables, and its last epoch's row."""
    tables = read_tables(weights.resolve().parents[1])
    for row in tables.trials.to_pylist():
        if row["trial_id"] == weights.stem:
            epochs = [epoch for epoch in tables.epochs.to_pylist() if epoch["trial_id"] == weights.stem]
            last = max(epochs, key=lambda row: float(row["epoch"])) if epochs else {}
            return config_of(row), last
    raise UserError(f"`weights`: {weights} belongs to no trial in the tables of its folder; give --model and --dataset")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"`device` must be one that torch has here, got {name!r}") from error
    return device


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _table(rows: list[Row]) -> str:
    """The rows as text, without the columns that none of them has."""
    frame = pd.DataFrame(rows).reindex(columns=list(COLUMNS)).dropna(axis="columns", how="all")
    return str(frame.to_string(index=False, na_rep="", float_format="{:.4g}".format))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
