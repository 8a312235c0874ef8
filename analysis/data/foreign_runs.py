"""Runs as other tools keep them: W&B exports, TensorBoard folders, and the layout of Shallue et al. 2019.

- W&B: the chart's export (`Step`, and a column `NAME - METRIC` for each run) with the runs table's export (`Name`, and
  the columns of the configuration, `batch_size` among them).
- TensorBoard: a folder of runs, each a folder with event files. The batch size and the settings are the run's
  hyperparameters (`SummaryWriter.add_hparams`), in the run's folder, one below or one above, or `batch_pattern` finds
  them in the run's path: `bs(?P<batch_size>[0-9]+)_lr(?P<learning_rate>[^_]+)_s(?P<seed>[0-9]+)`. Only runs whose seed
  is known are replicates.
- The published data of "Measuring the Effects of Data Parallelism" (arXiv 1811.03600; google-research, batch_science):
  BATCH/study.json, BATCH/TRIAL/metadata.json and BATCH/TRIAL/measurements.csv. Trials that did not end are left out; an
  INFEASIBLE one diverged, and counts with what it reached before.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.data.batch_sizes import of_known_size, with_batch_size
from analysis.data.column_names import WANDB, last_part
from analysis.data.metric import Direction
from analysis.data.runs import Runs, read_frame, read_table, renamed, require_one_row_each
from analysis.data.settings import choose_settings
from trainables.runtime.errors import UserError, one_line, quoted
from trainables.storage.folders import NotAFileError, check_is_file, is_there, read_file

EVENTS = "events.out.tfevents.*"
STEPS = ("step", "global_step")
CALLS = (
    "Step of W&B counts the calls of wandb.log; if these are not one for each optimizer update, export the chart with "
    "the updates as its x axis, such as trainer/global_step"
)
GROUPS = (
    "`batch-pattern` must have one group that is the batch size in the runs' paths, or groups with names such as "
    r"(?P<batch_size>\d+) and (?P<seed>\d+)"
)
HPARAMS = "_hparams_/session_start_info"  # the tag that TensorBoard's plugin writes


def read_wandb(
    chart: Path,
    runs: Path,
    metric: str,
    direction: Direction | None,
    columns: dict[str, str] | None = None,
    named: Sequence[str] | None = None,
) -> Runs:
    """A chart's export and the runs table's export; `named` are settings of the table.

    `columns` renames columns of the table; the one of `step` is of the chart.
    """
    columns = dict(columns or {})
    wide, table = read_table(chart), read_table(runs, texts=["Name"])
    if "Name" not in table:
        raise UserError(f"`runs` must be W&B's export of the runs table, with a column Name, got {runs.name}")
    step = columns.pop("step", None) or _steps_of(wide)
    table = renamed(runs, table, {"Name": "Name", **columns})
    ending = f" - {metric}"
    own = [name for name in wide if name.endswith(ending)]
    histories = {name.rpartition(" - ")[2] for name in wide if " - " in name}
    if step is None or step not in wide:
        raise UserError(
            f"`source` must be W&B's export of a chart over steps, got {wide.columns[0]} as the x axis in "
            f"{chart.name}; choose global_step as its x axis, or give --column step=NAME"
        )
    if not own:
        found = sorted(name for name in histories if "__" not in name)
        raise UserError(
            f"`source` must be W&B's export of a chart of {metric}, with Step and columns 'NAME{ending}', got "
            f"{', '.join(found) or 'none'} in {chart.name}"
        )
    long = wide.melt(step, own, "run", metric).dropna(subset=metric).rename(columns={step: "step"})
    long["run"] = long["run"].str.removesuffix(ending)
    require_one_row_each(chart, long)
    about = table.set_index("Name")
    names = {name.removesuffix(ending) for name in own}  # also of runs whose values are all NaN: they diverged
    missing = sorted(names - set(about.index))
    if missing:
        raise UserError(f"`runs` must hold every run of the chart, got none named {missing[0]!r} in {runs.name}")
    if twice := sorted(names & {*about.index[about.index.duplicated()]}):
        raise UserError(f"`runs` must have names that tell runs apart, got {twice[0]!r} twice")
    said = [CALLS] if step == "Step" else []
    if absent := len(about) - len(names):
        said.append(f"{absent} of {len(about)} runs of {runs.name} are not in {chart.name}, so they are left out")
    about, batch_notes = with_batch_size(about[about.index.isin(names)], runs)
    about, notes = choose_settings(runs, about, named, ignored={*WANDB, *histories, step})
    return read_frame(chart, long, metric, direction, about, notes=[*said, *batch_notes, *notes])


def _steps_of(chart: pd.DataFrame) -> str | None:
    """The column of a chart that counts steps."""
    return next((name for name in chart if " - " not in name and last_part(name) in STEPS), None)


def has_studies(source: Path) -> bool:
    """Whether `source` holds the layout of Shallue et al."""
    return is_there(source / "study.json") or bool(_below(source, "study.json"))


def read_studies(source: Path, metric: str, direction: Direction | None, named: Sequence[str] | None = None) -> Runs:
    """The studies of one workload, a folder for each batch size; its settings are all parameters, or those `named`."""
    is_one = is_there(source / "study.json")
    studies = [source] if is_one else [file.parent for file in _below(source, "study.json")]
    rows, about = [], []
    for study in studies:
        size = _json(study / "study.json").get("batch_size")
        for file in _below(study, "metadata.json"):
            found, run = _json(file), f"{study.name}/{file.parent.name}"
            if found.get("status") not in ("COMPLETE", "INFEASIBLE"):
                continue
            curve = file.parent / "measurements.csv"
            measured = _measured(curve, metric, diverged=found["status"] == "INFEASIBLE").assign(run=run)
            require_one_row_each(curve, measured.dropna(subset=metric))
            rows += [measured] if len(measured) else []
            about.append({"batch_size": size, **_parameters(found, file), "run": run})
    if not about:
        raise UserError(f"`source` must hold trials that are COMPLETE, got none in {source}")
    frame = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["run", "step", metric])
    table, notes = of_known_size(pd.DataFrame(about).set_index("run"), source)
    if named is not None:
        table, setting_notes = choose_settings(source, table, named)
        notes += setting_notes
    return read_frame(source, frame, metric, direction, table, notes=notes)


def _measured(file: Path, metric: str, *, diverged: bool) -> pd.DataFrame:
    """`step` and `metric` of a trial; no rows of one that diverged before it had a value."""
    curve = read_table(file, may_be_empty=diverged) if is_there(file) or not diverged else pd.DataFrame()
    if diverged and metric not in curve:
        return pd.DataFrame(columns=["step", metric])
    where = "/".join(file.parts[-3:])
    if "step" not in curve:
        raise UserError(f"`source` must have a column 'step' in {where}, got {', '.join(curve)}")
    if metric not in curve:
        some = ", ".join(name for name in curve if name != "step")
        raise UserError(f"`metric` must be a column of {where}, got {metric!r}; such as {some}")
    return curve[["step", metric]]


def _below(folder: Path, name: str) -> list[Path]:
    """The files of this name in the folders of `folder`, in order; also links to nowhere."""
    return sorted(file for file in folder.glob("*/*") if file.name == name)


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
    """A folder of TensorBoard runs; `metric` is the tag of a scalar.

    `columns` renames hyperparameters, and `named` are the settings among them.
    """
    folders = sorted({file.parent for file in source.rglob(EVENTS)})
    for folder in folders:
        _check_events(folder)
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise UserError("TensorBoard is not installed, and event files need it; pip install tensorboard") from error
    rows: list[dict[str, Any]] = []
    about: dict[str, dict[str, Any]] = {}
    tags: set[str] = set()
    for folder in folders:
        run = str(folder.relative_to(source))
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        about[run] = _hyperparameters(events)
        scalars = events.Tags()["scalars"]
        tags |= set(scalars)
        if metric in scalars:
            rows += [{"run": run, "step": event.step, metric: event.value} for event in events.Scalars(metric)]
    if not rows:
        some = ", ".join(sorted(tags)[:8]) or "none"
        raise UserError(f"`metric` must be a scalar of the event files, got {metric!r}; such as {some}")
    frame = pd.DataFrame(rows).drop_duplicates(["run", "step"], keep="last")
    frame = frame[~frame["run"].isin(_final_values(frame["run"], about))]
    names = {*frame["run"]}
    in_paths = {run: settings_in_path(run, batch_pattern) for run in sorted(names)}
    found = {run: (_set_for(run, about, names), own) for run, own in in_paths.items() if own is not None}
    if not found:
        raise UserError(f"{GROUPS}, got {batch_pattern!r} for {min(names)}")
    path_notes = []
    if others := len(names) - len(found):
        path_notes = [f"{others} of {len(names)} runs have no such path as --batch-pattern, so they are left out"]
    found |= _without_metric(about, found, batch_pattern)
    table = pd.DataFrame.from_dict({run: given for run, (given, _) in found.items()}, orient="index")
    table = renamed(source, table, columns or {})
    in_path = pd.DataFrame.from_dict({run: named for run, (_, named) in found.items()}, orient="index")
    table = table.drop(columns=[name for name in in_path if name in table]).join(in_path)
    table, batch_notes = with_batch_size(table, source)
    table, notes = choose_settings(source, table, named, kept=[*in_path])
    table, seed_notes = _alone_without_seed(table)
    return read_frame(source, frame, metric, direction, table, notes=[*path_notes, *batch_notes, *notes, *seed_notes])


def _check_events(folder: Path) -> None:
    """Raises UserError for what TensorBoard would take for an event file of `folder` and is no file."""
    for file in sorted(folder.glob("*tfevents*")):
        try:
            check_is_file(file)
        except NotAFileError as error:
            raise UserError(f"`source` must hold event files, got {file} ({error})") from error


def _final_values(rows: pd.Series, about: dict[str, dict[str, Any]]) -> set[str]:
    """The folders of `add_hparams` inside a run's folder, which hold the final value of the metric a second time."""
    counts = rows.value_counts()
    return {run for run in counts.index if about[run] and counts[run] == 1 and str(Path(run).parent) in counts}


