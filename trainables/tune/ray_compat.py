"""All uses of names that are not part of Ray's public interface.

Each gains something that Ray's public interface does not offer. Where a version of Ray lacks the name, Ray behaves as
it does by default. test_ray_compat.py fails for a version that lacks one, and checks what happens then.
"""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

PRIVATE_NAMES = (
    ("ray._private.ray_constants", "ENABLE_RAY_CLUSTER"),
    ("ray._private.utils", "set_sigterm_handler"),
    ("ray._private.worker", "listen_error_messages"),
    ("ray._private.state", "state"),
    ("ray._private.accelerators", "get_accelerator_manager_for_resource"),
    ("ray._raylet", "setproctitle"),
    ("ray.exceptions", "RayActorError"),
    ("ray.exceptions", "ActorUnavailableError"),
    ("ray.core.generated.gcs_pb2", "PlacementGroupTableData"),
)
"""Modules of Ray and the names in them that the functions below use."""


def listen_on_loopback_only() -> None:
    """Keep all services of a Ray that starts in this process on 127.0.0.1.

    Without the name Ray listens on the address of this machine, and a warning says so.
    """
    if _found("ray._private.ray_constants", "ENABLE_RAY_CLUSTER") is None:
        print("warning: this version of Ray listens on the network, not on 127.0.0.1 alone", file=sys.stderr)
    else:
        vars(importlib.import_module("ray._private.ray_constants"))["ENABLE_RAY_CLUSTER"] = False


def folder_of_session(folder: Path) -> dict[str, str]:
    """Return the argument of ray.init that puts its session's files below `folder`; none in a version without.

    Hidden options are not in the signature of ray.init, only in its code.
    """
    return {"_temp_dir": str(folder)} if "_temp_dir" in inspect.getsource(ray.init) else {}


@contextlib.contextmanager
def without_handlers() -> Iterator[None]:
    """Let Ray start in the block without a handler of SIGTERM and without printing the errors of a dead raylet.

    Ray would replace the handler that is there. Without the names it does so, and prints 20 lines more.
    """
    with contextlib.ExitStack() as replaced:
        _replaced(replaced, "ray._private.utils", "set_sigterm_handler", lambda _: lambda handler: None)
        _replaced(replaced, "ray._private.worker", "listen_error_messages", lambda _: lambda *_: None)
        yield


def trials_with_worker(tune_controller: Any) -> set[Any]:
    """Return Tune's trials that have a worker process, also one that is still starting; none in a version without."""
    try:
        inner = tune_controller._tune_controller
        workers = inner._actor_manager.live_actors
        return {trial for worker in workers if (trial := inner._actor_to_trial.get(worker)) is not None}
    except AttributeError:
        return set()


def forget_metrics(trial: Any) -> None:
    """Drop what Tune keeps of a trial that has ended (extremes, means, last values: 40 KiB); else it stays."""
    with contextlib.suppress(AttributeError):
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()


LOST_MACHINE = "its node has died"  # in the message of Ray's error


@contextlib.contextmanager
def lost_machines_do_not_count() -> Iterator[None]:
    """Let Tune, in the block, count no failure of a trial for the loss of its machine.

    Tune counts none where a cloud has announced that it takes a machine back. Without the name every other loss counts.
    A machine that goes without notice first makes its actors unavailable; a worker that dies alone is reported dead.
    """
    error, unavailable = (_found("ray.exceptions", name) for name in ("RayActorError", "ActorUnavailableError"))
    announced = vars(error).get("preempted") if error is not None else None
    if not isinstance(announced, property) or announced.fget is None:
        yield
        return
    was_announced = announced.fget

    def is_lost(self: Any) -> bool:
        out_of_reach = unavailable is not None and isinstance(self, unavailable)
        return was_announced(self) or out_of_reach or LOST_MACHINE in str(self)

    error.preempted = property(is_lost)
    try:
        yield
    finally:
        error.preempted = announced


def gpus_here() -> int | None:
    """Return how many GPUs a Ray that starts on this machine will find; None in a version that does not say."""
    manager_of = _found("ray._private.accelerators", "get_accelerator_manager_for_resource")
    if manager_of is None:
        return None
    try:
        manager = manager_of("GPU")
        visible = manager.get_current_process_visible_accelerator_ids()
        found = int(manager.get_current_node_num_accelerators())
    except AttributeError:
        return None
    return found if visible is None else min(found, len(visible))


def set_process_title(title: str) -> None:
    """Show `title` for this worker in lists of processes, until Ray sets its own; else Ray's own stays."""
    set_title = _found("ray._raylet", "setproctitle")
    if set_title is not None:
        set_title(title)


def remove_orphaned_groups() -> None:
    """Remove the placement groups of dead actors, whose CPUs and GPUs nobody else would free.

    Without the names they stay until the sweep ends.
    """
    state = _found("ray._private.state", "state")
    table = _found("ray.core.generated.gcs_pb2", "PlacementGroupTableData")
    connect = getattr(state, "_connect_and_get_accessor", None)
    if connect is None or table is None:
        return
    for data in connect().get_placement_group_table():
        group = table.FromString(data)
        is_of_actor = group.creator_actor_id.strip(b"\xff") != b""  # not of the sweep itself, as Tune's are
        if is_of_actor and group.creator_actor_dead and group.state != table.REMOVED:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def _found(module: str, name: str) -> Any:
    """Return a private name of Ray, or None in a version without."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None


def _replaced(until: contextlib.ExitStack, module: str, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a private name by `make` of what it is, until the stack is closed; a missing one stays missing."""
    before = _found(module, name)
    if before is not None:
        owner = importlib.import_module(module)
        setattr(owner, name, make(before))
        until.callback(setattr, owner, name, before)
