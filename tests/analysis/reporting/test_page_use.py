"""What a reader does with the page: zoom, search, open and close a trial, go back, link, save."""

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from browser import Watched, alone, choose, frame_of, places


def drag(page: Any, box: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drags over shares of the width and height of an element."""
    page.locator(box).scroll_into_view_if_needed()
    place = page.locator(box).bounding_box()
    at = [(place["x"] + x * place["width"], place["y"] + y * place["height"]) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=4)
    page.mouse.up()


@pytest.mark.parametrize(("box", "axes"), [("#map", "xy"), ("#gap .plot", "x"), ("#sections .chart .plot", "x")])
def test_dragging_zooms_to_what_was_dragged_over(opened: Any, box: str, axes: str) -> None:
    over = opened.locator(f"{box} .u-over").first
    over.scroll_into_view_if_needed()
    script = f"""() => {{
      const {{ scales, over, posToVal }} = charts.get(document.querySelector({box!r})).plot;
      const ends = {{ x: [0.25, 0.75].map((share) => share * over.clientWidth),
        y: [0.8, 0.2].map((share) => share * over.clientHeight) }};
      return Object.fromEntries(["x", "y"].map((axis) =>
        [axis, [scales[axis].min, scales[axis].max, ...ends[axis].map((place) => posToVal(place, axis))]]));
    }}"""
    before = opened.evaluate(script)
    place = over.bounding_box()
    points = [
        (place["x"] + x * place["width"], place["y"] + y * place["height"]) for x, y in ((0.25, 0.2), (0.75, 0.8))
    ]
    opened.mouse.move(*points[0])
    opened.mouse.down()
    opened.mouse.move(*points[1], steps=4)
    opened.mouse.up()
    after = opened.evaluate(script)
    for axis in axes:
        low, high = after[axis][:2]
        assert (low, high) == pytest.approx(before[axis][2:], abs=0.02 * abs(before[axis][1] - before[axis][0]))
    opened.mouse.dblclick(*points[0])
    assert opened.evaluate(script) == before


def test_a_closed_trial_leaves_the_reader_where_they_were(opened: Any, sweep: Path) -> None:
    row = opened.locator("tr[data-trial]").nth(20)
    trial = row.get_attribute("data-trial")
    row.scroll_into_view_if_needed()
    where = opened.evaluate("scrollY")
    assert where > 1000
    row.locator("td").last.click()
    assert opened.locator("#trial").is_visible()
    assert trial in opened.locator("#trial").inner_text()
    assert abs(opened.evaluate("scrollY") - where) <= 1
    opened.click("#trial button[data-key=close]")
    opened.wait_for_selector("#trial", state="hidden")
    assert abs(opened.evaluate("scrollY") - where) <= 1


def test_the_back_button_closes_a_trial_and_forward_opens_it(opened: Any, sweep: Path) -> None:
    choose(opened, "batch_size", [512])
    trial = opened.locator("tr[data-trial]").first.get_attribute("data-trial")
    opened.click(f"button[data-key='trial {trial}']")
    opened.click("#trial button[data-key=next]")
    other = opened.evaluate("state.trial")
    assert other != trial
    opened.go_back()
    assert not opened.locator("#trial").is_visible()
    assert opened.evaluate("state.hidden.batch_size.size") > 0  # the filters stay
    opened.go_forward()
    assert other in opened.locator("#trial").inner_text()


def test_a_view_can_be_linked(opened: Any, browser: Any, sweep: Path) -> None:
    opened.select_option("select[data-key='choose x']", "hessian_max_eig")
    opened.select_option("select[data-key='choose colour']", "learning_rate")
    opened.uncheck("input[data-key='log x']")
    choose(opened, "batch_size", [64, 512])
    opened.fill("input[data-key=search]", "test_accuracy>90")
    opened.click("button[data-key='sort test_accuracy']")
    opened.click("button[data-key='sort test_accuracy']")
    opened.evaluate("zoomTo(byId('map'), {x: [0.5, 300]})")
    opened.click("button[data-key^='trial '] >> nth=1")
    chosen = "state.x, choices().logX, choices().colour, state.sort, state.descending, state.zoom, state.trial"
    shown = f"[{chosen}, visibleRows()]"
    wanted = opened.evaluate(shown)
    watched = Watched(browser)
    watched.page.goto(opened.url)
    assert watched.page.evaluate(shown) == wanted
    assert watched.page.evaluate("map.plot.scales.x.max") == 300
    assert watched.page.input_value("input[data-key=search]") == "test_accuracy>90"
    assert watched.page.locator("#trial").is_visible()
    watched.page.goto(f"{opened.url.split('#')[0]}#zoom=3&hide.seed=no&where=[1]&x=nothing&sort=-nothing&columns=7")
    watched.page.reload()
    assert watched.page.locator("tr[data-trial]").count() > 10  # what is not understood is left out
    assert watched.errors == []
    watched.page.close()


@pytest.mark.parametrize(
    "address",
    [
        'zoom={"x":[1,1.0000000000000002]}', 'zoom={"x":[2,2]}', 'zoom={"x":[3,1],"y":[0,0]}', 'zoom={"x":[-1,5]}',
        'gap={"x":[0,9]}', 'zoom={"y":[0,1e308]}', "range.box_sharpness=[]", "range.box_sharpness=[null]",
        'range.box_sharpness=["a",{}]', "range.nothing=[0,1]", 'hide.seed="012"', "hide.nothing=[1]", "page=1e9",
    ],
)  # fmt: skip
def test_an_address_that_no_page_has_written_shows_the_trials(browser: Any, sweep: Path, address: str) -> None:
    watched = Watched(browser)
    watched.page.goto(f"{(sweep / 'report.html').as_uri()}#{address}")
    measured = watched.page.evaluate("data.trials.box_sharpness.filter((value) => value !== null).length")
    assert watched.page.evaluate("visibleRows().length") >= measured > 10
    assert watched.page.locator("tr[data-trial]").count() > 10
    assert watched.page.evaluate("map.plot.scales.x.max > map.plot.scales.x.min")
    assert watched.errors == []
    watched.page.close()


def test_a_table_without_further_columns_can_be_linked(opened: Any, browser: Any) -> None:
    opened.evaluate("state.columns = []; render()")
    page = Watched(browser).page
    page.goto(opened.url)
    assert page.locator("table.trials thead th").count() == 1
    page.close()


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("test_accuracy>94.5", "test_accuracy > 0.945"),
        ("batch_size=64 seed=1", "batch_size == 64 and seed == 1"),
        ("failed", "status == 'failed'"),
    ],
)
def test_search_by_value(opened: Any, sweep: Path, text: str, query: str) -> None:
    opened.fill("input[data-key=search]", text)
    wanted = set(frame_of(sweep).query(query).index)
    assert wanted
    assert {row.get_attribute("data-trial") for row in opened.locator("tr[data-trial]").all()} == wanted
    assert opened.evaluate("document.activeElement.dataset.key") == "search"


def test_search_by_trial(opened: Any, sweep: Path) -> None:
    trial = frame_of(sweep).index[7]
    opened.fill("input[data-key=search]", trial[:10])
    assert [row.get_attribute("data-trial") for row in opened.locator("tr[data-trial]").all()] == [trial]


def test_a_range_leaves_the_trials_inside(opened: Any, sweep: Path) -> None:
    opened.click("summary[data-key='filter ranges']")
    opened.fill("input[data-key='range 0 box_sharpness']", "2")
    opened.keyboard.press("Tab")
    opened.fill("input[data-key='range 1 box_sharpness']", "20")
    opened.keyboard.press("Tab")
    wanted = set(frame_of(sweep).query("2 <= box_sharpness <= 20").index)
    assert {opened.evaluate(f"data.trials.trial_id[{row}]") for row in opened.evaluate("visibleRows()")} == wanted
    opened.click("button[data-key=clear]")
    assert opened.evaluate("visibleRows().length") == len(frame_of(sweep))


def test_the_menu_of_ranges_shows_what_was_brushed_and_cleared(opened: Any) -> None:
    opened.click("summary[data-key='filter ranges']")
    box, search = "input[data-key='range 0 box_sharpness']", "input[data-key=search]"
    opened.fill(box, "2")
    opened.keyboard.press("Tab")
    opened.keyboard.press("Escape")
    opened.check("input[data-key='drag filters']")
    drag(opened, "#map .u-over", (0.1, 0.05), (0.9, 0.7))
    low = opened.evaluate("state.ranges.box_sharpness[0]")
    assert low != 2
    assert float(opened.input_value(box)) == low
    opened.fill(search, "digits")
    opened.click("button[data-key=clear]")
    assert (opened.input_value(box), opened.input_value(search)) == ("", "")


def test_brushing_filters(opened: Any, sweep: Path) -> None:
    opened.check("input[data-key='drag filters']")
    opened.locator("#map .u-over").scroll_into_view_if_needed()
    before = places(opened)
    box = opened.locator("#map .u-over").bounding_box()
    drag(opened, "#map .u-over", (0.4, 0.05), (0.9, 0.7))
    kept = set(places(opened))
    assert 0 < len(kept) < len(before)
    share = {key: ((x - box["x"]) / box["width"], (y - box["y"]) / box["height"]) for key, (x, y) in before.items()}
    assert kept == {key for key, (x, y) in share.items() if 0.4 < x < 0.9 and 0.05 < y < 0.7}
    assert "box sharpness" in opened.locator("#selection").inner_text()


def test_empty_filters_say_so_and_lead_back(opened: Any) -> None:
    opened.fill("input[data-key=search]", "no such trial")
    assert "No trial matches the filters." in opened.locator("#map-empty").inner_text()
    assert "No trial matches the filters." in opened.locator("#table").inner_text()
    opened.click("button[data-key='clear on map']")
    assert not opened.locator("#map-empty").is_visible()
    choose(opened, "status", ["failed"])
    assert "None of the 1 trial has both a box sharpness" in opened.locator("#map-empty").inner_text()


def saved(page: Any, selector: str) -> Any:
    with page.expect_download() as waiting:
        page.locator(selector).first.click()
    return waiting.value


def test_the_trials_shown_are_saved_as_csv(opened: Any, sweep: Path) -> None:
    choose(opened, "batch_size", [64, 128])
    opened.click("button[data-key='sort test_accuracy']")
    found = saved(opened, "button[data-key=csv]")
    assert found.suggested_filename == "made_up-trials.csv"
    rows = list(csv.DictReader(io.StringIO(found.path().read_text(encoding="utf-8"), newline="")))
    shown = [row.get_attribute("data-trial") for row in opened.locator("tr[data-trial]").all()]
    assert [row["trial_id"] for row in rows] == shown
    frame = frame_of(sweep)
    for row in rows:
        known = frame["test_accuracy"][row["trial_id"]]
        assert (
            float(row["test_accuracy"]) == pytest.approx(known, rel=1e-5)
            if known == known
            else row["test_accuracy"] == ""
        )


def test_a_spreadsheet_does_not_calculate_what_is_saved(opened: Any) -> None:
    cells = opened.evaluate("""["=1+1", "@x", -2.5, 'a "b", c', null, "-x"].map(csvCell)""")
    assert cells == ["'=1+1", "'@x", "-2.5", '"a ""b"", c"', "", "'-x"]


def test_charts_are_saved(opened: Any) -> None:
    picture = saved(opened, "#map-tools button:has-text('PNG')").path().read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    for selector, more in (("#map-tools", "learning rate:"), ("#gap .tools", "learning rate 0.01")):
        text = saved(opened, f"{selector} button:has-text('SVG')").path().read_text()
        shapes = opened.evaluate(
            """(text) => { const file = new DOMParser().parseFromString(text, "image/svg+xml");
            return [file.querySelectorAll("parsererror").length, file.querySelectorAll("path").length,
              [...file.querySelectorAll("text")].map((one) => one.textContent)]; }""",
            text,
        )
        assert shapes[0] == 0
        assert shapes[1] > 10
        assert more in shapes[2]
        assert "NaN" not in text
    assert opened.evaluate("map.rows.length") <= text_count(opened, "#map-tools")
    rows = list(csv.reader(io.StringIO(saved(opened, "#gap .tools button:has-text('CSV')").path().read_text())))
    drawn = opened.evaluate(
        "charts.get(document.querySelector('#gap .plot')).spec.lines.flatMap((line) => line.points).length"
    )
    assert len(rows) == drawn + 1


def test_parallel_coordinates_are_saved(opened: Any, sweep: Path) -> None:
    choose(opened, "batch_size", [64, 512])
    opened.click("#parallel summary")
    trials = opened.evaluate("visibleRows().length")
    picture = saved(opened, "#parallel button:has-text('PNG')").path().read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    file = saved(opened, "#parallel button:has-text('SVG')")
    assert file.suggested_filename == "made_up-parallel_coordinates.svg"
    root = ElementTree.fromstring(file.path().read_bytes())
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    legend = opened.evaluate("`${field(choices().colour).label}:`")
    assert {legend, "512", "test", "accuracy"} <= set(texts)  # "512": a tick, "test accuracy": an axis on two lines
    paths = list(root.iter("{http://www.w3.org/2000/svg}path"))
    assert len([path for path in paths if path.get("opacity") and path.get("fill") == "none"]) == trials
    rows = list(csv.DictReader(io.StringIO(saved(opened, "#parallel button:has-text('CSV')").path().read_text())))
    assert {row["trial_id"] for row in rows} == set(frame_of(sweep).query("batch_size in (64, 512)").index)
    assert {"learning_rate", "test_accuracy", "box_sharpness"} <= set(rows[0])
    opened.evaluate("byId('parallel').open = false")


def text_count(page: Any, selector: str) -> int:
    """How many markers the SVG of a chart has: paths that are moved to their place."""
    text = saved(page, f"{selector} button:has-text('SVG')").path().read_text()
    return len(re.findall(r"<path[^>]*transform=", text))


def test_the_zoom_of_the_gap_is_in_the_link(opened: Any, browser: Any) -> None:
    drag(opened, "#gap .u-over", (0.25, 0.5), (0.75, 0.5))
    zoom = opened.evaluate("state.gap")
    assert list(zoom) == ["x"]
    page = Watched(browser).page
    page.goto(opened.url)
    assert page.evaluate("state.gap") == zoom
    scale = "['min', 'max'].map((end) => charts.get(document.querySelector('#gap .plot')).plot.scales.x[end])"
    assert page.evaluate(scale) == pytest.approx(zoom["x"])
    page.evaluate("location.hash = ''")
    page.wait_for_function("Object.keys(state.gap).length === 0")
    assert page.evaluate(scale) != pytest.approx(zoom["x"])
    page.close()


def test_a_legend_without_a_hovered_point_has_no_dash(opened: Any) -> None:
    assert opened.locator("#gap .u-legend td").all_inner_texts() == ["", "", ""]
    opened.locator("#gap .u-over").hover()
    assert all(re.search(r"\d", text) for text in opened.locator("#gap .u-legend td").all_inner_texts())


def test_long_values_of_a_parallel_axis_are_cut_visibly(opened: Any) -> None:
    assert opened.evaluate("['0.003', '0123456789', '01234567890'].map(cut)") == ["0.003", "0123456789", "012345678…"]


def test_a_hovered_trial_shows_what_it_is_compared_with(opened: Any, sweep: Path) -> None:
    points = places(opened)
    opened.mouse.move(*points[alone(points)])
    trial = opened.locator("#tip code").inner_text()
    frame = frame_of(sweep)
    row = frame.loc[trial]
    alike = frame[
        (frame["seed"] == row["seed"]) & (frame["learning_rate"] == row["learning_rate"]) & frame["switch_epoch"].isna()
    ]
    alike = alike[alike["large_batch_gap"].notna() & alike["box_sharpness"].notna()]
    corners = opened.locator("#map .matched polyline").get_attribute("points").split()
    assert len(corners) == len(alike)
