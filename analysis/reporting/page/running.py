"""The data object of the trials that are still running, which the live page asks for as running.json.

    metric   as in data.py; null where no trial runs
    trials   per trial: trial_id, label, and its state in words (`epoch 34, 12 % done`)
    curves   as in data.py

It is small and has an address of its own, because it changes every few seconds: the rest of the page need not follow.
"""

import pandas as pd

from analysis.data.metric import Metric
from analysis.reporting.page.data import metric_data
from analysis.reporting.page.lines import Data, curves
from trainables.records.record_files import record_files
from trainables.records.running import read_running
from trainables.records.schemas import Row
from trainables.storage.folders import AnyPath
from trainables.storage.lease import is_held

NOTHING: Data = {"metric": None, "trials": [], "curves": {"names": [], "trials": []}}


def running_data(folder: AnyPath) -> Data:
    """What the trials without a record have logged so far; nothing where no run holds the folder."""
    ended = {file.stem for file in record_files(folder)}
    found = [row for row in read_running(folder) if row["trial_id"] not in ended] if is_held(folder) else []
    if not found:
        return NOTHING
    metric = Metric.of_row(found[0])
    epochs = pd.DataFrame([{**epoch, "trial_id": row["trial_id"]} for row in found for epoch in row["epochs"]])
    known = curves(epochs.dropna(subset="epoch"), [row["trial_id"] for row in found], metric)
    for curve, row in zip(known["trials"], found, strict=True):
        if curve is not None:
            curve["epochs"] = row["count"]
    trials = [{"trial_id": row["trial_id"], "label": row["label"], "state": _state(row)} for row in found]
    return {"metric": metric_data(metric), "trials": trials, "curves": known}


def _state(row: Row) -> str:
    if row["is_trained"]:
        return "trained, being measured"
    last = row["epochs"][-1]["epoch"] if row["epochs"] else 0
    return f"epoch {last:.4g}, {100 * row['share_done']:.0f} % done"
