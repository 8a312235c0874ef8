"""What the command lines of all scripts share: one-line errors, readers of values, the options of a run.

Nothing heavy is imported here, so `--help` answers at once.
"""

import argparse
import importlib.util
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from trainables.measuring import SHIFTS
from trainables.runtime.errors import LostError, UserError, file_error, is_interruption, one_line
from trainables.runtime.numbers import number as number
from trainables.runtime.options import KeyValues
from trainables.runtime.output import reliable_output
from trainables.runtime.parser import Parser
from trainables.storage import folders
from trainables.tasks.names import TASKS
from trainables.units import Amount, read_amount


def run_command(program: str, run: Callable[[], int], *, goes_on: bool = True) -> int:
    """The exit status of `run`: its own (0 success, 1 failed trials), 2 for a user's mistake, 130 when interrupted,
    by SIGINT or SIGTERM, 3 where storage or Ray was lost, 1 where the output cannot be written.

    `goes_on`: `run` continues when nobody reads its output any more.
    """
    if goes_on and importlib.util.find_spec("fcntl") is None:
        print(
            f"{program}: error: sweeps run on Linux and macOS (on Windows under WSL); reports run here", file=sys.stderr
        )
        return 2
    previous, status = signal.signal(signal.SIGTERM, _interrupt), 0
    try:
        with reliable_output(program, goes_on=goes_on) as output:
            try:
                status = run()
            except (KeyboardInterrupt, Exception) as error:
                found = _ending(error)
                if found is None:
                    raise
                status, words = found
                print(f"{program}: {words}", file=sys.stderr)
                return status
        return status or output.status
    finally:
        signal.signal(signal.SIGTERM, previous)


def _ending(error: BaseException) -> tuple[int, str] | None:
    """The exit status and the line of an expected end; None of a fault in the program."""
    if is_interruption(error):
        return 130, "interrupted; every finished trial is kept, --resume continues"
    if isinstance(error, UserError):
        return 2, f"error: {folders.redact_credentials(one_line(error))}"
    if isinstance(error, LostError):
        return error.status, f"error: {folders.redact_credentials(one_line(error))}"
    if isinstance(error, OSError):
        return LostError.status, f"error: {folders.redact_credentials(file_error(error))}"
    return None


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


SCALES = ("small", "paper")
DATA_DIR = Path("data")
TRACKERS = {"mlflow": "mlflow", "wandb": "wandb"}  # what --track takes, and the package it needs


def add_scale(parser: Parser) -> None:
    """`--scale`: what runs here in minutes, or what the paper ran."""
    parser.add_argument(
        "--scale",
        choices=SCALES,
        default=SCALES[0],
        help="small: minutes on two cores; paper: the sizes of Keskar et al. 2017, for GPUs (default: %(default)s)",
    )


