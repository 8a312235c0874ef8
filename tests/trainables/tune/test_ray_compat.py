"""Ray's private names: this version has them all, and without one of them everything goes on by Ray's own defaults."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainables.tune import ray_compat
from trainables.tune.ray_compat import PRIVATE_NAMES

ROOT = Path(__file__).parents[3]
EACH = pytest.mark.parametrize(("module", "name"), PRIVATE_NAMES, ids=lambda part: part)

# A sweep's Ray without any of them: it starts, runs a task, and removes groups.
WITHOUT = """
import importlib, sys
import ray
from sweeps.session.placement import Placement
from sweeps.session.ray_session import ray_session
from trainables.tune import ray_compat
ray_compat._found = lambda module, name: None
with ray_session(Placement(dashboard=False)):
    ray_compat.set_process_title("title")
    ray_compat.remove_orphaned_groups()
    print("a task:", ray.get(ray.remote(lambda: 6 * 7).remote()))
"""

# A group of an actor that is killed, and one of the driver.
ORPHAN = """
import time
import ray
from ray.util.placement_group import placement_group, placement_group_table
from sweeps.session.placement import Placement
from sweeps.session.ray_session import ray_session
from trainables.tune.ray_compat import remove_orphaned_groups

@ray.remote(num_cpus=0)
class Actor:
    def group(self):
        return placement_group([{"CPU": 0.1}], lifetime="detached").id.hex()

def state(group):
    return placement_group_table()[group]["state"]

with ray_session(Placement(dashboard=False)):
    kept = placement_group([{"CPU": 0.1}])
    ray.get(kept.ready())
    actor = Actor.remote()
    orphan = ray.get(actor.group.remote())
    remove_orphaned_groups()
    assert state(orphan) != "REMOVED"
    ray.kill(actor)
    until = time.monotonic() + 120
    while state(orphan) != "REMOVED" and time.monotonic() < until:
        remove_orphaned_groups()
        time.sleep(0.2)
    print(state(orphan), state(kept.id.hex()))
"""

# A sweep by Tune with this project's scheduler: whose workers it is told of, and what is left of the metrics.
TUNE = """
import tempfile
import sweeps.execution.launch  # sets how Tune prints
from ray import tune
from sweeps.execution.scheduler import FirstToWait
from sweeps.session.placement import Placement
from sweeps.session.ray_session import ray_session
from trainables.tune.ray_compat import forget_metrics, trials_with_worker

seen = set()

class Scheduler(FirstToWait):
    def choose_trial_to_run(self, tune_controller):
        seen.update(trial.config["x"] for trial in trials_with_worker(tune_controller))
        return super().choose_trial_to_run(tune_controller)

class Forget(tune.Callback):
    def on_trial_complete(self, iteration, trials, trial, **info):
        before = trial.metric_analysis["loss"]["max"], len(trial.metric_n_steps["loss"])
        forget_metrics(trial)
        print(*before, trial.metric_analysis, trial.metric_n_steps)

class Once(tune.Trainable):
    def step(self):
        return {"loss": 0.5, "done": True}

with tempfile.TemporaryDirectory() as folder, ray_session(Placement(dashboard=False)):
    tune.Tuner(
        Once,
        param_space={"x": tune.grid_search([1, 2])},
        tune_config=tune.TuneConfig(scheduler=Scheduler()),
        run_config=tune.RunConfig(
            storage_path=folder,
            verbose=0,
            callbacks=[Forget()],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()
print(*sorted(seen))
"""

# An actor whose machine goes without notice.
LOST = """
import ray
from ray.cluster_utils import Cluster
from trainables.tune.ray_compat import lost_machines_do_not_count

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1, resources={"there": 1})
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

@ray.remote(resources={"there": 1})
class Actor:
    def wait(self):
        import time
        time.sleep(600)

actor = Actor.remote()
waiting = actor.wait.remote()
ray.get(ray.remote(lambda: 0).remote())
import time; time.sleep(5)
cluster.remove_node(node, allow_graceful=False)
try:
    ray.get(waiting)
except ray.exceptions.RayActorError as error:
    with lost_machines_do_not_count():
        print("lost:", error.preempted)
"""


@EACH
def test_this_version_of_ray_has_the_name(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


@EACH
def test_replaced_names_come_back(module: str, name: str) -> None:
    before = getattr(importlib.import_module(module), name)
    with ray_compat.without_handlers():
        pass
    assert getattr(importlib.import_module(module), name) is before


def test_sigterm_is_left_alone_in_the_block() -> None:
    utils = importlib.import_module("ray._private.utils")
    before = signal.getsignal(signal.SIGTERM)
    with ray_compat.without_handlers():
        utils.set_sigterm_handler(lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_tune_tells_nothing_of_workers_and_metrics() -> None:
    assert ray_compat.trials_with_worker(SimpleNamespace()) == set()
    ray_compat.forget_metrics(SimpleNamespace())


def test_workers_and_metrics_of_this_tune() -> None:
    manager = SimpleNamespace(live_actors=["ready", "starting", "unknown"])
    inner = SimpleNamespace(_actor_manager=manager, _actor_to_trial={"ready": 1, "starting": 2})
    assert ray_compat.trials_with_worker(SimpleNamespace(_tune_controller=inner)) == {1, 2}
    metadata = SimpleNamespace(metric_analysis={"loss": {"max": 1.0}}, metric_n_steps={"loss": {}})
    ray_compat.forget_metrics(SimpleNamespace(run_metadata=metadata))
    assert (metadata.metric_analysis, metadata.metric_n_steps) == ({}, {})


def test_the_loss_of_a_machine_is_no_failure_of_a_trial() -> None:
    """By Tune's own count; the death of a worker is one."""
    from ray.exceptions import RayActorError
    from ray.tune.experiment import Trial

    lost = RayActorError("a", f"The actor died because {ray_compat.LOST_MACHINE}. Node Id: 1")
    died = RayActorError("a", "The actor is dead because its worker process has died.")
    trial = SimpleNamespace(run_metadata=SimpleNamespace(num_failures=0))
    with ray_compat.lost_machines_do_not_count():
        for error in (lost, died, lost):
            Trial._handle_ray_actor_error(trial, error)
    assert trial.run_metadata.num_failures == 1
    Trial._handle_ray_actor_error(trial, lost)
    assert trial.run_metadata.num_failures == 2


@pytest.mark.slow
def test_tune_tells_of_workers_and_metrics() -> None:
    lines = run(TUNE).stdout.splitlines()
    assert [line for line in lines if line.startswith("0.5 ")] == ["0.5 2 {} {}"] * 2
    assert lines[-1] == "1 2"


def test_ray_takes_the_folder_of_its_session(tmp_path: Path) -> None:
    assert ray_compat.folder_of_session(tmp_path) == {"_temp_dir": str(tmp_path)}


@pytest.mark.slow
def test_a_machine_that_is_lost_without_notice() -> None:
    assert "lost: True" in run(LOST).stdout


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_groups_of_dead_actors_are_removed() -> None:
    assert run(ORPHAN).stdout == "REMOVED CREATED\n"


@pytest.mark.slow
def test_a_session_without_the_names() -> None:
    done = run(WITHOUT)
    assert done.stdout == "a task: 42\n"
    assert "warning: this version of Ray listens on the network" in done.stderr
