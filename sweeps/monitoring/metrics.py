"""A sweep's numbers through Ray's metrics, for Prometheus: trials by state, means, what runs, the last points.

It is a Tune callback in the driver, which sees every report, so actors publish nothing. Each series takes about 350
bytes of a scrape; to keep a scrape small with 10 000 trials too there are no series by trial but for those that run
and the last RECENT that ended. All others are means over the ended trials of a group (`batch_size`,
`remedy`, `learning_rate`), with tags left out until there are at most MOST_GROUPS of them.

Ray drops a series that has not been set for one or two of its report intervals (10 s, Ray 2.60). So everything is set
anew every PUBLISH_SECONDS, and a trial that is over disappears by itself.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune
from ray.util.metrics import Gauge

from sweeps.monitoring.progress import key_of
from trainables.config import NUMBERS_VERSION, TrialConfig
from trainables.records.tables import Row, large_batch_gaps, remedies

PUBLISH_SECONDS = 4.0
COMPUTE_SHARE = 0.01  # of the driver's time for the means over all trials
RECENT = 64
MOST_GROUPS = 48

STATES = ("pending", "running", "completed", "diverged", "failed")
GROUP_TAGS = ("batch_size", "remedy", "learning_rate")
MEANS = {
    "test_accuracy": "test accuracy, in [0, 1], where it is the primary metric",
    "test_metric": "primary metric on the test set, where it is another one",
    "generalization_gap": "primary metric: how much worse on the test set than on the training set",
    "large_batch_gap": "primary metric: how much worse on the test set than the small-batch reference",
    "box_sharpness": "box sharpness, epsilon 1e-3, full space, strong method [%]",
    "hessian_max_eig": "largest eigenvalue of the Hessian of the training loss",
    "epochs_done": "epochs of a trial",
}
RECENT_POINTS = ("large_batch_gap", "generalization_gap", "box_sharpness", "hessian_max_eig")
IN_FORCE = {
    "epoch": "epochs done",
    "train_loss": "training loss [nats]",
    "test_accuracy": "test accuracy, in [0, 1], where it is the primary metric",
    "test_metric": "primary metric on the test set, where it is another one",
    "lr": "learning rate in force",
    "batch_size": "batch size in force",
}


class Metrics(tune.Callback):  # type: ignore[misc]
    """Publishes the sweep `name`: its trials that `ended` earlier (rows of trials.parquet) and those of this run.

    The gauges are `sweep_trials` by `state`; `sweep_<mean>` for the names of MEANS, by group; `sweep_trial_<name>` for
    RECENT_POINTS, by `trial` and `batch_size`; `sweep_running_<name>` for IN_FORCE, by `trial`. All have the tag
    `sweep`. Prometheus sees each with `ray_` in front.
    """

    def __init__(self, name: str, configs: Mapping[str, TrialConfig], ended: Sequence[Row]) -> None:
        self._configs = configs
        self._rows: dict[str, Row] = {row["trial_id"]: dict(row) for row in ended}
        self._running: dict[str, Row] = {}
        self._computed_rows = -1
        self._compute_at = self._publish_at = 0.0
        self._means: dict[tuple[str, ...], dict[str, float]] = {}
        self._tags: tuple[str, ...] = GROUP_TAGS
        self._sweep = {"sweep": name}
        self._trials = Gauge("sweep_trials", "Trials by state", ("sweep", "state"))
        self._group_gauges = {
            key: Gauge(f"sweep_{key}", f"Mean over ended trials: {text}", ("sweep", *GROUP_TAGS))
            for key, text in MEANS.items()
        }
        self._point_gauges = {
            key: Gauge(
                f"sweep_trial_{key}", f"Of a trial that ended lately: {MEANS[key]}", ("sweep", "trial", "batch_size")
            )
            for key in RECENT_POINTS
        }
        self._running_gauges = {
            key: Gauge(f"sweep_running_{key}", f"Of a trial that runs: {text}", ("sweep", "trial"))
            for key, text in IN_FORCE.items()
        }

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune pickles its callbacks into its snapshots, which are never restored."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running[key_of(trial)] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Row, **info: Any) -> None:
        self._running[key_of(trial)] = result

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(key_of(trial), trial.last_result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its worker died, and it waits for another."""
        self._running.pop(key_of(trial), None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(key_of(trial), {})

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune calls this many times a second, also while no trial reports."""
        if time.monotonic() > self._publish_at:
            self.publish()
            self._publish_at = time.monotonic() + PUBLISH_SECONDS

    def _end(self, key: str, result: Row) -> None:
        self._running.pop(key, None)
        numbers = {name: result.get(name) for name in ("train_accuracy", "task", "metric", "metric_direction", *MEANS)}
        self._rows[key] = {
            **vars(self._configs[key]),
            "trial_id": key,
            "numbers_version": NUMBERS_VERSION,
            "status": result.get("status", "failed"),
            **numbers,
        }

    def publish(self) -> None:
        """Sets every gauge."""
        self._compute()
        pending = len(self._configs.keys() - self._rows.keys() - self._running.keys())
        counts = dict.fromkeys(STATES, 0) | {"pending": pending, "running": len(self._running)}
        for row in self._rows.values():
            counts[row["status"]] = counts.get(row["status"], 0) + 1  # a study may have states of its own
        for state, count in counts.items():
            self._trials.set(count, {**self._sweep, "state": state})
        for group, means in self._means.items():
            tags = {**dict.fromkeys(GROUP_TAGS, "all"), **dict(zip(self._tags, group, strict=True)), **self._sweep}
            _set(self._group_gauges, means, tags)
        for row in list(self._rows.values())[-RECENT:]:
            tags = {**self._sweep, "trial": self._name(row["trial_id"]), "batch_size": str(row["batch_size"])}
            _set(self._point_gauges, _with_primary_metric(row), tags)
        for key, result in list(self._running.items())[:RECENT]:
            _set(self._running_gauges, _with_primary_metric(result), {**self._sweep, "trial": self._name(key)})

    def _compute(self) -> None:
        """The gaps, which need the references of all trials, and the means: seldom where that takes long."""
        started = time.monotonic()
        if started < self._compute_at or len(self._rows) == self._computed_rows:
            return
        rows = list(self._rows.values())
        for row, remedy in zip(rows, remedies(rows), strict=True):
            row["remedy"] = remedy
        for row, gap in zip(rows, large_batch_gaps(rows), strict=True):
            row["large_batch_gap"] = gap
        completed = [row for row in rows if row["status"] == "completed"]
        for kept in range(len(GROUP_TAGS), -1, -1):
            self._tags = GROUP_TAGS[:kept]
            groups: dict[tuple[str, ...], list[Row]] = {}
            for row in completed:
                groups.setdefault(tuple(_tag(row, tag) for tag in self._tags), []).append(row)
            if len(groups) <= MOST_GROUPS:
                break
        self._means = {group: _means(members) for group, members in groups.items()}
        self._computed_rows = len(rows)
        now = time.monotonic()
        self._compute_at = now + (now - started) / COMPUTE_SHARE

    def _name(self, key: str) -> str:
        config = self._configs.get(key)
        return f"{config.label} {key[:6]}" if config is not None else key


def _tag(row: Row, tag: str) -> str:
    if tag == "remedy" and row["switch_epoch"] is not None:
        return "switch" if row["remedy"] == "none" else f"switch, {row['remedy']}"
    return f"{row[tag]:g}" if isinstance(row[tag], float) else str(row[tag])


def _means(rows: Sequence[Row]) -> dict[str, float]:
    shown = [_with_primary_metric(row) for row in rows]
    values = {key: [row[key] for row in shown if row.get(key) is not None] for key in MEANS}
    return {key: math.fsum(known) / len(known) for key, known in values.items() if known}


def _with_primary_metric(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without that of test accuracy and test metric which is not the primary metric."""
    other = "test_metric" if (row.get("metric") or "accuracy") == "accuracy" else "test_accuracy"
    return {name: value for name, value in row.items() if name != other}


def _set(gauges: Mapping[str, Gauge], numbers: Mapping[str, Any], tags: dict[str, str]) -> None:
    for key, gauge in gauges.items():
        value = numbers.get(key)
        if value is not None and math.isfinite(value):
            gauge.set(value, tags)
