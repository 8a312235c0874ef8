"""Code of a notebook's cell as a module, so that other processes can import it, also when the sweep is resumed.

The module holds the source of the function or class and of everything in its notebook that it refers to: imports, other
functions and classes, and constants that can be written down. It is named by a hash of its text: a cell that is edited
is another module, and so another model.
"""

import __future__

import ast
import builtins
import contextlib
import hashlib
import inspect
import linecache
import subprocess
import symtable
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from trainables.runtime.errors import UserError
from trainables.runtime.importing import importing_alike
from trainables.storage.folders import write_atomically

LATE_ANNOTATIONS = "from __future__ import annotations"
CONSTANTS = (bool, int, float, complex, str, bytes, type(None))


def as_module(code: Callable[..., Any], folder: Path) -> str:
    """Write the module of `code` into `folder`; return its name.

    Raises UserError where the source is not known, or refers to something that cannot be written down.
    """
    parts: dict[str, str] = {}
    submodules: set[str] = set()
    _collect(code, parts, submodules)
    imports = [text for text in parts.values() if text.startswith(("import ", "from "))]
    rest = [text for text in parts.values() if not text.startswith(("import ", "from "))]
    more = [f"import {name}" for name in _unloaded(imports, sorted(submodules))]
    imports.sort(key=lambda line: (line != LATE_ANNOTATIONS, line))
    text = "\n".join([*imports, *more]) + "\n\n\n" + "\n\n".join(rest) + "\n"
    name = f"cell_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{name}.py", text.encode())
    except OSError as error:
        raise UserError(f"`results` must be a folder that can be written, got {folder} ({error.strerror})") from error
    return name


def _collect(code: Any, parts: dict[str, str], submodules: set[str]) -> None:
    """Add the source of `code` to `parts`, after what it refers to, and the `submodules` that it uses."""
    try:
        source = textwrap.dedent(_source(code))
    except (OSError, TypeError) as error:
        raise UserError(
            f"`{getattr(code, '__name__', code)}` must have source code that can be read; write it into a file "
            "and give its import path, package.module:function"
        ) from error
    name = code.__name__
    if "." in code.__qualname__ or name == "<lambda>":
        raise UserError(f"`{code.__qualname__}` must be a function or class of its own, not one inside another")
    parts[name] = ""  # seen, so that a circle ends
    own = inspect.unwrap(code)  # what a decorator such as torch.no_grad() returns has the globals of its own module
    space = own.__globals__ if isinstance(own, FunctionType) else vars(sys.modules[code.__module__])
    names = _names(source)
    submodules |= set(_submodules(source, {used: space[used] for used in names if used in space}))
    for used in names:
        if used in parts or used == name or (used not in space and hasattr(builtins, used)):
            continue
        if used in space:
            _add(used, space[used], parts, submodules)
    parts[name] = parts.pop(name) or source.rstrip() + "\n"
    if _has_late_annotations(code):
        parts[LATE_ANNOTATIONS] = LATE_ANNOTATIONS


def _source(code: Any) -> str:
    """As `inspect.getsource`, which does not find the classes of a notebook, whose module is no file.

    They are in the cell of one of their methods, or else in the last cell that has run and defines a class so named.
    """
    if not inspect.isclass(code):
        return inspect.getsource(code)
    methods = _methods(code)
    cells = ["".join(linecache.getlines(methods[0].__code__.co_filename))] if methods else []
    for text in [*cells, *reversed(vars(sys.modules[code.__module__]).get("In", []))]:
        with contextlib.suppress(SyntaxError):
            found = [node for node in ast.parse(text).body if getattr(node, "name", None) == code.__name__]
            if found and isinstance(found[-1], ast.ClassDef):
                first = min([found[-1].lineno, *(decorator.lineno for decorator in found[-1].decorator_list)])
                return "\n".join(text.splitlines()[first - 1 : found[-1].end_lineno])
    return inspect.getsource(code)


def _methods(code: type) -> list[FunctionType]:
    return [value for value in vars(code).values() if isinstance(value, FunctionType)]


