"""Any measure on saved weights, of a sweep's trial or of your own model.

    python -m trainables.sharpness results/NAME/weights/TRIAL_ID.pt --measures hessian_trace l2_ball_sharpness
    python -m trainables.sharpness weights.pt --model my_package.nets:build --dataset my_package.data:load

A trial's own model and data split are read from the tables beside its weights. Weights are a state_dict, loaded without
executing anything. This is the one file here that knows of models and data: it binds them to the measures.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.progress import track

from trainables.checkpoint import load_checkpoint
from trainables.config import DEFAULT_MEASURES, MEASURE_DTYPES, TrialConfig
from trainables.data import Dataset, load_source
from trainables.errors import UserError
from trainables.measures import MEASURES, loss_of, measure
from trainables.models import build_model
from trainables.tables import Row, read_tables

COLUMNS = (
    "measure",
    "method",
    "epsilon",
    "scale",
    "value",
    "stderr",
    "residual",
    "converged",
    "evaluations",
    "seconds",
)


def main(arguments: list[str]) -> int:
    """Measures, prints a table and writes it where asked; the exit status is 0, or 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        rows = _measure(options)
    except (UserError, ValueError) as error:
        print(f"trainables.sharpness: error: {error}", file=sys.stderr)
        return 2
    print(_table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.parquet:
        pq.write_table(pa.Table.from_pylist(rows), options.parquet)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainables.sharpness", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("weights", type=Path, help="a state_dict, such as results/NAME/weights/TRIAL_ID.pt")
    parser.add_argument(
        "--measures", nargs="+", default=list(DEFAULT_MEASURES), metavar="NAME", help=", ".join(MEASURES)
    )
    parser.add_argument(
        "--model", metavar="NAME", help="of weights that are no trial's: a name or package.module:function"
    )
    parser.add_argument("--dataset", metavar="NAME", help="likewise")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), metavar="DIR", help="where the dataset's files are"
    )
    parser.add_argument(
        "--examples", type=int, metavar="N", help="training examples to measure on (default: the trial's, or all)"
    )
    parser.add_argument("--dtype", choices=MEASURE_DTYPES, help="(default: the trial's, or float64)")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="write the rows there too")
    return parser


def _measure(options: argparse.Namespace) -> list[Row]:
    for name in options.measures:
        if name not in MEASURES:
            raise UserError(f"`measures` must be among {', '.join(MEASURES)}, got {name!r}")
    device = torch.device(options.device)
    state = load_checkpoint(options.weights, device)
    if state is None:
        raise UserError(
            f"`weights` must be a state_dict saved by torch.save, got {options.weights}, which cannot be read"
        )
    config = None if options.model else _config_of(options.weights)
    data, model_name, model_options = _data(options, config)
    model = build_model(model_name, data.input_shape, data.num_classes, **model_options)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"`weights` must fit the model {model_name}, got {str(error).splitlines()[-1].strip()}"
        ) from error
    examples = options.examples or (config.measure_examples if config else len(data.train_labels))
    dtype = options.dtype or (config.measure_dtype if config else MEASURE_DTYPES[0])
    loss = loss_of(model.to(device), data.to(device), examples=examples, dtype=dtype)
    rows: list[Row] = []
    for name in track(options.measures, description="measuring", transient=True):
        rows += measure(loss, [name])
    return rows


def _data(options: argparse.Namespace, config: TrialConfig | None) -> tuple[Dataset, str, dict[str, Any]]:
    """The data, and the name and options of the model."""
    if config is None:
        if not options.dataset:
            raise UserError("`dataset` must be given with `model`, got none")
        source = load_source(options.dataset, root=options.data_dir)
        return source.split(*source.sizes(None, None), 0), options.model, {}
    source = load_source(config.dataset, root=options.data_dir)
    if source.fingerprint != config.data_fingerprint:
        raise UserError(
            f"`data-dir` must hold the data that the trial was trained on, got other contents in {options.data_dir}"
        )
    return (
        source.split(config.train_size, config.test_size, config.split_seed),
        config.model,
        json.loads(config.model_options),
    )


def _config_of(weights: Path) -> TrialConfig:
    """The configuration of the trial whose weights these are, from the tables of its sweep."""
    trials = read_tables(weights.resolve().parents[1]).trials.to_pylist()
    names = [field.name for field in dataclasses.fields(TrialConfig)]
    for row in trials:
        if row["trial_id"] == weights.stem:
            return TrialConfig(**{name: row[name] for name in names})
    raise UserError(
        f"`weights` must be those of a trial in the tables beside them, got {weights}; or give --model and --dataset"
    )


def _table(rows: list[Row]) -> str:
    """The rows as text, without the columns that none of them has."""
    frame = pd.DataFrame(rows).reindex(columns=list(COLUMNS)).dropna(axis="columns", how="all")
    return str(frame.to_string(index=False, na_rep="", float_format="{:.4g}".format))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
