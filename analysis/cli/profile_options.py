"""The options that scripts which evaluate saved weights share: which minima, where the data is, how fine."""

import argparse
from pathlib import Path
from typing import Any, get_args

import torch

from trainables.runtime.options import KeyValues
from trainables.sharpness.model_loss import BatchNorm


def add_profile_options(parser: argparse.ArgumentParser, *, points: int) -> None:
    """Adds them to `parser`."""
    parser.add_argument(
        "--pair",
        nargs=2,
        metavar="TRIAL_ID",
        help="use these two minima (default: smallest and largest batch size of every seed)",
    )
    parser.add_argument(
        "--points", type=int, default=points, metavar="N", help="points along each line (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-norm",
        choices=get_args(BatchNorm),
        default="recalibrated",
        help="statistics of batch norm at each point (docs/paper/3-parametric.md; default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), metavar="DIR", help="where the dataset's files are"
    )
    parser.add_argument(
        "--dataset-options",
        nargs="+",
        action=KeyValues,
        default={},
        metavar="KEY=VALUE",
        help="the sweep's dataset options, such as context=32 for text",
    )
    parser.add_argument("--device", type=_device, default="cpu", help="device, such as cuda (default: %(default)s)")


def where(options: argparse.Namespace) -> dict[str, Any]:
    """The values of these options by name."""
    names = ("pair", "points", "batch_norm", "data_dir", "dataset_options", "device")
    return {name: getattr(options, name) for name in names}


def _device(text: str) -> str:
    try:
        torch.zeros(1, device=text)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"must be a device that is here, got {text}") from error
    return text
