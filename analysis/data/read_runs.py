"""Runs of training, whatever holds them: a results folder, a CSV file, or what analysis/data/foreign_runs.py reads."""

from collections.abc import Sequence
from pathlib import Path

from analysis.data import foreign_runs
from analysis.data.load import load_sweep
from analysis.data.metric import Direction
from analysis.data.runs import Runs, is_results, read_csv, read_results
from trainables.runtime.errors import UserError


def read_runs(
    source: Path,
    metric: str | None,
    direction: Direction | None,
    *,
    columns: dict[str, str],
    wandb_runs: Path | None = None,
    batch_pattern: str | None = None,
    settings: Sequence[str] | None = None,
) -> Runs:
    """The runs in `source` with their `metric`, of results folders by default `test_loss`.

    Args:
        direction: which values are better; by default the metric's name says it.
        columns: our names of columns that `source` names otherwise.
        wandb_runs: the export of the runs table that belongs to an exported chart of Weights & Biases.
        batch_pattern: a regular expression for the path of a TensorBoard run: one group is the batch size, or groups
            with names are `batch_size`, `seed` and settings.
        settings: the columns that are settings; None: by the rules of analysis/data/settings.py.

    Raises UserError where `source` is none of these, or lacks what is needed.
    """
    check_options(source, columns=columns, wandb_runs=wandb_runs, batch_pattern=batch_pattern, settings=settings)
    is_file, has_studies, has_events = _kind(source)
    if is_results(source):
        return read_results(load_sweep(source), metric or "test_loss", direction)
    if not source.exists():
        raise UserError(
            f"`source` must be a results folder, a CSV file or a folder of runs, got {source}, which is not there"
        )
    if not (is_file or has_studies or has_events):
        raise UserError(
            f"`source` must hold trials that ended, TensorBoard runs or BATCH/study.json folders, or be a CSV file, "
            f"got {source}, which holds none"
        )
    if metric is None:
        raise UserError("`metric` must be given for runs from elsewhere: --metric val_loss")
    if wandb_runs is not None:
        return foreign_runs.read_wandb(source, wandb_runs, metric, direction, columns, settings)
    if is_file:
        return read_csv(source, metric, direction, columns, settings)
    if has_studies:
        return foreign_runs.read_studies(source, metric, direction, settings)
    return foreign_runs.read_events(source, metric, direction, batch_pattern, columns, settings)


def check_options(
    source: Path,
    *,
    columns: dict[str, str],
    wandb_runs: Path | None,
    batch_pattern: str | None,
    settings: Sequence[str] | None,
) -> None:
    """Raises UserError for options of `read_runs` that `source` would ignore."""
    is_file, _, has_events = _kind(source)
    _refuse("column", columns, is_file or has_events, "a CSV file or TensorBoard runs", source)
    _refuse("settings", settings is not None, not is_results(source), "runs from elsewhere", source)
    _refuse("runs", wandb_runs, is_file, "a chart that Weights & Biases exported", source)
    _refuse("batch-pattern", batch_pattern, has_events, "TensorBoard runs", source)


def _kind(source: Path) -> tuple[bool, bool, bool]:
    """Whether `source`, where it is from elsewhere, is a file, has studies, or TensorBoard runs."""
    if is_results(source):
        return False, False, False
    has_studies = foreign_runs.has_studies(source)
    return source.is_file(), has_studies, not has_studies and foreign_runs.has_events(source)


def _refuse(option: str, value: object, has_effect: bool, reads: str, source: Path) -> None:
    """Raises UserError for an option that would be ignored."""
    if value and not has_effect and source.exists():
        raise UserError(f"`--{option}` is for {reads}, got {source}")
