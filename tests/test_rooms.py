"""The tree: scripts on top that are short, packages below that hide no other module, and all of them documented."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("analysis", "sweeps", "trainables")
SCRIPTS = sorted(path for name in ("analysis", "sweeps") for path in (ROOT / name).glob("*.py") if path.stem[0] != "_")
ONE_SCREEN = 80  # lines


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_top_level_holds_short_scripts_only(script: Path) -> None:
    source = script.read_text()
    last = ast.unparse(ast.parse(source).body[-1])
    assert last.startswith("if __name__ == '__main__':")
    assert len(source.splitlines()) <= ONE_SCREEN


@pytest.mark.parametrize("package", ["analysis", "sweeps"])
def test_nothing_beside_a_script_hides_the_standard_library(package: str) -> None:
    # Python looks into the folder of the script that it runs first.
    names = {path.stem for path in (ROOT / package).iterdir()}
    assert not names & sys.stdlib_module_names


@pytest.mark.parametrize("package", ["analysis", "sweeps"])
def test_a_script_does_not_hide_modules_of_others(package: str) -> None:
    folder = str(ROOT / package)
    code = f"import sys; sys.path.insert(0, {folder!r}); import {package}; print({folder!r} in sys.path)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "False\n"


def test_every_package_is_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {path.parent.name for name in PACKAGES for path in (ROOT / name).rglob("__init__.py")} - set(PACKAGES)
    assert {room for room in rooms if f"`{room}/`" not in text and f"/{room}`" not in text} == set()


def test_every_file_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests|benchmarks)/[\w/.]+)`", text)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []
