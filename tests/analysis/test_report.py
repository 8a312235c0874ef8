"""report.html: whole, self-contained, escaped, and honest about what is missing."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from made_up import failed, grid, record, write

from analysis.load import load_sweep
from analysis.report import write_report
from trainables.errors import UserError

HOSTILE = '<script>alert("1")</script><img src="https://evil.example/x.png">&amp;{{ 7 * 7 }}'
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self._open = [], [], "", []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    records = [
        *grid(),
        record(batch_size=32, row={"status": "diverged", "flags": ["diverged"], "epochs_done": 7}),
        failed(
            f"Traceback\n  line\nRuntimeError: {HOSTILE}",
            batch_size=128,
            model_options=json.dumps({"x": HOSTILE}),
        ),
    ]
    records[0].trial["flags"] = ["missed target loss"]
    folder = write(tmp_path_factory.mktemp("report"), records)
    command = ["sweeps/batch_grid.py", "--name", HOSTILE]
    (folder / "sweep.json").write_text(json.dumps({"command": command, "started_at": HOSTILE, "planned": 40}))
    path = write_report(load_sweep(folder))
    assert path == folder / "report.html"
    return path.read_text()


def test_it_asks_nothing_of_anybody_and_escapes_everything(report):
    page = Page(report)
    assert "script" not in page.tags
    assert "link" not in page.tags
    sources = [value for tag, name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert len(sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in report
    assert not re.search(r"https?://", re.sub("https://evil.example", "", report))
    assert HOSTILE in page.text  # as text, in full
    assert "49" not in re.findall(r"&amp;(\S+)", page.text)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_it_opens_with_the_answer_and_the_gap_map(report):
    page = Page(report)
    headings = re.findall(r"<h2>(.*?)</h2>", report)
    assert headings[0] == "The gap map"
    assert page.text.index("generalizes worse") < page.text.index("The gap map")
    assert page.tags.index("section") < page.tags.index("img")
    alternatives = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(alternatives) == 4
    assert all(alternatives)
    first = next(value for tag, name, value in page.attributes if name == "src")
    assert base64.b64decode(first.split(",")[1]).startswith(b"\x89PNG")


def test_it_tells_what_was_run_and_what_went_wrong(report):
    text = Page(report).text
    for expected in (
        "32 of 40 trials ended: 30 completed, 1 diverged, 1 failed",
        "sweeps/batch_grid.py --name",
        "RuntimeError: <script>",
        "Traceback\n  line",
        "the loss was no longer finite after 7 epochs",
        "missed target loss",
        "16, 32, 64, 128, 512",
        "2026-01-01T00:00:00+00:00",
    ):
        assert expected in text, expected


@pytest.mark.parametrize("case", ["one trial", "all failed", "one batch size", "one replicate", "zero sharpness"])
def test_it_is_written_for_poor_sweeps_too(write_sweep, case):
    records = {
        "one trial": [record()],
        "all failed": [failed("boom"), failed("", seed=1)],
        "one batch size": grid(batch_sizes=[16], switch_epochs=[None]),
        "one replicate": grid(seeds=[0], learning_rates=[0.01]),
        "zero sharpness": [record(0.9, 0.0, batch_size=size, seed=s) for size in (16, 32) for s in (0, 1)],
    }[case]
    page = Page(write_report(load_sweep(write_sweep(records))).read_text())
    assert ("img" in page.tags) == (case != "all failed")
    if case in ("one trial", "all failed", "one batch size"):
        assert "Not drawn: `results` must hold" in page.text
    assert "nan" not in page.text.lower().replace("finance", "")


def test_a_bad_folder_leaves_nothing(tmp_path):
    with pytest.raises(UserError):
        write_report(load_sweep(tmp_path))
    assert list(tmp_path.iterdir()) == []
