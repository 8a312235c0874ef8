"""What is published: the gaps and means of the tables, in few series, however many trials there are."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pandas as pd
import pytest
import ray

from sweeps.monitoring import metrics
from sweeps.monitoring.metrics import MEANS, MOST_GROUPS, RECENT, Metrics
from sweeps.plan.grid import Grid, expand
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.tables import compact, write_record
from trainables.trial import run_trial


class Recorder:
    """In place of Ray's gauge: keeps what a scrape would have."""

    scrape: ClassVar[dict[tuple[str, ...], float]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tags.keys() == set(self.tag_keys)
        assert all(isinstance(tag, str) for tag in tags.values())
        Recorder.scrape[(self.name, *(tags[key] for key in self.tag_keys))] = value


@pytest.fixture(autouse=True)
def scrape(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, ...], float]:
    monkeypatch.setattr(metrics, "Gauge", Recorder)
    Recorder.scrape = {}
    return Recorder.scrape


def ended(config: TrialConfig, result: dict[str, Any]) -> Any:
    return SimpleNamespace(config={"trial_id": config.trial_id}, last_result=result)


def test_gaps_and_means_are_those_of_the_tables(
    make_config: Callable[..., TrialConfig], digits: Source, tmp_path: Path, scrape: dict[tuple[str, ...], float]
) -> None:
    configs = [make_config(batch_size=size, seed=seed) for size in (30, 300) for seed in (0, 1)]
    configs.append(make_config(batch_size=30, seed=0, switch_epoch=2, switch_batch_size=300).canonical())
    (tmp_path / "trials").mkdir()
    records = {config.trial_id: run_trial(config, digits) for config in configs}
    for record in records.values():
        write_record(tmp_path, record)
    table = compact(tmp_path).trials.to_pandas()
    before = [row for row in compact(tmp_path).trials.to_pylist() if row["trial_id"] == configs[0].trial_id]

    published = Metrics(
        "test", {config.trial_id: config for config in configs[1:]}, before
    )  # one ended in an earlier run
    for config in configs[1:-1]:
        published.on_trial_start(0, [], ended(config, {}))
        published.on_trial_complete(0, [], ended(config, records[config.trial_id].trial))
    published.on_trial_start(0, [], ended(configs[-1], {}))
    published.on_trial_result(0, [], ended(configs[-1], {}), {"lr": 0.01, "batch_size": 300, "epoch": 3})
    published.publish()

    assert {key[2]: value for key, value in scrape.items() if key[0] == "sweep_trials"} == {
        "pending": 0, "running": 1, "completed": 4, "diverged": 0, "failed": 0,
    }  # fmt: skip
    plain = table[table["switch_epoch"].isna()]
    for name in set(MEANS) - {"test_metric"}:
        for size, mean in plain.groupby("batch_size")[name].mean().items():
            assert scrape[f"sweep_{name}", "test", str(size), "none", "0.01"] == pytest.approx(mean, abs=1e-12)
    (running,) = [config.label for config in configs[-1:]]
    assert scrape["sweep_running_batch_size", "test", f"{running} {configs[-1].trial_id[:6]}"] == 300
    assert sum(key[0] == "sweep_trial_box_sharpness" for key in scrape) == 4

    assert not [key for key in scrape if key[0] == "sweep_test_metric"]  # it is the test accuracy

    published.on_trial_complete(0, [], ended(configs[-1], records[configs[-1].trial_id].trial))
    published._compute_at = 0.0
    published.publish()
    assert scrape["sweep_box_sharpness", "test", "30", "switch", "0.01"] == pytest.approx(
        table.loc[table["switch_epoch"].notna(), "box_sharpness"].item()
    )


def test_ten_thousand_trials_make_a_small_scrape(digits: Source, scrape: dict[tuple[str, ...], float]) -> None:
    rates = [0.001 * step for step in range(1, 51)]
    grid = Grid(
        batch_sizes=[2, 4, 8, 16], learning_rates=rates, seeds=range(5), epochs=4, train_size=300, model_options={}
    )
    some = expand(grid, digits)
    row = {**vars(some[0]), "numbers_version": 9, "status": "completed", "test_metric": 0.5, "box_sharpness": 1.0}
    many = [
        {**row, "trial_id": f"{copy}-{number}", "batch_size": config.batch_size, "learning_rate": config.learning_rate}
        for copy in range(10)
        for number, config in enumerate(some)
    ]
    published = Metrics("test", {}, many)
    published.publish()
    names = pd.Series([key[0] for key in scrape]).value_counts()
    assert names["sweep_trial_box_sharpness"] == RECENT
    assert names["sweep_box_sharpness"] == 4 <= MOST_GROUPS  # 200 groups by learning rate too: it is left out
    assert scrape["sweep_box_sharpness", "test", "16", "none", "all"] == 1.0
    assert len(scrape) < 700  # at about 350 bytes each: a quarter of a megabyte


def test_another_metric_than_accuracy(
    make_config: Callable[..., TrialConfig], scrape: dict[tuple[str, ...], float]
) -> None:
    """Nats per token, lower is better: batch 16 has 1.5, batch 64 has 1.75, so its gap is 0.25."""
    configs = [make_config(batch_size=size) for size in (16, 64)]
    published = Metrics("test", {config.trial_id: config for config in configs}, [])
    about = {"metric": "nats", "metric_unit": "nats per token", "metric_direction": "lower", "status": "completed"}
    for config, nats in zip(configs, (1.5, 1.75), strict=True):
        published.on_trial_complete(0, [], ended(config, {**about, "test_metric": nats, "test_accuracy": 0.4}))
    published.publish()
    rate = f"{configs[0].learning_rate:g}"
    assert scrape["sweep_test_metric", "test", "64", "none", rate] == 1.75
    assert scrape["sweep_large_batch_gap", "test", "64", "none", rate] == 0.25
    assert not [key for key in scrape if key[0] == "sweep_test_accuracy"]


def test_a_trial_whose_worker_died_waits_again(
    make_config: Callable[..., TrialConfig], scrape: dict[tuple[str, ...], float]
) -> None:
    config = make_config()
    published = Metrics("test", {config.trial_id: config}, [])
    states = []
    steps: list[Callable[..., None]] = [
        published.on_trial_start, published.on_trial_recover, published.on_trial_start, published.on_trial_error,
    ]  # fmt: skip
    for step in steps:
        step(0, [], ended(config, {}))
        published.publish()
        states.append([key[2] for key, value in scrape.items() if key[0] == "sweep_trials" and value])
    assert states == [["running"], ["pending"], ["running"], ["failed"]]
    published.on_trial_complete(0, [], ended(config, {"status": "stopped"}))  # as tuning does
    published.publish()
    assert scrape["sweep_trials", "test", "stopped"] == 1


def test_the_real_gauge_takes_what_is_set(make_config: Callable[..., TrialConfig]) -> None:
    """Names and tags that Ray refuses would raise; what Prometheus then sees is in test_dashboard.py."""
    config = make_config()
    for gauge in vars(Metrics("test", {config.trial_id: config}, [])).values():
        for one in gauge.values() if isinstance(gauge, dict) else [gauge]:
            if isinstance(one, Recorder):
                real = ray.util.metrics.Gauge(one.name, "description", one.tag_keys)
                real.set(1.0, dict.fromkeys(one.tag_keys, 'a "hostile"\n{tag}'))
