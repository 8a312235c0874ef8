"""Runs as other tools keep them: W&B exports, TensorBoard folders, and the layout of Shallue et al. 2019.

- W&B: the chart's export (`Step`, and a column `NAME - METRIC` for each run) with the runs table's export (`Name`, and
  the columns of the configuration, `batch_size` among them).
- TensorBoard: a folder of runs, each a folder with event files. The batch size and what else was set are the run's
  hyperparameters (`SummaryWriter.add_hparams`), or `batch_pattern` finds the batch size in the run's path.
- The published data of "Measuring the Effects of Data Parallelism" (arXiv 1811.03600; google-research, batch_science):
  BATCH/study.json, BATCH/TRIAL/metadata.json and BATCH/TRIAL/measurements.csv. Trials that did not end are left out; an
  INFEASIBLE one diverged, and counts with what it reached before.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.data.batch_sizes import with_batch_size
from analysis.data.column_names import WANDB
from analysis.data.metric import Direction
from analysis.data.runs import Runs, read_frame, read_table, renamed
from analysis.data.settings import choose_settings
from trainables.runtime.errors import UserError, one_line

EVENTS = "events.out.tfevents.*"
HPARAMS = "_hparams_/session_start_info"  # the tag that TensorBoard's plugin writes


def read_wandb(
    chart: Path,
    runs: Path,
    metric: str,
    direction: Direction | None,
    columns: dict[str, str] | None = None,
    named: Sequence[str] | None = None,
) -> Runs:
    """A chart's export and the runs table's export; `columns` renames those of the table, `named` are its settings."""
    wide, table = read_table(chart), read_table(runs)
    if "Name" not in table:
        raise UserError(f"`runs` must be W&B's export of the runs table, with a column Name, got {runs.name}")
    table = renamed(runs, table, {"Name": "Name", **(columns or {})})
    step = next((name for name in wide if name.lower() in ("step", "global_step", "trainer/global_step")), None)
    ending = f" - {metric}"
    own = [name for name in wide if name.endswith(ending)]
    histories = {name.rpartition(" - ")[2] for name in wide if " - " in name}
    if step is None or not own:
        found = sorted(name for name in histories if "__" not in name)
        raise UserError(
            f"`source` must be W&B's export of a chart of {metric}, with Step and columns 'NAME{ending}', got "
            f"{', '.join(found) or 'none'} in {chart.name}"
        )
    long = wide.melt(step, own, "run", metric).dropna(subset=metric).rename(columns={step: "step"})
    long["run"] = long["run"].str.removesuffix(ending)
    about = table.set_index("Name")
    missing = sorted(set(long["run"]) - set(about.index))
    if missing:
        raise UserError(f"`runs` must hold every run of the chart, got none named {missing[0]!r} in {runs.name}")
    if about.index.duplicated().any():
        raise UserError(
            f"`runs` must have names that tell runs apart, got {about.index[about.index.duplicated()][0]!r} twice"
        )
    about, batch_notes = with_batch_size(about[about.index.isin(long["run"])], runs)
    about, notes = choose_settings(runs, about, named, ignored={*WANDB, *histories, step})
    return read_frame(chart, long, metric, direction, about, notes=[*batch_notes, *notes])


def has_studies(source: Path) -> bool:
    """Whether `source` holds the layout of Shallue et al."""
    return any(source.glob("*/study.json")) or (source / "study.json").is_file()


def read_studies(source: Path, metric: str, direction: Direction | None, named: Sequence[str] | None = None) -> Runs:
    """The studies of one workload, a folder for each batch size; its settings are all parameters, or those `named`."""
    studies = (
        [source] if (source / "study.json").is_file() else sorted(one.parent for one in source.glob("*/study.json"))
    )
    rows, about = [], []
    for study in studies:
        size = _json(study / "study.json").get("batch_size")
        for file in sorted(study.glob("*/metadata.json")):
            found, run = _json(file), f"{study.name}/{file.parent.name}"
            if found.get("status") not in ("COMPLETE", "INFEASIBLE"):
                continue
            curve = read_table(file.parent / "measurements.csv")
            if metric not in curve or "step" not in curve:
                raise UserError(
                    f"`metric` must be a column of {run}/measurements.csv, got {metric!r}; such as "
                    f"{', '.join(name for name in curve if name != 'step')}"
                )
            rows.append(curve[["step", metric]].assign(run=run))
            about.append({"run": run, "batch_size": size, **found.get("parameters", {})})
    if not rows:
        raise UserError(f"`source` must hold trials that are COMPLETE, got none in {source}")
    table = pd.DataFrame(about).set_index("run")
    notes: tuple[str, ...] = ()
    if named is not None:
        table, notes = choose_settings(source, table, named)
    return read_frame(source, pd.concat(rows, ignore_index=True), metric, direction, table, notes=notes)


def has_events(source: Path) -> bool:
    """Whether TensorBoard would find runs in `source`."""
    return source.is_dir() and any(source.rglob(EVENTS))


def read_events(
    source: Path,
    metric: str,
    direction: Direction | None,
    batch_pattern: str | None = None,
    columns: dict[str, str] | None = None,
    named: Sequence[str] | None = None,
) -> Runs:
    """A folder of TensorBoard runs; `metric` is the tag of a scalar."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise UserError(
            "`tensorboard` must be installed to read event files, got none; pip install tensorboard"
        ) from error
    rows: list[dict[str, Any]] = []
    about: dict[str, dict[str, Any]] = {}
    tags: set[str] = set()
    for folder in sorted({file.parent for file in source.rglob(EVENTS)}):
        run = str(folder.relative_to(source))
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        about[run] = _hyperparameters(events)
        scalars = events.Tags()["scalars"]
        tags |= set(scalars)
        if metric in scalars:
            rows += [{"run": run, "step": event.step, metric: event.value} for event in events.Scalars(metric)]
    if not rows:
        raise UserError(
            f"`metric` must be a scalar of the event files, got {metric!r}; such as {', '.join(sorted(tags)[:8])}"
        )
    frame = pd.DataFrame(rows).drop_duplicates(["run", "step"], keep="last")
    settings = {run: _set_for(run, about) for run in frame["run"].unique()}
    if batch_pattern is not None:
        for run, values in settings.items():
            values["batch_size"] = _batch_in(run, batch_pattern)
    table = pd.DataFrame.from_dict(settings, orient="index")
    table, batch_notes = with_batch_size(renamed(source, table, columns or {}), source)
    table, notes = choose_settings(source, table, named)
    return read_frame(source, frame, metric, direction, table, notes=[*batch_notes, *notes])


def _hyperparameters(events: Any) -> dict[str, Any]:
    """What `add_hparams` wrote: numbers, texts and flags by name."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    try:
        content = events.SummaryMetadata(HPARAMS).plugin_data.content
    except KeyError:
        return {}
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def _set_for(run: str, about: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The hyperparameters of a run: its own, or those in a folder below it, where `add_hparams` puts them."""
    below = [values for name, values in about.items() if values and name.startswith(f"{run}/")]
    return dict(about[run] or (below[0] if below else {}))


def _batch_in(run: str, pattern: str) -> int:
    try:
        found = re.search(pattern, run)
        return int(found[1])  # type: ignore[index]
    except (re.error, TypeError, IndexError, ValueError) as error:
        raise UserError(
            f"`batch-pattern` must have one group that is the batch size in every run's path, got {pattern!r} for {run}"
        ) from error


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"`source` must hold JSON in {file}, got {one_line(error)}") from error
    return found if isinstance(found, dict) else {}
