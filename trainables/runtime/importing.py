"""A user's own model or dataset by import path, `package.module:attribute`; and modules run as other processes."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainables.runtime.errors import UserError, quoted
from trainables.runtime.seeds import seeded


def is_import_path(name: str) -> bool:
    """Whether `name` is an import path and not the name of something built in."""
    return ":" in name


def load_callable(path: str, argument: str) -> Callable[..., Any]:
    """The callable at `package.module:attribute`; the current directory is searched as well.

    Raises UserError, naming `argument`, when the module cannot be imported or holds no such callable.
    """
    module_name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        with seeded(0, "import"):  # a module that seeds or draws as it is imported changes nothing outside of it
            target = getattr(importlib.import_module(module_name), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's code may raise any
        raise UserError(
            f"`{argument}` must be an importable `package.module:function`, got {path!r} "
            f"({type(error).__name__}: {quoted(error)})"
        ) from error
    if not callable(target):
        raise UserError(f"`{argument}` must name a function, got {path!r}, which is {type(target).__name__}")
    return target  # type: ignore[no-any-return]


def leave_script_folder(script: str) -> None:
    """Takes the folder of the file `script` out of Python's search path.

    Python puts the folder of the script that it runs first. There `sweeps/tuning/campaign` would hide a user's module
    `tuning`, and `analysis/tensorboard.py` the library.
    """
    folder = Path(script).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != folder]


def importing_alike() -> dict[str, str]:
    """The environment of another Python process that is to find the modules that this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