def add_data(parser: Parser, *, dataset: str) -> None:
    """The options that name a dataset."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        default=dataset,
        metavar="NAME",
        help="digits, mnist, cifar10, cifar100, parquet, image_folder, arrow, arrays, text, tokens, "
        "pairs, timit, noisy_quadratic, or your package.module:function (default: %(default)s)",
    )
    data.add_argument(
        "--task",
        metavar="NAME",
        help=f"what the labels are for: {', '.join(TASKS)}, or your package.module:Class (default: the dataset's own; "
        "docs/tasks.md)",
    )
    data.add_argument(
        "--data-dir",
        type=Path,
        default=DATA_DIR,
        metavar="DIR",
        help="where the dataset's files are (default: %(default)s)",
    )
    data.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where decoded images and token ids are kept (default: $XDG_CACHE_HOME/large-batch-sweeps, or ~/.cache)",
    )
    data.add_argument("--download", action="store_true", help="fetch mnist, cifar10 or cifar100 into --data-dir")
    data.add_argument(
        "--dataset-options",
        nargs="+",
        action=KeyValues,
        default={},
        metavar="KEY=VALUE",
        help="options of the dataset, such as context=32 level=char for text, or size=32 for images (docs/data.md)",
    )


def add_run(parser: Parser, *, name: str) -> None:
    """The options of a run: where its results go, what it may use, whether it goes on with an earlier one."""
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--name",
        type=plain_name,
        default=name,
        help="the sweep's folder in --results (default: %(default)s)",
    )
    run.add_argument(
        "--results",
        type=folders.argument,
        default=Path("results"),
        metavar="DIR",
        help="a folder, or the URI of storage that all nodes reach, such as s3://bucket/path (default: %(default)s)",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="continue the sweep of this name and keep its finished trials; the grid may be wider than before, and new "
        "measures are added to trained trials",
    )
    run.add_argument(
        "--dry-run",
        nargs="?",
        const="summary",
        choices=("summary", "list"),
        metavar="list",
        help="print the number of trials and an estimate of the time, and run nothing; list: print every trial too",
    )
    run.add_argument(
        "--keep-weights",
        action="store_true",
        help="keep each trial's final weights in weights/, so that measures added later need no training",
    )
    run.add_argument(
        "--checkpoint-seconds",
        type=number(least=0),
        default=10.0,
        metavar="X",
        help="seconds between checkpoints; a crash loses at most this much training, plus an epoch or 2 s "
        "(default: %(default)g)",
    )
    run.add_argument(
        "--checkpoint-every",
        type=amount("checkpoint-every"),
        metavar="AMOUNT",
        help="also save a checkpoint at the first logging point after every so many steps, examples, tokens or epochs, "
        "such as 1000steps",
    )
    run.add_argument(
        "--trial-timeout",
        type=number(above=0),
        metavar="SECONDS",
        help="stop a trial that runs longer than this and mark it failed; if only its measures are left, keep it "
        "without them (default: never)",
    )
    run.add_argument("--address", help="address of a Ray cluster, such as auto (default: start Ray on this machine)")
    run.add_argument(
        "--cpus-per-trial",
        type=integer(1),
        default=1,
        metavar="N",
        help="CPU threads of each trial; more threads change results by rounding (default: %(default)s)",
    )
    run.add_argument(
        "--gpus-per-trial",
        type=number(least=0),
        metavar="X",
        help="GPUs of each trial, may be a fraction such as 0.25 (default: 1 where there is a GPU)",
    )
    run.add_argument(
        "--workers-per-trial",
        type=integer(1),
        default=1,
        metavar="N",
        help="split each batch over N workers; --cpus-per-trial, --gpus-per-trial and --memory-per-trial apply to each "
        "worker (default: %(default)s)",
    )
    run.add_argument(
        "--micro-batch-size",
        type=integer(1),
        metavar="N",
        help="process at most N examples of a batch at once, with the same results up to rounding (default: all)",
    )
    run.add_argument(
        "--no-recordings",
        dest="recordings",
        action="store_false",
        help="run every update from Python; by default updates of small batches are recorded once and replayed, with "
        "the same results (docs/speed.md)",
    )
    run.add_argument(
        "--memory-per-trial",
        type=number(above=0),
        metavar="GIB",
        help="memory limit of each trial; a trial above it is retried once with smaller micro-batches, then fails "
        "(default: no limit)",
    )
    run.add_argument(
        "--own-actors",
        dest="reuse_actors",
        action="store_false",
        help="start a new worker for each trial, named after its configuration in Ray's dashboard; this takes some "
        "seconds per trial",
    )
    watch = parser.add_argument_group("watching the run (docs/watching.md)")
    watch.add_argument("--no-dashboard", dest="dashboard", action="store_false", help="start Ray without its dashboard")
    watch.add_argument(
        "--track",
        nargs="+",
        type=tracker,
        default=[],
        metavar="TRACKER",
        help="also log the trials to mlflow (a file in the sweep's folder), mlflow:URI, wandb or wandb:PROJECT "
        "(default: none)",
    )
    display = watch.add_mutually_exclusive_group()
    display.add_argument(
        "--plain", action="store_true", help="print plain lines on a terminal too, instead of a live table"
    )
    display.add_argument("--quiet", action="store_true", help="print only the summary at the end")


def add_shifts(group: Any) -> None:
    """Adds `--shifts`: which changed test sets the final networks are evaluated on."""
    group.add_argument(
        "--shifts",
        nargs="+",
        choices=SHIFTS,
        default=[],
        metavar="NAME",
        help=f"also evaluate the final network on changed test images: {', '.join(SHIFTS)} (default: none)",
    )


def add_axis(
    group: Any, option: str, kind: Callable[[str], Any], default: list[Any], text: str, *, distinct: bool = False
) -> None:
    """Adds an option with one or more values; `distinct` ones must differ."""
    shown = " ".join("none" if value is None else f"{value:g}" for value in default)
    action: Any = Distinct if distinct else "store"
    help_text = f"{text} (default: {shown})"
    group.add_argument(option, nargs="+", type=kind, default=default, metavar="X", help=help_text, action=action)


def add_batch_sizes(
    group: Any,
    default: Sequence[int] | None = None,
    text: str = "examples per optimizer step",
    *,
    shown: str | None = None,
    nargs: int | str = "+",
) -> None:
    """Adds `--batch-sizes`, or `--batch-size` for one alone, and `--batch-tokens` in its place, both as `batch_sizes`.

    Batches of tokens are amounts; `sweeps.plan.units.batch_sizes_of` knows their examples. `shown`: of the default.
    """
    shown = " ".join(map(str, default)) if default else shown
    sizes = group.add_mutually_exclusive_group()
    common: dict[str, Any] = {
        "dest": "batch_sizes",
        "nargs": nargs,
        "metavar": ("SMALL", "LARGE") if nargs == 2 else "N",
    }
    sizes.add_argument(
        "--batch-size" if nargs == 1 else "--batch-sizes",
        type=integer(1),
        default=default,
        help=f"{text} (default: {shown})" if shown else text,
        **common,
    )
    sizes.add_argument(
        "--batch-tokens",
        type=_batch_tokens,
        default=argparse.SUPPRESS,
        help="or tokens per optimizer step: whole windows of the text",
        **common,
    )


def _batch_tokens(text: str) -> Amount:
    return Amount(integer(1)(text), "tokens")


class Distinct(argparse.Action):
    """Values that must differ, such as seeds: one that is repeated would count as another replicate."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        repeated = [value for place, value in enumerate(values) if value in values[:place]]
        if repeated:
            raise argparse.ArgumentError(self, f"must be different values, got {repeated[0]} twice")
        setattr(namespace, self.dest, values)