def _hyperparameters(events: Any) -> dict[str, Any]:
    """What `add_hparams` wrote: numbers, texts and flags by name."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    try:
        content = events.SummaryMetadata(HPARAMS).plugin_data.content
    except KeyError:
        return {}
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def _set_for(run: str, about: dict[str, dict[str, Any]], runs: set[str]) -> dict[str, Any]:
    """The hyperparameters of a run: its own, or those in a folder below it, where `add_hparams` puts them, or above it.

    A folder above that has the metric is a run of its own.
    """
    below = [values for name, values in about.items() if values and name.startswith(f"{run}/")]
    above = [about.get(str(folder)) for folder in Path(run).parents if str(folder) != "." and str(folder) not in runs]
    return dict(about[run] or next((values for values in (*below, *above) if values), {}))


def _without_metric(
    about: dict[str, dict[str, Any]], found: Mapping[str, tuple[dict[str, Any], dict[str, Any]]], pattern: str | None
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The runs that never logged the metric, such as those that diverged before, with settings as in `found`.

    `found` has the runs with the metric. A folder above or below a run is no run of its own, nor is one beside it with
    the same settings (`train` beside `validation`), nor one without settings.
    """
    lost: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for run in sorted({*about} - {*found, "."}):
        own = settings_in_path(run, pattern)
        if own is None:
            continue
        settings = _set_for(run, about, {*found}), own
        parent, *_ = folders = [str(folder) for folder in Path(run).parents]
        inside_or_around = any(other in folders or other.startswith(f"{run}/") for other in (*found, *lost))
        beside = [own for other, own in found.items() if str(Path(other).parent) == parent != "."]
        if any(settings) and not inside_or_around and settings not in beside:
            lost[run] = settings
    return lost


