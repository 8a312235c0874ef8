"""One page of several sweeps: whose trials and verdicts are whose, and what a reader sees of it in a browser."""

import json
from pathlib import Path
from typing import Any

import pytest
from browser import Watched
from made_up import grid, record, with_epochs, write

from analysis.data.load import load_sweep
from analysis.report import main
from analysis.reporting.page.several import several_data
from analysis.reporting.report import write_report_of_several
from trainables.runtime.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """`first` with two learning rates; `second` with one, and one trial that `first` has too."""
    results = tmp_path_factory.mktemp("results")
    first = [with_epochs(found) for found in grid()]
    second = [with_epochs(found) for found in grid(learning_rates=[0.003], seeds=[0, 7])]
    return write(results / "first", first), write(results / "second", second)


def test_each_trial_keeps_its_sweep_and_its_values(folders: tuple[Path, Path]) -> None:
    sweeps = {folder.name: load_sweep(folder) for folder in folders}
    data = several_data(sweeps)
    trials = data["trials"]
    assert len(set(trials["trial_id"])) == len(trials["trial_id"]) == sum(len(s.trials) for s in sweeps.values())
    assert {len(column) for column in (*trials.values(), *data["marks"].values(), data["matched"])} == {
        len(trials["trial_id"])
    }
    for key, name, rate, accuracy in zip(
        trials["trial_id"], trials["sweep"], trials["learning_rate"], trials["test_accuracy"], strict=True
    ):
        row = sweeps[name].trials.set_index("trial_id").loc[key.split(":")[-1]]
        assert (rate, accuracy) == (row["learning_rate"], pytest.approx(row["test_accuracy"], rel=1e-5))
    shared = set(sweeps["first"].trials["trial_id"]) & set(sweeps["second"].trials["trial_id"])
    assert shared
    assert {key for key in trials["trial_id"] if ":" in key} == {f"{n}:{key}" for n in sweeps for key in shared}
    sets: dict[Any, set[str]] = {}
    for number, name in zip(data["matched"], trials["sweep"], strict=True):
        sets.setdefault(number, set()).add(name)
    assert all(len(names) == 1 for number, names in sets.items() if number is not None)  # no set across sweeps
    assert [card["question"] for card in data["cards"]][::3] == ["first: How large?", "second: How large?"]


def test_the_rows_of_a_section_find_the_trials_of_their_sweep(folders: tuple[Path, Path]) -> None:
    data = several_data({folder.name: load_sweep(folder) for folder in folders})
    assert len({section["id"] for section in data["sections"]}) == len(data["sections"])
    for section in data["sections"]:
        for row in (row for table in section["tables"] for row in table["rows"] if "where" in row):
            assert section["title"].endswith(f"({row['where']['sweep']})")
            keys = row["where"].get("trial_id", [])
            for key in [keys] if isinstance(keys, str) else keys:
                place = data["trials"]["trial_id"].index(key)
                assert data["trials"]["sweep"][place] == row["where"]["sweep"]


def test_mistakes_get_one_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    first = load_sweep(folders[0])
    with pytest.raises(UserError, match="different folders"):
        write_report_of_several([first, first])
    about = {"metric": "nats", "metric_unit": "nats per token", "metric_direction": "lower", "task": "language"}
    nats = load_sweep(write(tmp_path / "nats", [record(row={**about, "test_metric": 1.5, "train_metric": 1.4})]))
    with pytest.raises(UserError, match="one primary metric"):
        write_report_of_several([first, nats])


@pytest.mark.slow
def test_the_page_of_two_sweeps_in_a_browser(
    browser: Any, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder) for folder in folders]) == 0
    path = folders[0].parent / "first+second.html"
    assert capsys.readouterr().out.strip() == str(path)
    watched = Watched(browser)
    page = watched.page
    page.goto(path.as_uri())
    assert page.locator("#answer .card").count() == 6
    assert page.evaluate("[choices().colour, choices().shape]") == ["batch_size", "sweep"]
    count = page.evaluate("map.rows.length")
    page.click("summary[data-key='filter sweep']")
    page.uncheck("input[data-key='value sweep second']")
    assert 0 < page.evaluate("map.rows.length") < count
    page.keyboard.press("Escape")
    ticks = page.locator("#table input[data-key^='compare ']")
    ticks.nth(0).check()
    ticks.nth(1).check()
    assert page.locator("#compared .chart").count() == 4
    assert "first, learning rate 0.003" in page.locator("#gap").inner_text()
    page.locator("#sections .trace:enabled").last.click()
    assert json.loads(page.evaluate("JSON.stringify(state.where)"))["where"]["sweep"] == "second"
    assert watched.errors == []
    page.close()
