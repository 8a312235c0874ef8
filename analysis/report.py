"""report.html of a sweep: the answer first, then the evidence, then what was run and what went wrong.

    python analysis/report.py results/NAME

One file that needs nothing else: figures are embedded as data URIs, there is no script and no request to
anywhere, so it can be mailed or put on a server as it is. Every text that comes from the sweep (names,
options, errors) is escaped by Jinja2. A figure that the sweep has no data for is replaced by the reason. All
figures are also written to results/NAME/figures/.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # else analysis/statistics.py shadows the standard library's

import base64
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from analysis import report_tables as tables
from analysis.answer import answer
from analysis.batch_size_curves import batch_size_curves
from analysis.command import run
from analysis.figures import save
from analysis.gap_vs_sharpness import gap_vs_sharpness
from analysis.learning_rate_heatmap import learning_rate_heatmap
from analysis.load import Sweep, axes, constants, load_sweep
from analysis.summary import counts_line, flag_counts
from analysis.switch_point import switch_point
from trainables.errors import UserError
from trainables.tables import write_atomically

FIGURES: tuple[tuple[Callable[[Sweep], Figure], str, str], ...] = (
    (
        gap_vs_sharpness,
        "The gap map",
        "Large-batch gap in percentage points against four measures of sharpness on log axes, a point per "
        "trial, with Spearman's rank correlation and its 95 % interval above each panel.",
    ),
    (
        batch_size_curves,
        "Accuracy, gap and sharpness against batch size",
        "Test accuracy, large-batch gap, box sharpness and largest Hessian eigenvalue against batch size, "
        "a line per learning rate, with 95 % intervals over replicates; trials without a switch.",
    ),
    (
        switch_point,
        "The switch-point",
        "Final test accuracy, large-batch gap, box sharpness and largest Hessian eigenvalue against the "
        "epoch at which training goes on at the large batch, a line per pair of batch sizes, with 95 % "
        "intervals over replicates.",
    ),
    (
        learning_rate_heatmap,
        "Learning rate and batch size",
        "Heat maps of test accuracy, box sharpness and largest Hessian eigenvalue over learning rate and "
        "batch size, means over replicates; trials without a switch.",
    ),
)
MANY_TRIALS = 30  # beyond which the table of all trials starts folded


def write_report(sweep: Sweep) -> Path:
    """Writes all figures that the sweep has data for, and report.html whole or not at all; returns its path.

    Raises UserError where the folder cannot be written.
    """
    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    page = template.render(
        name=sweep.name,
        counts=counts_line(sweep),
        answer=answer(sweep),
        figures=[_figure(sweep, *entry) for entry in FIGURES],
        batch_sizes=tables.batch_size_rows(sweep),
        correlations=tables.correlation_rows(sweep),
        kendall=tables.kendall_table(sweep),
        axes={name: ", ".join(tables.shown(value) for value in values) for name, values in axes(sweep.trials).items()},
        constants={name: tables.shown(value) for name, value in constants(sweep.trials).items()},
        run=tables.run_facts(sweep),
        flags=flag_counts(sweep),
        flagged=tables.flagged_rows(sweep),
        unfinished=tables.unfinished_trials(sweep),
        trials=tables.trial_table(sweep),
        many=len(sweep.trials) > MANY_TRIALS,
    )
    path = sweep.folder / "report.html"
    try:
        write_atomically(path, page.encode())
    except OSError as error:
        raise UserError(
            f"`results` must be a folder that can be written, got {sweep.folder} ({error.strerror})"
        ) from error
    return path


def _figure(sweep: Sweep, draw: Callable[[Sweep], Figure], title: str, text: str) -> dict[str, Any]:
    """A figure as data URI, or why there is none."""
    try:
        image = save(draw(sweep), sweep.folder, draw.__name__)[0].read_bytes()
    except UserError as error:
        return {"title": title, "text": text, "uri": None, "reason": str(error)}
    return {"title": title, "text": text, "uri": "data:image/png;base64," + base64.b64encode(image).decode()}


def main(arguments: list[str]) -> int:
    return run(lambda folder: [write_report(load_sweep(folder))], arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
