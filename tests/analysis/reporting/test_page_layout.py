"""How the page looks: on wide and small screens, zoomed, printed, in light and dark, and to assistive technology."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from browser import Watched
from narrow import not_none

from analysis.charts.style import LINE_COLOURS

LUMINANCE = """(colour) => {
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1);
  const parts = [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return parts[0] * 0.2126 + parts[1] * 0.7152 + parts[2] * 0.0722;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_mark_stands_out(browser: Any, sweep: Path, scheme: str) -> None:
    """WCAG 2.2, 1.4.11: 3 : 1 for what is drawn, against the page and against what is free."""
    page = Watched(browser, color_scheme=scheme).page
    page.goto((sweep / "report.html").as_uri())
    assert page.evaluate("css('--back')") == {"light": "#ffffff", "dark": "#15191d"}[scheme]
    found = page.evaluate(
        f"""() => {{
        const luminance = {LUMINANCE};
        const ratio = (...pair) => {{
          const [dark, light] = pair.map(luminance).sort((a, b) => a - b);
          return (light + 0.05) / (dark + 0.05);
        }};
        const ranks = [2, 3, 5, 8].flatMap((count) => colours([...Array(count).keys()]));
        const marks = ranks.concat(okabeIto(), css("--text"), css("--faint"));
        const grounds = ["--back", "--raised", "--free"];
        return marks.flatMap((mark) => grounds.map((ground) => [mark, ground, ratio(mark, css(ground))]));
        }}"""
    )
    assert [entry for entry in found if entry[2] < 3] == []
    assert (page.evaluate("okabeIto()") == list(LINE_COLOURS)) == (scheme == "light")  # those of the figures
    page.close()


def test_numbers_are_to_the_right_and_no_column_is_cut(browser: Any, sweep: Path) -> None:
    page = Watched(browser, viewport={"width": 1440, "height": 900}).page
    page.goto((sweep / "report.html").as_uri())
    aligned = "(cell) => getComputedStyle(cell).textAlign"
    for name in ("batch_size", "test_accuracy", "box_sharpness"):
        place = page.evaluate(f"tableColumns().findIndex((column) => column.name === {name!r})")
        assert page.locator("tr[data-trial]").first.locator("td").nth(place).evaluate(aligned) == "right"
        assert page.locator("table.trials th").nth(place).evaluate(aligned) == "right"
    gains = page.locator("table:has(caption:text-is('Remedies')) tbody tr").first.locator("td")
    assert gains.nth(1).evaluate(aligned) == "right"
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    is_cut = "(box) => box.scrollWidth > box.clientWidth + 1"
    cut = f"[...document.querySelectorAll('.scroll')].filter({is_cut}).map((box) => box.ariaLabel)"
    assert page.evaluate(cut) == []
    page.close()


def test_print_keeps_heads_and_trial_links_and_cuts_nothing(browser: Any, sweep: Path) -> None:
    page = Watched(browser, viewport={"width": 760, "height": 1000}, color_scheme="dark").page
    page.goto((sweep / "report.html").as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    heads = [head.inner_text().strip() for head in page.locator("table.trials thead th").all()]
    assert {"trial", "batch size", "test accuracy [%]"} <= set(heads)
    assert re.fullmatch(r"[0-9a-f]{16}", page.locator("tr[data-trial] button").first.inner_text())
    assert re.fullmatch(r"\d+ trials?", page.locator("#sections button.trace").first.inner_text())
    assert not page.locator("#filters").is_visible()
    is_cut = "(box) => box.scrollWidth > box.clientWidth + 1"
    sizes = "(box) => [box.ariaLabel ?? box.parentElement.textContent, box.scrollWidth, box.clientWidth]"
    assert page.evaluate(f"[...document.querySelectorAll('.scroll, .plot')].filter({is_cut}).map({sizes})") == []
    assert page.evaluate("css('--back')") == "#ffffff"  # a dark page is printed on white
    page.close()


ON_SEVERAL_LINES = """(cells) => cells.map((cell) => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  return [cell.textContent, new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size];
}).filter(([, lines]) => lines > 1)"""


def test_in_print_a_number_is_on_one_line(browser: Any, sweep: Path) -> None:
    page = Watched(browser, viewport={"width": 760, "height": 1000}).page
    page.goto((sweep / "report.html").as_uri())
    page.emulate_media(media="print")
    assert page.locator("table.trials td.number").count() > 100
    status = page.evaluate("tableColumns().findIndex((column) => column.name === 'status')") + 1
    for selector in ("td.number:not(:has(.part))", "td.number .part", f"tr[data-trial] td:nth-child({status})"):
        cells = page.locator(selector)
        assert cells.count()
        assert cells.evaluate_all(ON_SEVERAL_LINES) == [], selector
    page.close()


@pytest.mark.parametrize(("width", "scale"), [(1024, 1), (720, 2)])
def test_it_fits_a_small_screen_and_200_percent_zoom(browser: Any, sweep: Path, width: int, scale: int) -> None:
    """A window of 1440 pixels at 200 % has 720, each of two by two on the screen."""
    page = Watched(browser, viewport={"width": width, "height": 768}, device_scale_factor=scale).page
    page.goto((sweep / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("#map", "#gap", ".card >> nth=2", "#controls", "#filters"):
        box = page.locator(selector).bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width, selector
    page.close()


AXE = next(
    (path for folder in (*os.environ.get("NODE_PATH", "").split(os.pathsep), "node_modules")
     if (path := Path(folder) / "axe-core" / "axe.min.js").exists()),
    None,
)  # fmt: skip


@pytest.mark.skipif(AXE is None, reason="no axe-core in NODE_PATH: `npm install axe-core`, as CONTRIBUTING.md says")
@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser: Any, sweep: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900}
    page = Watched(browser, viewport=size, color_scheme=scheme, bypass_csp=True).page
    page.goto((sweep / "report.html").as_uri())
    page.evaluate(not_none(AXE).read_text(encoding="utf-8"))
    opened = "for (const fold of document.querySelectorAll('details:not(.filter)')) fold.open = true"
    rules = "{ rules: { 'label-content-name-mismatch': { enabled: true } } }"  # off by default
    states = {
        "as it opens": "0",
        "unfolded, with parallel coordinates": opened,
        "a trial": "openTrial(data.trials.trial_id[3])",
        "its configuration": "byId('trial').querySelector('details').open = true",
        "compared trials": "openTrial(null); data.trials.trial_id.slice(3, 6).forEach(toggleCompared)",
        "filters that leave nothing": "state.search = 'no such trial'; changeFilter()",
    }
    for name, script in states.items():
        page.evaluate(f"() => {{ {script} }}")
        found = page.evaluate(f"axe.run({rules})")["violations"]
        assert [(name, entry["id"], entry["nodes"][0]["html"]) for entry in found] == []
    assert page.locator("#parallel canvas").count() == 1
    assert page.locator("#compared .chart").count() > 0
    assert "0 of " in page.locator("#selection").inner_text()
    page.close()


def test_on_a_phone_the_verdicts_are_on_the_first_screen(browser: Any, sweep: Path) -> None:
    page = Watched(browser, viewport={"width": 390, "height": 844}).page
    page.goto((sweep / "report.html").as_uri())
    for place in range(3):
        box = page.locator(".card .verdict").nth(place).bounding_box()
        assert box["y"] + box["height"] <= 844
    page.close()


def test_the_first_screen_answers(browser: Any, sweep: Path) -> None:
    page = Watched(browser, viewport={"width": 1440, "height": 900}).page
    page.goto((sweep / "report.html").as_uri())
    for selector in (
        *(f".card >> nth={place}" for place in range(3)),
        "#run",
        "#contents",
        "#gap canvas",
        "#map canvas",
    ):
        box = page.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] <= 900, selector
    assert [card.inner_text() for card in page.locator(".card h2").all()] == [
        "How large?",
        "Is it sharpness?",
        "What helps?",
    ]
    assert not page.locator(".card details p").first.is_visible()
    page.locator(".card summary").first.click()
    assert "non-inferior" in page.locator(".card").first.inner_text()
    assert "digits" in page.locator("#run").inner_text()
    page.click("#contents a:has-text('The remedies')")
    top = "Math.abs(document.querySelector('#section-the-remedies').getBoundingClientRect().top) < 40"
    end = time.monotonic() + 30
    while not page.evaluate(top):
        assert time.monotonic() < end, "did not scroll there"
        time.sleep(0.05)
    page.close()
