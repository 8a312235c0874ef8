"""The manual: links lead somewhere, and every command it names exists with the options it names."""

import csv
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from analysis.stats.wording import plain_number

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`(python [^`]+)`")
COMMAND = re.compile(
    r"\bpython ((?:-m [\w.]+)|(?:(?:sweeps|analysis|benchmarks|tests|docs)/[\w/]+\.py))(.*)", re.DOTALL
)


def commands_of(page: Path) -> list[tuple[str, tuple[str, ...]]]:
    """(script or `-m module`, long options) of each command of the project in the page's code."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line.split(" #")[0]
        for block in BLOCK.findall(text)
        for line in block.replace("\\\n", " ").splitlines()
        if not line.lstrip().startswith("#")
    ]
    found = []
    for line in [*lines, *(" ".join(inline.split()) for inline in INLINE.findall(text))]:
        if match := COMMAND.search(line):
            script, rest = match[1], match[2].split("&&")[0].split("|")[0]
            options = [word.split("=")[0] for word in _words(rest) if word.startswith("--")]
            found.append((script, tuple(options)))
    return found


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an apostrophe of prose
        return text.split()


@cache
def help_of(script: str) -> str:
    text = _said(script, "--help")
    return _said(script, "--help-all") if "--help-all" in text else text


def _said(script: str, option: str) -> str:
    command = [sys.executable, *script.split(), option]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert not missing


def test_commands_are_found() -> None:
    """Else the tests below test nothing."""
    found = {script for page in PAGES for script, _ in commands_of(page)}
    assert {"sweeps/batch_grid.py", "sweeps/tuned_gap.py", "analysis/report.py", "-m trainables.sharpness"} <= found


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_options_that_the_manual_names(page: Path) -> None:
    wrong = []
    for script, options in commands_of(page):
        if not script.startswith("-m "):
            assert (ROOT / script).exists(), script
        elif not script.startswith("-m trainables"):
            continue
        wrong += [
            (script, option) for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", help_of(script))
        ]
    assert not wrong


def test_the_parametric_plot_on_mnist_is_told_as_it_was() -> None:
    (pair,) = csv.DictReader((ROOT / "docs/paper/data/f1_minima/parametric_plot.csv").read_text().splitlines())
    small, large = float(pair["rise_sb"]), float(pair["rise_lb"])
    text = " ".join((ROOT / "docs/paper/3-parametric.md").read_text().split())
    assert f"rises by {large:.2f} nats around batch 6000 and by {small:.5f} around batch 256" in text
    assert f"{plain_number(large / small)} times as much. Nearly all of it" in text
    assert f"{float(pair['loss_lb']):.6f} against {float(pair['loss_sb']):.4f}" in text


def test_the_papers_tables_are_those_of_the_kept_results() -> None:
    done = subprocess.run(
        [sys.executable, "docs/paper/rebuild.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_python_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "page.py").write_text("\n".join(blocks), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=1200, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SweepResults('python': 27 of 27 trials (27 completed), batch sizes 16 to 300)" in done.stdout
    assert "lost_high" in done.stdout
    assert (tmp_path / "gap.pdf").stat().st_size > 1000
