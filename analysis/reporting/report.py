"""report.html of a sweep: the answer first, then the map, the evidence, what was run and what went wrong.

One file that needs nothing else: data, scripts and styles stand in it, and it speaks to nobody (analysis/reporting/page
says how), so it can be mailed or put on a server as it is: the page of `python analysis/serve.py`, with its data
inside. The figures for papers are written beside it, to results/NAME/figures/, those that the sweep has data for.
"""

import contextlib
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from analysis.charts.batch_size_curves import batch_size_curves
from analysis.charts.critical_batch import critical_batch_figure
from analysis.charts.free_batch import free_batch_figure
from analysis.charts.gap_vs_sharpness import gap_vs_sharpness
from analysis.charts.leaderboard import leaderboard_figure
from analysis.charts.learning_rate_heatmap import learning_rate_heatmap
from analysis.charts.remedies import remedies_figure
from analysis.charts.style import save
from analysis.charts.switch_point import switch_point
from analysis.charts.threshold_batch import threshold_figure
from analysis.charts.warmup_heatmap import warmup_heatmap
from analysis.data.load import Sweep
from analysis.data.progress import progress_of
from analysis.questions.rescaling import begin_rescaling
from analysis.reporting.page import page_html
from analysis.reporting.page.data import page_data
from analysis.reporting.page.several import several_data
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath, write_atomically

REPORT = "report.html"
LONGEST_NAME = 200  # of a file, without its suffix
FIGURES: dict[str, Callable[[Sweep], Figure]] = {
    "gap_vs_sharpness": gap_vs_sharpness,
    "batch_size_curves": batch_size_curves,
    "switch_point": switch_point,
    "learning_rate_heatmap": learning_rate_heatmap,
    "warmup_heatmap": warmup_heatmap,
    "free_batch": free_batch_figure,
    "threshold_batch": threshold_figure,
    "critical_batch": critical_batch_figure,
    "remedies": remedies_figure,
    "leaderboard": leaderboard_figure,
}


def write_report(sweep: Sweep) -> AnyPath:
    """Writes all figures that the sweep has data for, and report.html whole or not at all; returns its path.

    Raises UserError where the folder cannot be written.
    """
    begin_rescaling(sweep)  # seconds in another process, beside the figures
    path = sweep.folder / REPORT
    try:
        for name, draw in FIGURES.items():
            with contextlib.suppress(UserError):  # the sweep has no data for it
                save(draw(sweep), sweep.folder, name)
        page = page_html(sweep.name, page_data(sweep, progress_of(sweep.trials, sweep.folder)))
        write_atomically(path, page.encode())
    except OSError as error:
        raise UserError(
            f"`results` must be a folder that can be written, got {sweep.folder} ({error.strerror})"
        ) from error
    return path


def write_report_of_several(sweeps: Sequence[Sweep]) -> AnyPath:
    """Writes one page of `sweeps` beside the folder of the first, named by theirs; returns its path.

    Raises UserError where the same folder is given twice, where primary metrics differ, and where the page cannot be
    written.
    """
    folders = [sweep.folder.resolve() for sweep in sweeps]
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{folder.parent.name}-{folder.name}" for folder in folders]
    if len(set(names)) < len(names):
        raise UserError(f"`results` must be different folders for one page, got {', '.join(map(str, folders))}")
    data = several_data(dict(zip(names, sweeps, strict=True)))
    path = sweeps[0].folder.parent / f"{'+'.join(names)[:LONGEST_NAME]}.html"
    try:
        write_atomically(path, page_html(data["name"], data).encode())
    except OSError as error:
        raise UserError(f"`results` must be in a folder that can be written, got {path} ({error.strerror})") from error
    return path
