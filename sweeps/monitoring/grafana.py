"""Prometheus and Grafana for a running sweep: writes their files, and prints the commands that start them.

Prometheus finds a running sweep through Ray's service discovery file and keeps what sweeps/monitoring/metrics.py
publishes, and Ray's own numbers of the machine. Both servers listen on 127.0.0.1 alone, and Grafana asks nobody
outside.
"""

import json
import shlex
from pathlib import Path
from typing import Any

from sweeps.session.ray_folder import discovery
from trainables.runtime.errors import UserError

UID = "large-batch-sweeps"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
SWEEP = 'sweep=~"$sweep"'
NODE_METRICS = ("node_cpu_utilization", "node_gpus_utilization", "node_gram_used", "node_mem_used")


def prometheus_yml(discovery: Path) -> str:
    """The configuration of Prometheus: each target of Ray's `discovery` file, the sweep's metrics and the node's."""
    kept = "|".join(["ray_sweep_.*", *(f"ray_{name}" for name in NODE_METRICS)])
    return f"""\
global:
  scrape_interval: 5s
scrape_configs:
  - job_name: ray
    file_sd_configs:
      - files: [{json.dumps(str(discovery))}]
        refresh_interval: 5s
    metric_relabel_configs:
      - source_labels: [__name__]
        regex: {kept}
        action: keep
"""


def grafana_ini(folder: Path, port: int) -> str:
    """The configuration of Grafana: localhost, read without a login, no calls to its makers."""
    return f"""\
[server]
http_addr = 127.0.0.1
http_port = {port}
[paths]
data = {folder / "data"}
logs = {folder / "logs"}
provisioning = {folder / "provisioning"}
[auth.anonymous]
enabled = true
org_role = Viewer
[security]
disable_gravatar = true
[analytics]
reporting_enabled = false
check_for_updates = false
check_for_plugin_updates = false
[news]
news_feed_enabled = false
"""


def datasource_yml(prometheus_port: int) -> str:
    """Where Grafana finds Prometheus."""
    return f"""\
apiVersion: 1
datasources:
  - name: Prometheus
    uid: {DATASOURCE["uid"]}
    type: prometheus
    access: proxy
    url: http://127.0.0.1:{prometheus_port}
    isDefault: true
    jsonData:
      timeInterval: 5s
"""


def provider_yml(dashboards: Path) -> str:
    """Where Grafana finds the dashboard."""
    return f"""\
apiVersion: 1
providers:
  - name: sweeps
    type: file
    options:
      path: {json.dumps(str(dashboards))}
"""


def grafana_dashboard() -> dict[str, Any]:
    """The dashboard, in Grafana's JSON (schema version 39, Grafana 11 and later)."""
    panels = [
        _xy("Gap against sharpness: the last trials that ended", "trial", "sweep_trial_", (0, 0, 12, 10)),
        _xy("Gap against sharpness: means", "batch_size, remedy, learning_rate", "sweep_", (12, 0, 12, 10)),
        _metric(_by_size("Test metric by batch size", "sweep_test_accuracy", "percentunit", (0, 10, 8, 8))),
        _by_size("Box sharpness [%] by batch size", "sweep_box_sharpness", "none", (8, 10, 8, 8)),
        _by_size("Largest eigenvalue by batch size", "sweep_hessian_max_eig", "none", (16, 10, 8, 8)),
        _lines("Trials by state", f"sum by (state) (ray_sweep_trials{{{SWEEP}}})", "{{state}}", "none", (0, 18, 8, 8)),
        _running("Learning rate in force", "sweep_running_lr", "none", (8, 18, 8, 8)),
        _running("Batch size in force", "sweep_running_batch_size", "none", (16, 18, 8, 8)),
        _running("Epoch", "sweep_running_epoch", "none", (0, 26, 8, 8)),
        _metric(_running("Test metric of what runs", "sweep_running_test_accuracy", "percentunit", (8, 26, 8, 8))),
        _machine((16, 26, 8, 8)),
    ]
    return {
        "uid": UID,
        "title": "Large-batch sweeps",
        "tags": [],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [_sweep_variable()]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, start=1)],
    }


def _sweep_variable() -> dict[str, Any]:
    return {
        "type": "query",
        "name": "sweep",
        "label": "sweep",
        "datasource": DATASOURCE,
        "query": "label_values(ray_sweep_trials, sweep)",
        "refresh": 2,
        "includeAll": True,
        "multi": False,
    }


def _panel(kind: str, title: str, place: tuple[int, int, int, int], targets: list[dict[str, Any]]) -> dict[str, Any]:
    x, y, width, height = place
    return {
        "type": kind,
        "title": title,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "targets": [{"refId": letter, **target} for letter, target in zip("ABCD", targets, strict=False)],
    }


def _lines(title: str, query: str, legend: str, unit: str, place: tuple[int, int, int, int]) -> dict[str, Any]:
    panel = _panel("timeseries", title, place, [{"expr": query, "legendFormat": legend}])
    return panel | {"fieldConfig": {"defaults": {"unit": unit}, "overrides": []}}


