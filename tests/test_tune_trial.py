"""The Tune adapter on real Ray: what a worker sees of the shared data."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.tables import read_tables
from trainables.tune_trial import TuneTrial


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@ray.remote
class Worker:
    """Drives the adapter as Tune does: setup, steps, then the next trial in the same process."""

    def run(self, config: dict[str, object], trial_ids: list[str]) -> tuple[bool, str, list[str]]:
        trainable = TuneTrial(config={**config, "trial_id": trial_ids[0]})
        statuses = []
        for index, trial_id in enumerate(trial_ids):
            if index:
                assert trainable.reset_config({**config, "trial_id": trial_id})
            while not (result := trainable.step())["done"]:
                pass
            statuses.append(result["status"])
        shared: Source = trainable._source
        vars(shared).pop("fingerprint", None)  # computed again, from the arrays as they are now
        return shared.inputs.flags.writeable, shared.fingerprint, statuses


def test_trials_share_read_only_data_and_leave_it_alone(
    local_ray: None, make_config: Callable[..., TrialConfig], digits: Source, tmp_path: Path
) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "checkpoints").mkdir()
    fixed = Source("fixed", digits.inputs[:300], digits.labels[:300], digits.inputs[300:], digits.labels[300:], 10)
    configs = {config.trial_id: config for config in (make_config(seed=seed, epochs=2) for seed in range(3))}
    shared = {
        "configs": ray.put(configs),
        "source": ray.put(fixed),
        "folder": str(tmp_path),
        "cpus": 1,
        "gpus": 0,
        "checkpoint_seconds": 0.0,
        "keep_weights": False,
    }
    writeable, fingerprint, statuses = ray.get(Worker.remote().run.remote(shared, list(configs)))
    assert not writeable  # Ray's object store: one copy on the node, seen by all its workers
    assert fingerprint == fixed.fingerprint
    assert statuses == ["completed"] * 3
    assert sorted(read_tables(tmp_path).trials["trial_id"].to_pylist()) == sorted(configs)
    assert list((tmp_path / "checkpoints").iterdir()) == []
