"""A real browser for the tests of the page: headless Chromium under Playwright, which sees errors and every request."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from analysis.data.load import load_sweep

HOSTILE = (
    "<img src=x onerror=\"document.title='taken'\"></script><script>document.title='taken'</script>\u2028{{7*7}}&amp;"
)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test where Playwright or a Chromium is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for name in names if (path := shutil.which(name))), None)
    with playwright.sync_playwright() as run:
        try:
            browser = run.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium that starts: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


class Watched:
    """A page that remembers what went wrong on it and whom it asked."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self._note(message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.set_default_timeout(180_000)  # on a machine that is busy

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)


def frame_of(sweep: Any) -> Any:
    return load_sweep(sweep).trials.set_index("trial_id")


def places(page: Any) -> Any:
    """Where the points of the map are on the screen, by trial_id."""
    return page.evaluate(
        "() => { const box = map.plot.over.getBoundingClientRect();"
        " return Object.fromEntries(map.rows.map((row, i) =>"
        " [data.trials.trial_id[row], [box.left + map.left[i], box.top + map.top[i]]])); }"
    )


def alone(points: Any) -> Any:
    """A trial whose point no other is near."""
    far = {
        key: min(abs(x - u) + abs(y - v) for other, (u, v) in points.items() if other != key)
        for key, (x, y) in points.items()
    }
    return max(far, key=lambda key: far[key])


def choose(page: Any, axis: str, keep: Any) -> None:
    """Leaves only the values `keep` of an axis."""
    page.click(f"summary[data-key='filter {axis}']")
    page.click(f"button[data-key='none {axis}']")
    for value in keep:
        page.check(f"input[data-key='value {axis} {value}']")
    page.keyboard.press("Escape")