def settings_in_path(run: str, pattern: str | None) -> dict[str, Any] | None:
    """What the groups of `pattern` find in a run's path: by name, and the first without a name is the batch size.

    Nothing without a pattern; None where it is not in the path, or finds a batch size that is no whole number. Raises
    UserError for a pattern that is none or has no group.
    """
    if pattern is None:
        return {}
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"`batch-pattern` must be a regular expression, got {pattern!r} ({one_line(error)})") from error
    named = expression.groupindex
    number = next((one for one in range(1, expression.groups + 1) if one not in named.values()), None)
    if not expression.groups:
        raise UserError(f"{GROUPS}, got {pattern!r}")
    found = expression.search(run)
    if found is None:
        return None
    values = {name: _value(found[name]) for name in named}
    if "batch_size" not in named and number is not None:
        values["batch_size"] = _value(found[number])
    return values if isinstance(values.get("batch_size", 1), int) else None


def _value(text: str | None) -> int | float | str | None:
    """A number where `text` is one."""
    for kind in (int, float) if "_" not in (text or "") else ():
        try:
            return kind(text or "")
        except ValueError:
            continue
    return text


def _alone_without_seed(about: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Makes each run a setting of its own where only a seed could tell runs apart, and none is known."""
    if "seed" in about:
        return about, ()
    several = about.astype(str).duplicated(keep=False)
    if not several.any():
        return about, ()
    note = (
        "runs without a known seed are not replicates, so each is a setting of its own, without intervals; a "
        "hyperparameter `seed`, or a group (?P<seed>...) in --batch-pattern, names replicates"
    )
    return about.assign(**{"run folder": about.index.to_series().where(several)}), (note,)


def _parameters(trial: dict[str, Any], file: Path) -> dict[str, Any]:
    """The parameters of a trial by name, nested ones as text."""
    found = trial.get("parameters", {})
    if not isinstance(found, dict):
        raise UserError(f"`source` must hold parameters by name in {file}, got {quoted(found)}")
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in found.items()}


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_file(file))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"`source` must hold JSON in {file}, got {one_line(error)}") from error
    return found if isinstance(found, dict) else {}
