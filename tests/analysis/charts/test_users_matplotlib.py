"""The user's own settings of Matplotlib leave the figures as they are."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from analysis.charts.style import new_figure, rendered

ROOT = Path(__file__).parents[3]


def drawn() -> dict[str, bytes]:
    with new_figure(1.0) as figure:
        axes = figure.add_subplot()
        axes.plot([1, 2], [3, 4], label="loss")
        axes.set_xlabel("batch size")
        figure.legend()
    return rendered(figure)


@pytest.mark.parametrize("users", [{"text.usetex": True}, {"font.size": 30.0, "axes.facecolor": "black"}])
def test_figures_do_not_depend_on_a_matplotlibrc(users: Any) -> None:
    """There is no LaTeX in most places, and `text.usetex` needs it."""
    expected = drawn()
    with matplotlib.rc_context(users):
        assert drawn() == expected
        assert matplotlib.rcParams[next(iter(users))] == next(iter(users.values()))  # and theirs are as they were


def test_the_backend_of_a_notebook_without_its_package() -> None:
    code = "import analysis.charts.style"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "module://no_such_package.backend_inline"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
