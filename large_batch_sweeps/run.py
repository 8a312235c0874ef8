"""Run a sweep from Python, with the options of `python sweeps/batch_grid.py` as keyword arguments.

The sweep runs as a process of its own, as the command does. So it may be started in a thread or a notebook, it never
ends the caller, and an interruption ends it as Ctrl-C ends the command: with every finished trial kept.
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from large_batch_sweeps.notebook_code import as_module
from large_batch_sweeps.results import SweepResults, folder_of, load_sweep
from trainables.runtime.errors import UserError
from trainables.runtime.importing import importing_alike
from trainables.storage.folders import AnyPath

PROGRAM = "batch_grid.py"
COMMAND = (sys.executable, "-P", "-m", "sweeps.batch_grid")
SECONDS_TO_END = 60.0
OF_CODE = ("model", "dataset", "task", "schedule", "trial")  # options that take code of one's own
NEGATED = {"dashboard": "--no-dashboard", "reuse_actors": "--own-actors"}


class SweepError(Exception):
    """The sweep could not continue, for example because its storage or Ray was lost. Finished trials are kept."""


def run_sweep(*, name: str = "batch_grid", results: str | AnyPath = "results", **options: Any) -> SweepResults:
    """Run a sweep and return its results. `large_batch_sweeps.show_options()` prints all options with their defaults.

    Options are the ones of `sweeps/batch_grid.py` with underscores: `batch_sizes=[16, 64]`, `learning_rates=[0.01]`,
    `switch_epochs=[None, 5]`, `target_loss=0.001`, `resume=True`, `quiet=True`, `model_options={"widths": [64]}`,
    `remedies=[{}, {"sam_radius": 0.05}]`. `model`, `dataset`, `task`, `schedule` and `trial` also take a
    function or class, of a module or of a notebook's cell; the source of a cell is kept in RESULTS/notebook_code, so
    that the sweep can be resumed.

    Raises UserError (a ValueError) for what cannot run, with the command's own sentence, and SweepError where storage
    or Ray was lost. Trials that failed are in `trials` with their reason; the others are kept.
    """
    for argument, value in {"name": name, "results": results}.items():
        if not isinstance(value, str | AnyPath):
            raise UserError(f"`{argument}` must be text or a path, got {value!r}")
    folder, search = folder_of(results), []
    folder = folder.absolute() if isinstance(folder, Path) else folder
    for option in OF_CODE:
        code = options.get(option)
        if code is not None and not isinstance(code, str | FunctionType | BuiltinFunctionType | type):
            raise UserError(
                f"`{option}` must be a name, an import path, a function or a class, got {type(code).__name__}; "
                "write a function that makes it"
            )
        if callable(code):
            options[option], written = _path_of(options[option], folder / "notebook_code")
            search += [str(written)] if written else []
    command = [*COMMAND, f"--name={name}", f"--results={folder}", *words(options)]
    environment = importing_alike()
    environment["PYTHONPATH"] = ":".join([*search, environment["PYTHONPATH"]])
    status, last = _run(command, environment)
    if status == 2:
        raise UserError(last.removeprefix(f"{PROGRAM}: error: "))
    if status == 130:
        raise KeyboardInterrupt
    if status not in (0, 1):
        raise SweepError(last.removeprefix(f"{PROGRAM}: error: "))
    if status == 0 and not (folder / name).exists():
        raise UserError("This run has no results to return: the lines above are all that it does")
    found = load_sweep(folder / name)
    if status == 1 and len(found.trials) < (found.sweep.planned or 0):  # no trial's failure, but the sweep's own
        raise SweepError(last)
    return found


def show_options() -> None:
    """Print every option of `run_sweep` as the command has it: `--batch-sizes` is the argument `batch_sizes`."""
    done = subprocess.run(  # noqa: S603, this project's own command
        [*COMMAND, "--help-all"],
        env=importing_alike(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise SweepError(done.stderr.strip().splitlines()[-1])
    print(done.stdout, end="")


def words(options: Mapping[str, Any]) -> list[str]:
    """The options as the command line has them: `batch_sizes=[16, 64]` is `--batch-sizes 16 64`."""
    found: list[str] = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        value = bool(value) if isinstance(value, np.bool_) else value
        if name in NEGATED and isinstance(value, bool):
            found += [] if value else [NEGATED[name]]
        elif value is True:
            found.append(option)
        elif value is False or value is None:
            continue
        elif isinstance(value, Mapping):
            found += [option, *(f"{key}={_word(one)}" for key, one in value.items())]
        elif isinstance(value, str | Path) or not isinstance(value, Iterable):
            found += [option, _word(value)]
        else:
            found += [option, *map(_word, value)]
    return found


def _word(value: Any) -> str:
    if not isinstance(value, np.generic) and hasattr(value, "tolist"):  # an array or a tensor
        value = value.tolist()
    if value is None:
        return "none"
    if isinstance(value, Mapping):  # a remedy
        return ",".join(f"{key}={_word(one)}" for key, one in value.items()) or "none"
    if isinstance(value, bool | list | tuple):
        return json.dumps(value, default=lambda other: other.tolist() if hasattr(other, "tolist") else str(other))
    return str(value)


def _path_of(code: Callable[..., Any], folder: AnyPath) -> tuple[str, Path | None]:
    """The import path of a function or class, and where its module lies if that had to be written."""
    if code.__module__ != "__main__" and hasattr(sys.modules.get(code.__module__), "__file__"):
        return f"{code.__module__}:{code.__qualname__}", None
    if not isinstance(folder, Path):
        raise UserError(
            f"`results` must be a folder of a file system for the code of a cell, got {folder.parent}; write the code "
            "into a file and give its import path, package.module:function"
        )
    return f"{as_module(code, folder)}:{code.__qualname__}", folder


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run `command`, show what it says, and return its status and the last line of its errors."""
    process = subprocess.Popen(  # noqa: S603, this project's own command
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C is for this process, which ends that one
    )
    last = ""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            last = line.strip() or last
            print(line, end="", flush=True)
        return process.wait(), last
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)
            process.kill()
        process.stdout.close()