def amount(name: str, *, or_none: bool = False, or_zero: bool = False) -> Callable[[str], Any]:
    """A reader of amounts of training, such as 100steps or 2Mtokens (trainables.units)."""

    def read(text: str) -> Any:
        if or_none and text.lower() == "none":
            return None
        if or_zero and text == "0":
            return 0.0
        try:
            return read_amount(name, text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def integer(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value >= 2**63:  # what a table can hold
            raise argparse.ArgumentTypeError(f"must be a whole number below 2**63, got {text}")
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of {least} or more, got {text}")
        return value

    return read


def or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A reader of `none`, or what `kind` reads."""

    def read(text: str) -> Any:
        if text.lower() == "none":
            return None
        try:
            return kind(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(str(error).replace("must be ", "must be none or ", 1)) from None

    return read


integer_or_none = or_none(integer(0))


def examples(text: str) -> int | str:
    """A number of examples, or `all`."""
    return "all" if text == "all" else integer(1)(text)


def tracker(text: str) -> tuple[str, str | None]:
    kind, _, target = text.partition(":")
    if kind not in TRACKERS:
        raise argparse.ArgumentTypeError(f"must be mlflow, mlflow:URI, wandb or wandb:PROJECT, got {text!r}")
    if not _is_installed(kind):
        raise argparse.ArgumentTypeError(
            f"must be a tracker that is installed, got {text}; pip install {TRACKERS[kind]}"
        )
    return kind, target or None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it is being imported, or was forbidden
        return False


def plain_name(text: str) -> str:
    if not text or text.startswith(".") or "\0" in text or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"must be a plain folder name, got {text!r}")
    return text
