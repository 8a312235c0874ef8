"""What is said of a results folder with branches: the lines, the figure and the proposed schedule."""

from analysis.charts.branched_batch import branched_batch_figure
from analysis.charts.style import save
from analysis.data.load import Sweep
from analysis.questions.batch_schedule import arm_lines, arms, proposed, write_schedule
from analysis.questions.branched_batch import branched_batch, lines

NO_SCHEDULE = (
    "No batch schedule is proposed: no larger batch is shown to be non-inferior. More --seeds narrow the intervals, a "
    "larger --margin asks for less."
)


def report(sweep: Sweep, margin: float | None = None) -> list[str]:
    """The lines, after the figure and, where there is one, batch_schedule.json are written."""
    found = branched_batch(sweep, margin)
    schedule = proposed(found)
    run = () if schedule is None else arms(sweep, found, schedule)
    written = save(branched_batch_figure(found, run), sweep.folder, "branched_batch")
    last = [NO_SCHEDULE] if schedule is None else [write_schedule(sweep, found, schedule), *arm_lines(found, run)]
    return [*map(str, written), *lines(found), *last]
