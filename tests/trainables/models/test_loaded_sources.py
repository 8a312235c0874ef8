"""However a network's code is loaded, an edit changes its fingerprint; and no file is run to find that out."""

import time
from pathlib import Path

import pytest

from sweeps.plan.users_network import OF_NETWORK, fingerprint_of_source
from trainables.runtime import own_process
from trainables.runtime.errors import UserError

NETS = "ACT = 1\ndef build(shape, classes):\n    from torch import nn\n    return nn.Linear(shape[0], classes)\n"
LOADS = {
    "import_module": 'import importlib\nnets = importlib.import_module("zoo.nets")',
    "as_another_name": 'from importlib import import_module as load\nnets = load("zoo.nets")',
    "locate": 'import pydoc\nnets = pydoc.locate("zoo.nets")',
    "dunder": """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).with_name("zoo")))
nets = __import__("nets")""",
    "by_file": """
import importlib.util, pathlib
spec = importlib.util.spec_from_file_location("any", pathlib.Path(__file__).with_name("zoo") / "nets.py")
nets = importlib.util.module_from_spec(spec)
spec.loader.exec_module(nets)""",
    "run_path": """
import pathlib, runpy, types
nets = types.SimpleNamespace(**runpy.run_path(str(pathlib.Path(__file__).with_name("zoo") / "nets.py")))""",
}
OWN = """
class Own:
    loss = print
    def __new__(cls, progress=0):
        import runpy
        runpy.run_path("zoo/nets.py")
        return 1.0 if progress else object.__new__(cls)
    def __float__(self): return 1.0
"""
IN_BUILD = """
def build(shape, classes):
    import runpy
    return runpy.run_path("zoo/nets.py")["build"](shape, classes)
"""
NO_TEXT = "class E(Exception):\n    def __str__(self): raise ValueError\n"
SCRIPT = "import argparse\nopen('ran', 'w').close()\nparser = argparse.ArgumentParser()\nparser.parse_args(['--gpu'])\n"
GUARDED = NETS + "if __name__ == '__main__':\n    from script import main\n    from script.part import other\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "nets.py").write_text(NETS)
    fingerprint_of_source.cache_clear()
    return tmp_path


def fingerprint(path: str) -> str:
    """Of an import alone, without PyTorch."""
    fingerprint_of_source.cache_clear()
    return fingerprint_of_source(path, "trial")


def facts(path: str) -> dict[str, object]:
    about = (3,), 2, False, "classification", (), None
    found: dict[str, object] = own_process.call(OF_NETWORK, path, "{}", *about, who=f"`model` {path}")
    return found


@pytest.mark.parametrize("how", LOADS)
def test_an_edit_of_what_was_loaded(folder: Path, how: str) -> None:
    (folder / "model.py").write_text(f"{LOADS[how]}\nbuild = nets.build\n")
    first = fingerprint("model:build")
    assert fingerprint("model:build") == first
    (folder / "zoo" / "nets.py").write_text(NETS.replace("ACT = 1", "ACT = 2"))  # no part of the weights
    assert fingerprint("model:build") != first


def test_what_this_process_has_imported_makes_no_difference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.py").write_text(f"{LOADS['locate']}\nbuild = nets.build\n")
    first = fingerprint("model:build")
    import zoo.nets  # type: ignore[import-not-found]  # noqa: F401

    assert fingerprint("model:build") == first


def test_other_scripts_are_not_run(folder: Path) -> None:
    (folder / "script.py").write_text(SCRIPT)
    (folder / "model.py").write_text(GUARDED)
    first = fingerprint("model:build")
    assert not (folder / "ran").exists()
    (folder / "script.py").write_text(SCRIPT + "# edited\n")
    assert fingerprint("model:build") != first


@pytest.mark.parametrize("text", ["print 'Python 2'\n", "raise RuntimeError('needs a GPU')\n", "\0", "(" * 100000])
def test_files_that_nothing_imports_may_be_anything(folder: Path, text: str) -> None:
    (folder / "late.py").write_text(text)
    (folder / "model.py").write_text(NETS + "def plot():\n    from late import helper\n    import late.other\n")
    first = fingerprint("model:build")
    (folder / "late.py").write_text(text + "#")
    assert fingerprint("model:build") != first


@pytest.mark.parametrize("argument", ["task", "decay"])
def test_what_is_loaded_later(folder: Path, argument: str) -> None:
    """By a task when it is made, and by a decay when it is called."""
    (folder / "own.py").write_text(OWN)
    first = fingerprint_of_source("own:Own", argument)
    fingerprint_of_source.cache_clear()
    (folder / "zoo" / "nets.py").write_text(f"{NETS}# edited")
    assert fingerprint_of_source("own:Own", argument) != first


def test_what_a_build_loads(folder: Path) -> None:
    (folder / "model.py").write_text(IN_BUILD)
    first = facts("model:build")
    (folder / "zoo" / "nets.py").write_text(f"{NETS}# edited")
    assert facts("model:build")["fingerprint"] != first["fingerprint"]


def test_code_that_leaves_a_thread_behind(folder: Path) -> None:
    (folder / "model.py").write_text(
        f"{NETS}import threading, time\nthreading.Thread(target=time.sleep, args=[60]).start()"
    )
    started = time.monotonic()
    assert fingerprint("model:build")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os\nprint('so long', flush=True)\nos._exit(5)", "got exit status 5: so long"),
        ("import os\nos._exit(0)", "must not end the process that runs it, got exit status 0"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "got signal SIGSEGV"),
        (
            "class E(Exception):\n    def __str__(self): raise ValueError\ndef build(*a): raise E",
            "cannot be read (ValueError)",
        ),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise ValueError('x' * 9000)", "xxx..."),
    ],
)
def test_code_that_ends_its_process(folder: Path, code: str, message: str) -> None:
    (folder / "model.py").write_text(code + "\n")
    with pytest.raises(UserError) as raised:
        facts("model:build") if "build(" in code else fingerprint("model:build")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600
