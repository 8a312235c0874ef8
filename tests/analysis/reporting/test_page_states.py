"""The report in states of its own: of the default sweep's size, of a sweep that has not ended, with skew intervals."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import made_up
from browser import Watched

from analysis.data.load import load_sweep
from analysis.data.progress import Progress, SizeProgress, progress_of
from analysis.questions.remedies import remedies
from analysis.reporting.page import page_html
from analysis.reporting.page.data import page_data
from trainables.records.tables import Record

MEGABYTE = 1_000_000


def test_the_report_of_the_default_sweep_is_below_two_megabytes(tmp_path: Path) -> None:
    records = made_up.grid((16, 32, 64, 128, 512), seeds=range(4), switch_epochs=(None, 5), warmups=(0.0, 5.0))
    records = [made_up.with_epochs(found, number=400) for found in records]
    assert len(records) >= 144
    sweep = load_sweep(made_up.write(tmp_path / "default", records))
    page = page_html(sweep.name, page_data(sweep, progress_of(sweep.trials, sweep.folder)))
    assert len(page.encode()) < 2 * MEGABYTE


def test_a_sweep_that_runs_is_preliminary(browser: Any, tmp_path: Path) -> None:
    sweep = load_sweep(made_up.write(tmp_path / "running", made_up.grid()))
    sizes = tuple(SizeProgress(size, 10, 10, 1.0) for size in (16, 64, 512))
    counts = {"completed": 30, "diverged": 0, "failed": 0}
    progress = Progress(40, counts, True, None, None, None, sizes)
    path = tmp_path / "running.html"
    path.write_text(page_html(sweep.name, page_data(sweep, progress)))
    page = Watched(browser).page
    page.goto(path.as_uri())
    badge = page.locator(".badge")
    assert badge.is_visible()
    assert badge.inner_text().startswith("PRELIMINARY 30 of 40 trials.")
    assert page.locator(".card").count() == 3
    page.close()


def opened_page(browser: Any, folder: Path, records: list[Record]) -> Any:
    """The report of a sweep of `records`."""
    sweep = load_sweep(made_up.write(folder, records))
    (folder / "report.html").write_text(page_html(sweep.name, page_data(sweep, progress_of(sweep.trials, folder))))
    page = Watched(browser).page
    page.goto((folder / "report.html").as_uri())
    return page


def test_the_map_has_means_by_batch_size(browser: Any, tmp_path: Path) -> None:
    """Also where nothing else varies but the seed, and where another axis comes first: `shape` has no seeds."""
    cases: list[tuple[str, list[dict[str, Any]], str]]
    cases = [("one", [{}], "batch_size"), ("two", [{}, {"momentum": 0.5}], "momentum")]
    for name, more, shape in cases:
        records = [
            made_up.record(0.9 - size / 1e4, size / 16, batch_size=size, seed=seed, optimizer="sgd", **options)
            for size in (16, 64, 512)
            for seed in range(3)
            for options in more
        ]
        page = opened_page(browser, tmp_path / name, records)
        assert page.evaluate("[choices().colour, choices().shape]") == ["batch_size", shape]
        means = page.evaluate("map.means.map((mean) => map.look.colours[mean.hue])")
        assert sorted(means) == sorted([16, 64, 512] * len(more))
        page.close()


def test_long_values_are_cut_but_where_a_trial_is_read(browser: Any, tmp_path: Path) -> None:
    options = [json.dumps({"layers": list(range(400)), "last": last}) for last in ("a", "b")]
    records = [made_up.record(batch_size=size, model_options=each) for size in (16, 64) for each in options]
    page = opened_page(browser, tmp_path / "long", records)
    short = f"{options[0][:30]}…{options[0][-17:]}"
    for selector in ("#legend", "table.trials"):
        assert short in page.locator(selector).inner_text()
        assert len(page.locator(selector).inner_text()) < 1000
    page.locator("button[data-key^='trial ']").first.click()
    assert len(page.locator("#trial h2").inner_text()) < 120
    assert page.locator("#trial [data-field=model_options]").text_content() in options
    page.fill("input[data-key=search]", "397")  # which is in the middle
    assert page.evaluate("visibleRows().length") == 4
    page.close()


def test_many_lines_of_means_have_colours_in_order(browser: Any, tmp_path: Path) -> None:
    rates = [round(0.001 * place, 3) for place in range(1, 10)]
    page = opened_page(browser, tmp_path / "rates", made_up.grid(learning_rates=rates, switch_epochs=(None,)))
    spec = "charts.get(document.querySelector('#gap .plot')).spec"
    assert page.evaluate(f"new Set(lineColours({spec})).size") == 9
    assert page.evaluate(f"legendOf({spec}).map(([, colour]) => colour)") == page.evaluate(f"lineColours({spec})")
    page.close()


def test_the_legend_of_a_saved_chart_is_whole(browser: Any, tmp_path: Path) -> None:
    """Nine learning rates take several rows, above the chart and inside of the picture."""
    rates = [round(0.001 * place, 3) for place in range(1, 10)]
    page = opened_page(browser, tmp_path / "rates", made_up.grid(learning_rates=rates, switch_epochs=(None,)))
    page.evaluate("chartAsSvg(document.querySelector('#gap .plot')).then((text) => { window.saved = text; })")
    page.wait_for_timeout(500)
    root = ElementTree.fromstring(page.evaluate("window.saved"))
    svg = "{http://www.w3.org/2000/svg}"
    words = {text.text: text for text in root.iter(f"{svg}text")}
    width, body = float(root.get("width", 0)), root.find(f"{svg}g")
    assert body is not None
    top = float(re.findall(r"[\d.]+", body.get("transform", ""))[1])
    for rate in rates:
        text = words[f"learning rate {rate:g}"]
        assert float(text.get("x", 0)) + 7 * len(text.text or "") <= width
        assert float(text.get("y", 0)) < top
    page.close()


def test_a_share_is_shown_with_the_ends_of_its_interval(opened: Any, sweep: Path) -> None:
    """Fieller's interval is not symmetric: a half-width would be wrong."""
    cells = opened.locator("table:has(caption:text-is('Remedies')) tbody tr").first.locator("th, td").all_inner_texts()
    best = remedies(load_sweep(sweep))[0]
    assert best.share is not None
    assert best.share.interval is not None
    low, high = (f"{100 * end:.0f}".replace("-", "−") for end in (best.share.interval.low, best.share.interval.high))
    share = next(text for text in cells if "[" in text)
    assert re.sub(r"\s+", " ", share) == f"{100 * best.share.value:.0f} [{low}, {high}]"
    assert not any("-" in text for text in cells[2:7])  # minus signs, not hyphens
