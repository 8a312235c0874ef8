"""Whatever a results folder holds, its reader says one line or nothing: no traceback, no wait, no harm to the rest."""

import importlib
import json
import signal
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from malformed_folders import Damage, damages, foreign_damages, foreign_runs, whole_folder

from analysis.reporting.live import LiveData
from trainables.records import tables

DAMAGES = {damage.name: damage for damage in damages()}
FOREIGN = {damage.name: damage for damage in foreign_damages()}
LONGEST = 60  # seconds for what takes a tenth of one: a reader that hangs is stopped
READERS = ["analysis.summary", "analysis.report", "analysis.leaderboard", "analysis.gap_vs_sharpness"]
GRID = """--batch-sizes 30 300 --learning-rates 0.003 0.01 --warmup-epochs 0 --switch-epochs none 5 --seeds 0 1
    --name folder --resume --dry-run --no-dashboard --plain"""


class HangsError(BaseException):
    """Not an Exception, which the code under test may catch."""


def _stop(signum: int, frame: types.FrameType | None) -> NoReturn:
    raise HangsError


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    whole_folder(tmp_path / "folder")
    previous = signal.signal(signal.SIGALRM, _stop)
    signal.alarm(LONGEST)
    try:
        yield tmp_path / "folder"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def check(script: str, arguments: list[str], damage: Damage, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that holds `damage.says`, with status 2 or as a warning; or status 0 and no line."""
    tables._tell.cache_clear()  # each warning again
    try:
        status: object = importlib.import_module(script).main(arguments)
    except SystemExit as exit:
        status = exit.code
    error = capsys.readouterr().err
    is_refused = refuses(damage)
    assert status == (2 if is_refused else 0), error
    lines = [line for line in error.splitlines() if is_refused or " is left out " in line]
    assert len(lines) == bool(damage.says), error
    assert damage.says in "".join(lines)
    assert error.isprintable() or error.replace("\n", "").isprintable()


def refuses(damage: Damage) -> bool:
    """Whether no reader may go on, as it may where a warning tells what is left out."""
    return bool(damage.says) and "is left out" not in damage.says


def test_there_are_many() -> None:
    assert len(DAMAGES) >= 250
    assert len(DAMAGES) == len(list(damages()))  # each with a name of its own


def test_without_damage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check("sweeps.status", [str(folder)], Damage("none", "", lambda _: None), capsys)


@pytest.mark.parametrize("name", list(DAMAGES)[::4])
def test_status(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGES[name].make(folder)
    check("sweeps.status", [str(folder)], DAMAGES[name], capsys)


def arguments_of(folder: Path, name: str) -> list[str]:
    """What reads the damaged part of foreign runs."""
    if name.startswith("runs.csv"):
        return [str(folder / "chart.csv"), "--runs", str(folder / "runs.csv"), "--metric", "val_loss"]
    return [str(folder / ("events" if name.startswith("events") else "studies")), "--metric", "val_loss"]


@pytest.mark.parametrize("name", FOREIGN)
def test_runs_of_other_tools(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign_runs(folder)
    FOREIGN[name].make(folder)
    check("analysis.steps_to_result", arguments_of(folder, name), FOREIGN[name], capsys)


@pytest.mark.parametrize("name", ["studies", "runs.csv"])
def test_runs_of_other_tools_without_damage(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign_runs(folder)
    check("analysis.steps_to_result", arguments_of(folder, name), Damage("none", "", lambda _: None), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_reports_and_resumption(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGES[name].make(folder)
    check("sweeps.status", [str(folder)], DAMAGES[name], capsys)
    for script in READERS:
        check(script, [str(folder)], DAMAGES[name], capsys)
    check("sweeps.batch_grid", ["--results", str(folder.parent), *GRID.split()], DAMAGES[name], capsys)
    live = LiveData(folder)
    live.look()
    message = json.loads(live.content[1]).get("message") or ""
    if refuses(DAMAGES[name]):
        assert DAMAGES[name].says in message
    else:
        assert not message
