"""The page in a real browser: the numbers it shows are the trial's, choices do what they say, hostile text is text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import HOSTILE, Watched, alone, choose, frame_of, places

from analysis.data.load import load_sweep
from analysis.data.progress import progress_of
from analysis.reporting.page import embeddable_json, page_html
from analysis.reporting.page.data import trial_data
from analysis.reporting.page.lines import MOST_POINTS_OF_A_TRIAL


def test_hover_and_click_show_the_numbers_of_the_right_trial(opened: Any, sweep: Path) -> None:
    points, frame = places(opened), frame_of(sweep)
    trial = alone(points)
    row = frame.loc[trial]
    opened.mouse.move(*points[trial])
    tip = opened.locator("#tip")
    for expected in (
        trial,
        f"batch size {row['batch_size']}",
        f"learning rate {row['learning_rate']:g}",
        f"test accuracy [%]: {100 * row['test_accuracy']:.2f}",
        f"[percentage points]: {100 * row['large_batch_gap']:.2f}".replace(": -", ": −"),
        f"{row['box_sharpness']:.4g}",
    ):
        assert expected in tip.inner_text()
    opened.mouse.click(*points[trial])
    panel = opened.locator("#trial")
    assert trial in panel.inner_text()
    assert panel.locator("dd[data-field=test_accuracy]").inner_text() == f"{100 * row['test_accuracy']:.2f}"
    assert panel.locator("[data-chart=loss] canvas").count() == 1
    assert "Curves: 30 epochs." in panel.inner_text()
    assert opened.evaluate("location.hash") == f"#trial={trial}"
    assert opened.locator("tr.open").get_attribute("data-trial") == trial


def test_by_keyboard_alone(opened: Any, sweep: Path) -> None:
    opened.focus("#map")
    frame = frame_of(sweep)
    shown = frame[frame["large_batch_gap"].notna() & frame["box_sharpness"].notna()].sort_values("box_sharpness")
    opened.keyboard.press("End")
    assert shown.index[-1] in opened.locator("#tip").inner_text()
    opened.keyboard.press("ArrowLeft")
    assert shown.index[-2] in opened.locator("#tip").inner_text()
    opened.keyboard.press("Enter")
    assert shown.index[-2] in opened.locator("#trial").inner_text()
    opened.keyboard.press("Escape")
    assert not opened.locator("#tip").is_visible()
    opened.focus("button[data-key='sort test_accuracy']")
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.dataset.key") == "sort test_accuracy"
    opened.focus("summary[data-key='filter seed']")
    opened.keyboard.press("Enter")
    opened.keyboard.press("Tab")
    opened.keyboard.press("Tab")
    opened.keyboard.press("Tab")
    opened.keyboard.press("Space")
    assert opened.locator("summary[data-key='filter seed']").inner_text() == "seed: 1, 2"
    opened.keyboard.press("Escape")
    assert opened.evaluate("document.activeElement.dataset.key") == "filter seed"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert opened.evaluate(outline) == "solid"  # the focus can be seen


def test_filters_change_the_points_and_the_table(opened: Any, sweep: Path) -> None:
    frame = frame_of(sweep)
    choose(opened, "batch_size", [512])
    wanted = set(frame.index[(frame["batch_size"] == 512) & frame["large_batch_gap"].notna()])
    assert set(places(opened)) == wanted
    assert f"{len(wanted)} trials shown" in opened.locator("#map-note").inner_text()
    assert {row.get_attribute("data-trial") for row in opened.locator("tr[data-trial]").all()} == wanted
    opened.click("button[data-key=clear]")
    assert opened.locator("tr[data-trial]").count() == len(frame)
    choose(opened, "status", ["failed"])
    assert opened.locator("tr[data-trial]").count() == 1
    assert places(opened) == {}


def test_axes_of_the_map_can_be_chosen(opened: Any, sweep: Path) -> None:
    opened.select_option("select[data-key='choose x']", "hessian_max_eig")
    opened.select_option("select[data-key='choose y']", "generalization_gap")
    opened.uncheck("input[data-key='log x']")
    frame = frame_of(sweep)
    frame = frame[frame["hessian_max_eig"].notna() & frame["generalization_gap"].notna()]
    points = places(opened)
    assert set(points) == set(frame.index)
    low, middle, high = frame["hessian_max_eig"].sort_values().index[[0, len(frame) // 2, -1]]
    share = (points[middle][0] - points[low][0]) / (points[high][0] - points[low][0])
    x = frame["hessian_max_eig"]
    assert share == pytest.approx((x[middle] - x[low]) / (x[high] - x[low]), abs=0.01)  # a linear axis
    assert (
        opened.locator("#map-title").inner_text()
        == "generalization gap [percentage points] against largest Hessian eigenvalue"
    )


def test_the_table_sorts_by_any_column_with_missing_values_last(opened: Any, sweep: Path) -> None:
    accuracy = frame_of(sweep)["test_accuracy"]
    for ascending in (True, False):
        opened.click("button[data-key='sort test_accuracy']")
        order = [row.get_attribute("data-trial") for row in opened.locator("tr[data-trial]").all()]
        shown = [accuracy[key] for key in order if accuracy[key] == accuracy[key]]
        assert shown == sorted(shown, reverse=not ascending)
        assert accuracy[order[-1]] != accuracy[order[-1]]  # the failed one
    head = opened.locator("th[aria-sort]")
    assert (head.count(), head.get_attribute("aria-sort")) == (1, "descending")


def test_a_number_leads_to_its_trials(opened: Any, sweep: Path) -> None:
    frame = frame_of(sweep)
    row = opened.locator("tr", has=opened.locator("th", has_text=re.compile("^64$"))).first
    row.locator("button.trace").click()
    wanted = frame[(frame["batch_size"] == 64) & frame["switch_epoch"].isna() & (frame["status"] == "completed")]
    assert {row.get_attribute("data-trial") for row in opened.locator("tr[data-trial]").all()} == set(wanted.index)
    assert "Means by batch size: 64" in opened.locator("#selection").inner_text()


def test_hostile_text_stays_text(opened: Any, sweep: Path) -> None:
    assert opened.title() == "made up: batch size, gap and sharpness"
    text = opened.locator("body").inner_text()
    assert "<img src=x onerror=" in text
    assert opened.locator("img").count() == 0
    failure = frame_of(sweep).query("status == 'failed'").index[0]
    opened.evaluate(f"location.hash = '#trial={failure}'")
    assert HOSTILE.replace("\u2028", "") in opened.locator("#trial pre").inner_text().replace("\u2028", "")
    assert opened.locator("script").count() == 2  # the data and ours
    assert opened.title() == "made up: batch size, gap and sharpness"


def drawn(page: Any, chart: str) -> Any:
    """The columns that uPlot drew in a chart of the open trial."""
    return page.evaluate(f"charts.get(document.querySelector('[data-chart=\"{chart}\"] .plot')).plot.data")


def test_curves_are_thinned_and_lines_around_the_minimum_drawn(opened: Any, sweep: Path) -> None:
    frame = frame_of(sweep)
    diverged = frame.index[frame["status"] == "diverged"][0]
    opened.evaluate(f"openTrial('{diverged}')")
    assert f"Curves: {MOST_POINTS_OF_A_TRIAL} of 250 epochs" in opened.locator("#trial").inner_text()
    measured = load_sweep(sweep).measures.query("measure == 'spectral_density'")["trial_id"].iloc[0]
    opened.evaluate(f"openTrial('{measured}')")
    assert "spectral_density" in opened.locator("#trial [data-chart='profile 0']").inner_text()
    assert drawn(opened, "profile 0") == [
        [1, 2, 3, 4, 5, 6, 7, 8],
        pytest.approx([1 / node for node in range(1, 9)], rel=1e-5),
    ]
    assert drawn(opened, "profile 1") == [[0, 0.5, 1], [1, 1.25, 2]]
    assert f"linear, recalibrated: alpha 0 is {measured}" in opened.locator("#trial").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_window_and_can_be_read(browser: Any, sweep: Path, scheme: str) -> None:
    watched = Watched(browser, viewport={"width": 380, "height": 800}, color_scheme=scheme)
    watched.page.goto((sweep / "report.html").as_uri())
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 380
    assert watched.page.locator("#map").bounding_box()["width"] <= 380
    contrasts = watched.page.evaluate(CONTRASTS)
    assert min(contrasts.values()) >= 4.5, contrasts
    assert watched.errors == []
    watched.page.close()


# WCAG 2.2, contrast ratio (L1 + 0.05) / (L2 + 0.05) of each colour of text on each ground it stands on
CONTRASTS = """() => {
  const luminance = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const found = {};
  for (const text of ["--text", "--faint", "--accent", "--warn"]) for (const ground of ["--back", "--raised"])
    found[text + ground] = ratio(luminance(css(text)), luminance(css(ground)));
  return found;
}"""


def test_of_five_thousand_trials_fifty_are_rows_of_the_page(browser: Any, sweep: Path, tmp_path: Path) -> None:
    """So that none of what a reader does depends on the number of trials."""
    loaded = load_sweep(sweep)
    data = trial_data(loaded, progress_of(loaded.trials, sweep))
    times = -(-5000 // len(data["trials"]["trial_id"]))
    for columns in (data["trials"], data["marks"]):
        columns.update({name: values * times for name, values in columns.items()})
    data["curves"]["trials"] *= times
    data["trials"]["trial_id"] = [f"{row:016x}" for row in range(len(data["trials"]["trial_id"]))]
    path = tmp_path / "large.html"
    path.write_text(page_html("large", data))
    watched = Watched(browser)
    page = watched.page
    page.goto(path.as_uri())
    for action in (
        "state.hidden.batch_size = new Set([16]); changeFilter()",
        "sortBy('test_accuracy')",
        "point(nearest(map.left[700], map.top[700], 16))",
        "openTrial(data.trials.trial_id[123])",
    ):
        page.evaluate(f"() => {{ {action} }}")
        assert page.locator("tr[data-trial]").count() == 50
    assert watched.errors == []
    page.close()


def test_json_cannot_end_its_script() -> None:
    text = embeddable_json({"</script>": HOSTILE, "number": 1.5, "nothing": None})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"</script>": HOSTILE, "number": 1.5, "nothing": None}
    with pytest.raises(ValueError, match="JSON"):
        embeddable_json(float("nan"))
