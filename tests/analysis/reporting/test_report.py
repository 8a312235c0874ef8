"""report.html: whole, self-contained, escaped, and honest about what is missing. test_page.py looks at it."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_up import failed, grid, record, write
from narrow import not_none

from analysis.charts import style
from analysis.data.load import load_sweep
from analysis.report import main as report_main
from analysis.reporting.headline import cards
from analysis.reporting.report import write_report
from trainables.runtime.errors import UserError

HOSTILE = '<script>alert("1")</script><img src="https://evil.example/x.png">&amp;{{ 7 * 7 }}'


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(not_none(found)[1])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [
        *grid(),
        record(batch_size=32, row={"status": "diverged", "flags": ["diverged"], "epochs_done": 7}),
        failed(f"Traceback\n  line\nRuntimeError: {HOSTILE}", batch_size=128, model_options=json.dumps({"x": HOSTILE})),
    ]
    records[0].trial["flags"] = ["missed target loss"]
    folder = write(tmp_path_factory.mktemp("report") / "<b>bold", records)
    command = ["sweeps/batch_grid.py", "--name", HOSTILE]
    (folder / "sweep.json").write_text(json.dumps({"command": command, "started_at": HOSTILE, "planned": 40}))
    with pytest.MonkeyPatch.context() as patched:  # what is in the files: test_figures.py
        patched.setattr(style, "rendered", lambda _: dict.fromkeys(("png", "svg", "pdf"), b""))
        path = write_report(load_sweep(folder))
    assert path == folder / "report.html"
    return folder / "report.html"


class Elements(HTMLParser):
    """The tags of a page, and the addresses that its attributes name."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [
            value for name, value in attrs if name in {"src", "srcset", "href", "action", "data", "style"}
        ]


def test_it_is_one_file_that_asks_nobody(report: Path) -> None:
    page = report.read_text()
    assert page.count("<script") == page.count("</script>") == 2
    assert "<link" not in page
    assert "url(" not in page.replace("url(#${clips.get(clip)})", "")  # a part of the SVG that it saves
    assert not re.findall(r'(?:src|href|action)="', page)
    assert "connect-src &#39;none&#39;" in page
    assert "<b>bold" not in page
    elements = Elements(page)  # of texts of the sweep none becomes an element
    assert not elements.addresses
    assert not elements.tags & {"b", "img", "link", "iframe", "object", "embed", "base", "form"}
    outside = page.replace(not_none(re.search(r'id="data">(.*?)</script>', page, re.DOTALL))[1], "")
    assert "evil.example" not in outside  # the data holds it, with its brackets escaped
    assert len(page) < 1_000_000


def test_its_data_holds_the_answer_and_what_went_wrong(report: Path) -> None:
    data = data_of(report.read_text())
    assert [card["verdict"] for card in data["cards"]] == [card.verdict for card in cards(load_sweep(report.parent))]
    assert data["progress"]["sentence"].endswith("32 of 40 trials ended")
    assert data["progress"]["counts"] == {"completed": 30, "diverged": 1, "failed": 1}
    text = json.dumps(data["sections"])
    for expected in (
        "sweeps/batch_grid.py --name",
        "RuntimeError: <script>",
        "the loss was no longer finite after 7 epochs",
        "missed target loss",
        "16, 32, 64, 128, 512",
        "2026-01-01T00:00:00+00:00",
    ):
        assert expected in text, expected
    errors = data["trials"]["error"]
    assert [error for error in errors if error] == [f"Traceback\n  line\nRuntimeError: {HOSTILE}"]


def test_its_tables_are_in_words(report: Path) -> None:
    """Names of columns are those of trials.parquet; only the facts about the run have values with such names."""
    tables = [table for section in data_of(report.read_text())["sections"] for table in section["tables"]]
    assert any("by axis" in table["caption"] for table in tables)
    cells = [cell for table in tables for row in table["rows"] for cell in row["cells"][: None if table["head"] else 1]]
    words = set(re.findall(r"\w+", " ".join([*cells, *(head for table in tables for head in table["head"])])))
    assert {name for name in load_sweep(report.parent).trials if "_" in name} & words == set()


def test_its_numbers_are_those_of_the_tables(report: Path) -> None:
    data = data_of(report.read_text())
    frame = load_sweep(report.parent).trials.set_index("trial_id")
    for name in ("test_accuracy", "large_batch_gap", "box_sharpness", "batch_size", "seed"):
        for key, value in zip(data["trials"]["trial_id"], data["trials"][name], strict=True):
            known = frame[name][key]
            assert value == pytest.approx(known, rel=1e-5) if known == known else value is None


def test_the_figures_lie_beside_it(report: Path) -> None:
    names = {path.name for path in (report.parent / "figures").iterdir()}
    assert {"gap_vs_sharpness.svg", "batch_size_curves.svg", "switch_point.svg", "free_batch.svg"} <= names
    assert not any(name.startswith("learning_rate_heatmap") for name in names)  # of two learning rates


@pytest.mark.parametrize("case", ["one trial", "all failed", "one batch size", "one replicate", "zero sharpness"])
def test_it_is_written_for_poor_sweeps_too(write_sweep: Callable[..., Path], svg_alone: None, case: str) -> None:
    records = {
        "one trial": [record()],
        "all failed": [failed("boom"), failed("", seed=1)],
        "one batch size": grid(batch_sizes=[16], switch_epochs=[None]),
        "one replicate": grid(seeds=[0], learning_rates=[0.01]),
        "zero sharpness": [record(0.9, 0.0, batch_size=size, seed=s) for size in (16, 32) for s in (0, 1)],
    }[case]
    data = data_of(write_report(load_sweep(write_sweep(records))).read_bytes().decode())
    assert len(data["trials"]["trial_id"]) == len({found.trial["trial_id"] for found in records})
    assert [card["question"] for card in data["cards"]] == ["How large?", "Is it sharpness?", "What helps?"]
    titles = [section["title"] for section in data["sections"]]
    assert ("By batch size" in titles) == (case != "all failed")
    assert "nan" not in json.dumps(data).lower().replace("finance", "")


def test_a_terminal_shows_what_takes_seconds(
    write_sweep: Callable[..., Path],
    svg_alone: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_sweep(grid())
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # what rich takes for a terminal
    assert report_main([str(folder)]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(folder / "report.html")
    assert "Writing figures and report" in said.err
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    assert report_main([str(folder)]) == 0
    assert capsys.readouterr().err == ""


def test_a_bad_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        write_report(load_sweep(tmp_path))
    assert list(tmp_path.iterdir()) == []