def _has_late_annotations(code: Any) -> bool:
    """Whether the annotations of `code` are never evaluated, so that they may name what is defined later."""
    functions = _methods(code) if inspect.isclass(code) else [inspect.unwrap(code)]
    flag = __future__.annotations.compiler_flag
    return any(function.__code__.co_flags & flag for function in functions if isinstance(function, FunctionType))


def _add(name: str, value: Any, parts: dict[str, str], submodules: set[str]) -> None:
    """Add to `parts` what gives `name` its `value`."""
    own = getattr(value, "__name__", "")
    module = getattr(value, "__module__", None) or _module_with(own, value)
    if isinstance(value, ModuleType):
        parts[name] = f"import {own}" + (f" as {name}" if name != own else "")
    elif (inspect.isclass(value) or inspect.isroutine(value)) and (module == "__main__" or _is_of_notebook(module)):
        _collect(value, parts, submodules)
        if name != own:
            parts[name] = f"{name} = {own}\n"
    elif own and getattr(sys.modules.get(module), own, None) is value:
        parts[name] = f"from {module} import {own}" + (f" as {name}" if name != own else "")
    elif _is_constant(value):
        parts[name] = f"{name} = {value!r}\n"
        for number in {"inf", "nan"} & set(_names(repr(value))):
            parts[f"math.{number}"] = f"from math import {number}"
    else:
        raise UserError(
            f"`{name}`, which the code refers to, must be a module, a function, a class or a plain constant, got "
            f"{type(value).__name__}; make it inside the function"
        )


def _submodules(source: str, space: Mapping[str, Any]) -> Iterator[str]:
    """The modules that the source reaches through a package in `space`: `import PIL.Image` binds the name PIL alone."""

    def module_at(node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            value = space.get(node.id)
            return value.__name__ if isinstance(value, ModuleType) else None
        if not isinstance(node, ast.Attribute) or (package := module_at(node.value)) is None:
            return None
        name = f"{package}.{node.attr}"
        return name if name in sys.modules else None

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and (name := module_at(node)):
            yield name


FIND_UNLOADED = """
import operator, sys
for module in sys.argv[1:]:
    package, _, path = module.partition(".")
    try:
        operator.attrgetter(path)(sys.modules[package])
    except AttributeError:
        print("unloaded:", module)
"""


def _unloaded(imports: Iterable[str], submodules: list[str]) -> list[str]:
    """Those of `submodules` that the `imports` do not load in a new process."""
    if not submodules:
        return []
    done = subprocess.run(  # noqa: S603, what the notebook has imported
        [sys.executable, "-P", "-c", "\n".join([*imports, FIND_UNLOADED]), *submodules],
        env=importing_alike(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    told = [line.removeprefix("unloaded: ") for line in done.stdout.splitlines() if line.startswith("unloaded: ")]
    return submodules if done.returncode else told


def _module_with(name: str, value: Any) -> str:
    """A module on disk that has `value` under this name: functions written in C, such as torch.tanh, name none."""
    having = [own for own, module in sys.modules.items() if getattr(module, "__dict__", {}).get(name) is value]
    return min((own for own in having if own != "__main__" and not _is_of_notebook(own)), default="")


def _is_of_notebook(module: str) -> bool:
    return module not in sys.builtin_module_names and getattr(sys.modules.get(module), "__file__", None) is None


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_is_constant, value))
    if isinstance(value, dict):
        return all(map(_is_constant, [*value, *value.values()]))
    return type(value) in CONSTANTS


def _names(source: str) -> list[str]:
    """The names that the source takes from outside of it."""
    top = symtable.symtable(source, "<cell>", "exec")
    outer = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced() and not symbol.is_assigned()}
    return sorted(outer | _globals(top.get_children()))


def _globals(tables: Iterable[symtable.SymbolTable]) -> set[str]:
    found: set[str] = set()
    for table in tables:
        found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        found |= _globals(table.get_children())
    return found
