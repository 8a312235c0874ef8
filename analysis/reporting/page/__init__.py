"""The page of a sweep, one HTML file that asks nobody for anything: report.html holds its data, the live page polls.

Nothing is rendered here but the frame: the scripts (dom.js to page.js, in the order of SCRIPTS) build everything from
one data object (`analysis.reporting.page.data`), and put every text of the sweep in as text, never as HTML. By its
Content-Security-Policy the page forbids itself to load or run anything but the styles and the script that stand in it,
and, the report, to speak to anybody at all.

Charts are drawn by uPlot 1.6.32 (MIT, uplot/LICENSE), as npm has it: 51 kB, no dependency, no eval. A library ten to a
hundred times its size would make a report.html of megabytes.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent
STYLES = ("uplot/uPlot.min.css", "page.css")
SCRIPTS = (
    "uplot/uPlot.iife.min.js", "dom.js", "data.js", "charts.js", "svg.js", "export.js", "map.js", "controls.js",
    "parallel.js", "trial.js", "curves.js", "compare.js", "running.js", "tables.js", "headline.js", "address.js",
    "page.js",
)  # fmt: skip
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def page_html(name: str, data: dict[str, Any] | None = None) -> str:
    """The page of the sweep `name`: with `data` the report; without it the live page, which polls
    `data.json` and `running.json`."""
    style = "\n".join((_HERE / file).read_text(encoding="utf-8") for file in STYLES)
    script = "\n".join((_HERE / file).read_text(encoding="utf-8") for file in SCRIPTS)
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        name=name,
        policy=policy(style, script, live=data is None),
        style=Markup(style),
        script=Markup(script),
        data=None if data is None else Markup(embeddable_json(data)),
        headline=[]
        if data is None
        else [data["run"], *(f"{card['question']} {card['verdict']}" for card in data["cards"])],
    )


def embeddable_json(data: Any) -> str:
    """JSON that cannot end the script element it stands in: `<`, `>`, `&` and all but ASCII as \\u escapes.

    In ASCII a character takes one byte of memory; a single dash would make it two for all the megabytes.
    """
    return json.dumps(data, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def policy(style: str, script: str, *, live: bool) -> str:
    """The Content-Security-Policy: this style, this script, and where live the page's own server; nothing else."""
    server = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        f"connect-src {server}; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
