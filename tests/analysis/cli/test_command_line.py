"""The command line that the scripts share: whatever file is in the way, one line."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.cli.command import run, run_on_sweep
from sweeps.cli.arguments import run_command
from trainables.runtime.errors import UserError, file_error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Denied", "a/figures"), "a/figures cannot be used (Denied)"),
        (IsADirectoryError(errno.EISDIR, "A folder", ".a.tmp", None, "a.json"), "a.json cannot be used (A folder)"),
        (OSError(errno.ENOSPC, "No space left on device"), "OSError: No space left on device"),
        (FileNotFoundError("gone\nfor good"), "FileNotFoundError: gone for good"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Any, said: str
) -> None:
    def action(folder: Path) -> Iterator[str]:
        yield "a line before"
        raise error

    assert file_error(error) == said
    assert run(action, [str(tmp_path)], "Test.") == 2
    out, shown = capsys.readouterr()
    assert out == "a line before\n"
    assert shown.endswith(f": error: {said}\n")
    assert shown.count("\n") == 1

    def sweep() -> int:
        raise error

    assert run_command("sweep.py", sweep) == 3
    assert capsys.readouterr().err == f"sweep.py: error: {said}\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ImportError("initialization failed"), UserError("a model")])
def test_an_interruption_may_come_as_the_cause_of_another_error(
    tmp_path: Path, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal in the import of a compiled module is the cause of an ImportError, seen with SciPy's."""
    if not isinstance(error, KeyboardInterrupt):
        error.__cause__ = RuntimeError()
        error.__cause__.__cause__ = KeyboardInterrupt()

    def sweep() -> int:
        raise error

    assert run_command("sweep.py", sweep) == 130
    assert capsys.readouterr().err == "sweep.py: interrupted; every finished trial is kept, --resume continues\n"
    if not isinstance(error, UserError):
        assert run(lambda folder: [sweep()], [str(tmp_path)], "Test.") == 130
        assert capsys.readouterr().err.endswith(": interrupted\n")


def test_a_fault_of_the_program_is_no_interruption() -> None:
    def sweep() -> int:
        raise ImportError("no module") from ValueError()

    with pytest.raises(ImportError, match="no module"):
        run_command("sweep.py", sweep)


def test_a_reader_that_leaves_is_no_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The output's own errors are not taken for a file's."""
    reading, writing = os.pipe()
    os.close(reading)
    kept = os.dup(1)
    try:
        os.dup2(writing, 1)
        with open(1, "w", closefd=False) as stream, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", stream)
            assert run(lambda folder: ["x" * 100_000] * 3, [str(tmp_path)], "Test.") in (0, 1)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(writing)
    assert "cannot be used" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["folder", "--metrik", "accuracy"], "unknown option --metrik; did you mean --metric?"),
        (["folder", "--seeds", "3"], "unknown option --seeds; see --help"),
        (["folder", "other"], "unknown argument other; see --help"),
        (["folder", ""], "unknown argument ''; see --help"),
    ],
)
def test_an_unknown_option_is_one_line_with_the_nearest_name(
    refusal: Callable[[Callable[[list[str]], int], list[str]], str], arguments: list[str], said: str
) -> None:
    assert refusal(lambda words: run_on_sweep(lambda sweep: [], words, "Test."), arguments).endswith(f": {said}\n")
