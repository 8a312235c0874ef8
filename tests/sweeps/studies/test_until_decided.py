"""`--until-decided` and `--plan`: which trials a look needs, what was fixed stays fixed, and a whole sweep."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from analysis.data.sequential_design import SequentialDesign, read_design
from sweeps.batch_grid import main
from sweeps.plan.grid import Grid
from sweeps.studies.until_decided import design_of, is_ended, trials_until
from trainables.data import Source
from trainables.runtime.errors import UserError

DESIGN = SequentialDesign(None, (0, 1, 2, 3, 4, 5), (2, 4, 6))
GRID = Grid(
    batch_sizes=(16, 64, 300),
    learning_rates=(0.01,),
    model_options={},
    switch_epochs=(None, 1),
    epochs=2,
    train_size=300,
    measures=(),
)
TINY = [
    *("--batch-sizes", "10", "300", "--learning-rates", "0.01", "--warmup-epochs", "0", "--switch-epochs", "none"),
    *("--epochs", "6", "--measures", "none", "--model-options", "widths=32", "--name", "tiny", "--plain"),
    *("--no-dashboard", "--results"),
]


def counted(source: Source, design: SequentialDesign) -> dict[tuple[int, bool], list[int]]:
    """The seeds of each batch size, without and with a switch."""
    found: dict[tuple[int, bool], list[int]] = {}
    for config in trials_until(GRID, source, design):
        found.setdefault((config.batch_size, config.switch_epoch is not None), []).append(config.seed)
    return found


def test_the_first_look_has_the_whole_grid(digits: Source) -> None:
    found = counted(digits, DESIGN)
    assert found == {(16, False): [0, 1], (64, False): [0, 1], (300, False): [0, 1], (16, True): [0, 1],
                     (64, True): [0, 1]}  # fmt: skip


def test_undecided_sizes_get_plain_trials_with_their_references(digits: Source) -> None:
    found = counted(digits, dataclasses.replace(DESIGN, taken=2, decided={64: 1}))
    assert found[16, False] == found[300, False] == [0, 1, 2, 3, 4, 5]
    assert found[64, False] == [0, 1]
    assert found[16, True] == found[64, True] == [0, 1]


def test_the_reference_stops_with_the_last_undecided_size(digits: Source) -> None:
    found = counted(digits, dataclasses.replace(DESIGN, taken=2, decided={64: 1, 300: 2}))
    assert (found[16, False], found[300, False]) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_the_end() -> None:
    assert not is_ended(dataclasses.replace(DESIGN, taken=2, decided={64: 1}), [16, 64, 300])
    assert is_ended(dataclasses.replace(DESIGN, taken=2, decided={64: 1, 300: 2}), [16, 64, 300])
    assert is_ended(dataclasses.replace(DESIGN, taken=3), [16, 64, 300])


def options(**changes: Any) -> argparse.Namespace:
    fields = {
        "seeds": [3, 1], "max_replicates": 6, "margin": None, "resume": False, "split_seeds": None, "held_out": None
    }  # fmt: skip
    return argparse.Namespace(**fields | changes)


def test_the_design_that_is_asked_for(tmp_path: Path) -> None:
    assert design_of(options(), tmp_path) == SequentialDesign(None, (3, 1, 4, 5, 6, 7), (2, 3, 4, 5, 6))
    assert design_of(options(max_replicates=None), tmp_path).cap == 6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_replicates": 2}, "`--max-replicates` must be more than the 2 --seeds, got 2"),
        ({"seeds": [1]}, "`--seeds` must be two or more"),
        ({"seeds": [1, 1]}, "`--seeds` must be two or more different"),
        ({"split_seeds": [0]}, "`--split-seeds` cannot be used"),
        ({"held_out": 50}, "`--validation-size` cannot be used"),
    ],
)
def test_mistakes(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        design_of(options(**changes), tmp_path)


def test_what_was_fixed_stays_fixed(tmp_path: Path) -> None:
    fixed = design_of(options(margin=0.5), tmp_path)
    (tmp_path / "sequential.json").write_text(fixed.as_json())
    assert design_of(options(max_replicates=None, resume=True), tmp_path) == fixed
    for changes in ({"max_replicates": 8}, {"seeds": [1, 2]}, {"margin": 1.0}):
        with pytest.raises(UserError, match="was fixed before the first look"):
            design_of(options(resume=True, **changes), tmp_path)


def test_results_that_were_seen_are_not_made_sequential(tmp_path: Path) -> None:
    (tmp_path / "trials.parquet").touch()
    with pytest.raises(UserError, match="seen before any look was planned"):
        design_of(options(resume=True), tmp_path)


def test_every_look_tells_the_time_since_the_command_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def look(*_: object, since: float, **__: object) -> int:
        told.append(since)
        found = read_design(tmp_path / "tiny") or DESIGN
        (tmp_path / "tiny").mkdir(exist_ok=True)
        taken = dataclasses.replace(found, taken=found.taken + 1)
        (tmp_path / "tiny" / "sequential.json").write_bytes(taken.as_json().encode())
        return 0

    monkeypatch.setattr("sweeps.studies.until_decided.run_study", look)
    assert main([*TINY, str(tmp_path), "--seeds", "0", "1", "--until-decided", "--max-replicates", "6"]) == 0
    assert len(told) == 3
    assert len(set(told)) == 1


PRICES = "import numpy as np\nx = np.eye(300, 8)\ndef prices(): return x, x[:, 0], None, None, 'regression'\n"


def test_a_margin_that_was_fixed_need_not_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It used to be asked for where the metric has no default."""
    (tmp_path / "sets_for_looks.py").write_text(PRICES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sweeps.studies.until_decided.run_study", lambda *_, **__: 3)  # it would start trials
    command = [*TINY, str(tmp_path), "--dataset", "sets_for_looks:prices", "--train-size", "250", "--seeds", "0", "1",
               "--batch-sizes", "10", "250", "--until-decided"]  # fmt: skip
    assert main(command) == 2
    assert "`--margin` must be given, because the metric of the task regression" in capsys.readouterr().err
    (tmp_path / "tiny").mkdir()
    fixed = SequentialDesign(0.1, (0, 1, 2, 3), (2, 4), taken=1)
    (tmp_path / "tiny" / "sequential.json").write_text(fixed.as_json())
    assert main([*command, "--resume"]) == 3


@pytest.mark.slow
def test_a_sweep_until_it_is_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six updates of full batches learn little: not free at the first look that can say so."""
    more = ["--seeds", "0", "1", "2", "--until-decided", "--max-replicates", "4"]
    assert main([*TINY, str(tmp_path), *more]) == 0
    said = capsys.readouterr().out
    content = json.loads((tmp_path / "tiny" / "sequential.json").read_text())
    assert content["looks"] == [3, 4]
    assert content["seeds"] == list(range(4))
    look = content["decided"]["300"]
    assert content["taken"] == look
    assert f"After look {look} of 2 ({content['looks'][look - 1]} replicates): batch 300 not free" in " ".join(
        said.split()
    )
    assert pq.read_table(tmp_path / "tiny" / "trials.parquet").num_rows == 2 * content["looks"][look - 1]
    assert main([*TINY, str(tmp_path), "--resume"]) == 2
    assert "is a sequential sweep: continue it with --until-decided" in capsys.readouterr().err
    assert main([*TINY, str(tmp_path), "--resume", *more]) == 0  # nothing is left to do
    assert json.loads((tmp_path / "tiny" / "sequential.json").read_text()) == content
    assert main([*TINY, str(tmp_path), "--plan"]) == 0
    assert "power 80 %, one-sided 2.5 %" in capsys.readouterr().out