def _by_size(title: str, metric: str, unit: str, place: tuple[int, int, int, int]) -> dict[str, Any]:
    return _lines(title, f"avg by (batch_size) (ray_{metric}{{{SWEEP}}})", "batch {{batch_size}}", unit, place)


def _running(title: str, metric: str, unit: str, place: tuple[int, int, int, int]) -> dict[str, Any]:
    return _lines(title, f"ray_{metric}{{{SWEEP}}}", "{{trial}}", unit, place)


def _metric(panel: dict[str, Any]) -> dict[str, Any]:
    """A panel of the test accuracy, in percent, with the primary metric of sweeps that have another one beside it."""
    (accuracy,), unit = panel["targets"], panel["fieldConfig"]["defaults"]["unit"]
    other = {**accuracy, "refId": "B", "expr": accuracy["expr"].replace("_test_accuracy", "_test_metric")}
    matcher = {"id": "byFrameRefID", "options": "A"}
    overrides = [{"matcher": matcher, "properties": [{"id": "unit", "value": unit}]}]
    return panel | {"targets": [accuracy, other], "fieldConfig": {"defaults": {"unit": "none"}, "overrides": overrides}}


def _machine(place: tuple[int, int, int, int]) -> dict[str, Any]:
    """CPU, and GPUs where there are any."""
    panel = _lines("CPU and GPU use [%]", "avg(ray_node_cpu_utilization)", "CPU", "percent", place)
    gpu = {"refId": "B", "expr": "avg by (GpuIndex) (ray_node_gpus_utilization)", "legendFormat": "GPU {{GpuIndex}}"}
    return panel | {"targets": [*panel["targets"], gpu]}


def _xy(title: str, by: str, prefix: str, place: tuple[int, int, int, int]) -> dict[str, Any]:
    """Large-batch gap over box sharpness: two instant queries joined into one table, a point per row of it."""
    names = {"A": f"{prefix}box_sharpness", "B": f"{prefix}large_batch_gap"}
    labels = by if "batch_size" in by else f"{by}, batch_size"
    targets = [
        {"expr": f"max by ({labels}) (ray_{name}{{{SWEEP}}})", "instant": True, "format": "table"}
        for name in names.values()
    ]
    axes = {"Value #A": ("box sharpness [%]", "none"), "Value #B": ("large-batch gap (of accuracy a fraction)", "none")}
    return _panel("xychart", title, place, targets) | {
        "pluginVersion": "11.6.0",  # without it Grafana takes the options for those of version 10
        "transformations": [
            {"id": "filterFieldsByName", "options": {"exclude": {"names": ["Time"]}}},
            {"id": "merge", "options": {}},
        ],
        "fieldConfig": {
            "defaults": {"custom": {"show": "points", "pointSize": {"fixed": 7}}},
            "overrides": [
                {
                    "matcher": {"id": "byName", "options": column},
                    "properties": [
                        {"id": "displayName", "value": name},
                        {"id": "unit", "value": unit},
                        {"id": "custom.axisLabel", "value": name},
                    ],
                }
                for column, (name, unit) in axes.items()
            ],
        },
        "options": {
            "mapping": "manual",
            "series": [
                {
                    "frame": {"matcher": {"id": "byIndex", "options": 0}},
                    "x": {"matcher": {"id": "byName", "options": "Value #A"}},
                    "y": {"matcher": {"id": "byName", "options": "Value #B"}},
                }
            ],
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
            "tooltip": {"mode": "single", "sort": "none"},
        },
    }


def provision(folder: Path, prometheus_port: int, grafana_port: int) -> list[str]:
    """Writes all files into `folder`; returns the two commands that start Prometheus and Grafana.

    Raises UserError where the folder cannot be written.
    """
    folder = folder.expanduser().absolute()
    grafana = folder / "grafana"
    files = {
        folder / "prometheus.yml": prometheus_yml(discovery()),
        grafana / "grafana.ini": grafana_ini(grafana, grafana_port),
        grafana / "provisioning" / "datasources" / "prometheus.yml": datasource_yml(prometheus_port),
        grafana / "provisioning" / "dashboards" / "sweeps.yml": provider_yml(grafana / "dashboards"),
        grafana / "dashboards" / "sweep.json": json.dumps(grafana_dashboard(), indent=2) + "\n",
    }
    try:
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"`--folder`: {folder} cannot be written ({error.strerror})") from error
    home = next((home for home in ("/usr/share/grafana", "/opt/homebrew/share/grafana") if Path(home).exists()), None)
    prometheus = (
        "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{prometheus_port}",
    )  # fmt: skip
    served = ("grafana", "server", "--homepath", home or "/usr/share/grafana", "--config", str(grafana / "grafana.ini"))
    return [shlex.join(prometheus), shlex.join(served)]
