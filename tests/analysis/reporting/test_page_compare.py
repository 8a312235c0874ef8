"""Curves of several trials in one chart, the way to failed trials, and the command that goes on with a sweep."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from browser import HOSTILE, Watched, frame_of


def boxes(page: Any) -> Any:
    return page.locator("#table input[data-key^='compare ']")


def test_ticked_trials_are_drawn_together_and_stay_in_the_link(opened: Any, browser: Any, sweep: Path) -> None:
    assert not opened.locator("#compared").is_visible()
    boxes(opened).nth(3).check()
    boxes(opened).nth(12).check()
    assert not opened.locator("#trial").is_visible()  # a tick opens no trial
    assert opened.locator("#compared .chart").count() == 4
    compared = opened.evaluate("state.compared")
    rows = frame_of(sweep).loc[compared]
    names = opened.locator("#compared button[data-key^='drop ']").all_inner_texts()
    for name, (_, row), letter in zip(names, rows.iterrows(), "AB", strict=False):
        assert name.strip().startswith(f"{letter}: ")
        for axis in ("batch_size", "learning_rate", "seed"):
            if rows[axis].nunique() > 1:
                assert f"{axis.replace('_', ' ')} {row[axis]:g}" in name
    with opened.expect_download() as waiting:
        opened.locator("[data-key='compared train_loss'] button", has_text="CSV").click()
    saved = list(csv.DictReader(io.StringIO(waiting.value.path().read_text())))
    assert [float(row["train loss [nats]"]) for row in saved[:3]] == pytest.approx([0.5, 0.25, 0.125])
    assert len({row["line"] for row in saved}) == 2

    watched = Watched(browser)
    watched.page.goto(opened.url)
    assert watched.page.evaluate("state.compared") == compared
    assert watched.page.locator("#compared").is_visible()
    watched.page.click("button[data-key='drop all']")
    assert not watched.page.locator("#compared").is_visible()
    assert watched.page.locator("#table input[data-key^='compare ']:checked").count() == 0
    assert watched.errors == []
    watched.page.close()


def test_print_says_which_trial_each_letter_is(opened: Any) -> None:
    boxes(opened).nth(3).check()
    boxes(opened).nth(12).check()
    names = opened.evaluate("state.compared.map((id) => comparedName(data.trials.trial_id.indexOf(id), "
                            "state.compared.map((id) => data.trials.trial_id.indexOf(id))))")  # fmt: skip
    opened.emulate_media(media="print")
    printed = opened.locator("#compared .row").inner_text()
    for letter, name in zip("AB", names, strict=True):
        assert f"{letter}: {name}" in printed
    assert "leave out" not in printed
    assert "✕" not in printed


def test_a_trial_is_compared_from_its_panel(opened: Any) -> None:
    opened.locator("button[data-key^='trial ']").first.click()
    opened.click("#trial button[data-key=compare]")
    opened.click("#trial button[data-key=next]")
    opened.click("#trial button[data-key=compare]")
    assert opened.evaluate("state.compared.length") == 2
    opened.click("#trial button[data-key=compare]")
    assert opened.evaluate("state.compared.length") == 1
    assert boxes(opened).nth(0).is_checked()


def test_what_failed_leads_to_its_trials_and_their_errors(opened: Any, sweep: Path) -> None:
    (key,) = frame_of(sweep).query("status == 'failed'").index
    opened.click("#state button[data-key='show failed']")
    rows = opened.locator("tr[data-trial]")
    assert [row.get_attribute("data-trial") for row in rows.all()] == [key]
    assert "RuntimeError" in rows.first.inner_text()


def test_a_sweep_that_stopped_shows_the_command_that_goes_on(opened: Any) -> None:
    opened.click("#state summary")
    text = opened.locator("#state code").inner_text()
    assert text.startswith("python sweeps/batch_grid.py ")
    assert text.endswith(" --resume")
    assert HOSTILE.split()[0] in text  # as text
    assert opened.title() != "taken"


def test_the_rows_shown_are_found_once_for_each_render(opened: Any) -> None:
    count = """() => { let found = 0; const find = findVisible; findVisible = () => { found += 1; return find(); };
      render(); findVisible = find; return found; }"""
    assert opened.evaluate(count) == 1
    before = opened.evaluate("visibleRows()")
    opened.locator("button[data-key='sort test_accuracy']").click()
    assert opened.evaluate("visibleRows()") == before  # sorting leaves them in their order


def test_dragging_along_a_parallel_axis_filters(opened: Any, sweep: Path) -> None:
    """From a quarter to three quarters of the axis of the test accuracy; a click gives all back."""
    opened.click("#parallel summary")
    opened.locator("#parallel canvas").scroll_into_view_if_needed()
    box = opened.locator("#parallel canvas").bounding_box()
    axes = opened.evaluate("parallelAxes().map((axis) => axis.field.name)")
    left = opened.evaluate("PARALLEL.side") / 2
    reach = opened.evaluate("PARALLEL.height - PARALLEL.top - PARALLEL.bottom")
    x = box["x"] + left + axes.index("test_accuracy") * (box["width"] - 2 * left) / (len(axes) - 1)
    top = box["y"] + opened.evaluate("PARALLEL.top")
    opened.mouse.move(x, top + 0.25 * reach)
    opened.mouse.down()
    opened.mouse.move(x, top + 0.75 * reach, steps=3)
    opened.mouse.up()
    values = 100 * frame_of(sweep)["test_accuracy"]
    middle, spread = (values.max() + values.min()) / 2, values.max() - values.min()
    low, high = opened.evaluate("state.ranges.test_accuracy")
    margin = 0.06 * spread  # of the axis beyond the values
    assert (low, high) == pytest.approx(
        (middle - (0.25 * spread + margin / 2), middle + (0.25 * spread + margin / 2)), abs=0.02 * spread
    )
    kept = {opened.evaluate(f"data.trials.trial_id[{row}]") for row in opened.evaluate("visibleRows()")}
    assert kept == set(values.index[values.between(low, high)])
    opened.mouse.click(x, top + 0.5 * reach)
    assert opened.evaluate("Object.keys(state.ranges).length") == 0
    opened.evaluate("byId('parallel').open = false")
