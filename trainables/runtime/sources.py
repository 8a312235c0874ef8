"""The source files of a user's own code: the files that it imports, and the files that have run.

First-party code is what the user may edit: every module that lies neither in the standard library, nor in
site-packages, nor in this project, whose own changes are in NUMBERS_VERSION. Two ways find it, and both count:

- Imports are read from the source, also those inside functions that have not been called. Modules are looked up without
  importing any: a file that nothing has run may be a script. Where modules are imported by a computed name, all modules
  of the same package count. A file that is not valid Python of this version imports nothing, but counts.
- Python reports each code object that it runs as a module (an audit event), so a file counts however it was loaded:
  by `importlib.import_module`, `pydoc.locate`, `runpy`, or `spec_from_file_location`.

Trap: a module that was imported before `recorded` is not reported. Fingerprints are therefore made in a new process
(trainables.runtime.own_process), or they would depend on what this one has imported.
"""

import ast
import contextlib
import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from trainables.runtime.importing import load_callable

PROJECT = tuple(Path(__file__).resolve().parents[2] / name for name in ("trainables", "sweeps", "analysis"))
LIBRARIES = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
COMPUTED_IMPORTS = ("import_module", "__import__")

_recordings: list[set[str]] = []  # the names of files whose code has run, one set for each block that is open


@contextlib.contextmanager
def recorded() -> Iterator[set[str]]:
    """Yield a set that will hold the names of all files whose code runs, as a module, in the block."""
    _listen()
    files: set[str] = set()
    before = set(sys.modules)
    _recordings.append(files)
    try:
        yield files
    finally:
        _recordings.remove(files)
        loaded = [sys.modules.get(name) for name in set(sys.modules) - before]
        files |= {str(file) for module in loaded if (file := getattr(module, "__file__", None))}


def _listen(*, _state: list[bool] = []) -> None:  # noqa: B006, an audit hook cannot be removed, so it is added once
    if not _state:
        _state.append(True)
        sys.addaudithook(_note)


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "exec" and _recordings and isinstance(arguments[0], CodeType):
        for files in _recordings:
            files.add(arguments[0].co_filename)


def digest_of(module: str, ran: set[str] | None = None) -> str:
    """16 hexadecimal digits: a hash of `module`, the first-party modules that it imports, and the files that `ran`."""
    digest = hashlib.sha256()
    found = first_party(module)
    for name, file in sorted(found.items()):
        digest.update(_entry(name, file))
    sources = {Path(name).resolve() for name in ran or () if name.endswith(".py")}  # what is compiled, others may build
    others = sources - set(found.values())
    for entry in sorted(_entry(file.name, file) for file in others if file.is_file() and _is_first_party(file)):
        digest.update(entry)
    return digest.hexdigest()[:16]


def _entry(name: str, file: Path) -> bytes:
    contents = file.read_bytes() if file.is_file() else b""
    return f"{name} {len(contents)}\n".encode() + contents


def source_fingerprint(path: str, argument: str, load: Callable[[str], object] | None = None) -> str:
    """Hash the source of what is at `path`, the value of the option `argument`, and all that loading it loads.

    Raises UserError where it cannot be loaded, by default imported. To be called in a process of its own.
    """
    with recorded() as ran:
        if load is None:
            load_callable(path, argument)
        else:
            load(path)
    return digest_of(path.partition(":")[0], ran)


def first_party(module: str) -> dict[str, Path]:
    """The files of `module` and of the first-party modules that it imports, directly or not."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = None if name in found else _file_of(name)
        if file is None or not (name == module or _is_first_party(file)):
            continue
        found[name] = file
        waiting += [name.rpartition(".")[0]] if "." in name else []
        if file.suffix == ".py" and _is_first_party(file):
            waiting += _imports(name, file)
    return found


def _file_of(module: str) -> Path | None:
    """The file of `module`, which is not imported, nor are its parents; None where there is none."""
    if not module:
        return None
    path: Any = None
    origin = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        try:
            if (loaded := sys.modules.get(name)) is not None:
                spec = loaded.__spec__
                origin, path = getattr(loaded, "__file__", None), getattr(loaded, "__path__", None)
            else:
                found = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
                spec = next(filter(None, found), None)
                path = spec and spec.submodule_search_locations
                origin, path = None, getattr(path, "_path", path)  # a namespace's own would look at loaded parents
            origin = origin or (spec.origin if spec and spec.has_location else None)
        except Exception:  # of anybody's finder
            return None
        if count < len(parts) and path is None:  # a function or class of the module before
            return None
    return Path(origin).resolve() if origin else None


def _is_first_party(file: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(file.parts):
        return False
    return not any(folder in file.parents for folder in (*PROJECT, *LIBRARIES))


def _imports(module: str, file: Path) -> Iterator[str]:
    """The names of all modules that the source of `module` may import; some of them are functions or classes."""
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):  # as of Python 2
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif getattr(node, "attr", None) in COMPUTED_IMPORTS or getattr(node, "id", None) in COMPUTED_IMPORTS:
            yield from (f"{package}.{own.stem}" if package else own.stem for own in file.parent.glob("*.py"))
