"""Ray for one sweep: started on this machine with all services on 127.0.0.1 only, or a cluster reached elsewhere."""

import contextlib
import dataclasses
import logging
import re
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

import ray

from sweeps.session.gpu_share import gpu_share
from sweeps.session.placement import Placement
from sweeps.session.ray_folder import end_processes, last_errors, ray_folder
from sweeps.session.ray_token import dashboard_line, make_token, tell_of_token
from trainables.runtime.errors import LONGEST_REASON, UserError, one_line
from trainables.runtime.memory import GIB
from trainables.tune.ray_compat import folder_of_session, gpus_here, listen_on_loopback_only, without_handlers

TRIES = 3  # to start Ray, which gives up after 30 s, whatever its settings


@contextlib.contextmanager
def ray_session(placement: Placement) -> Iterator[tuple[Placement, str | None]]:
    """A connection to Ray; yields `placement` with the GPUs of a trial as a number, and the dashboard's address."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    with contextlib.ExitStack() as held:
        try:
            with _interruptible():
                context = _start(held, placement) if placement.address is None else _connect(placement.address)
        except KeyboardInterrupt:
            ray.shutdown()
            raise
        except ray.exceptions.AuthenticationError as error:
            raise UserError(f"`RAY_AUTH_TOKEN_PATH` must be a file with Ray's token, got {one_line(error)}") from error
        held.callback(ray.shutdown)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        url = context.dashboard_url
        yield _with_gpus(placement), dashboard_line(f"http://{url}") if url else None


def refuse_missing_gpus(placement: Placement) -> None:
    """Raise UserError where trials are to have GPUs on this machine and it has none."""
    if placement.address is None and placement.gpus_per_trial and gpus_here() == 0:
        raise UserError(
            f"`--gpus-per-trial {placement.gpus_per_trial:g}`: Ray finds no GPU on this machine; use 0, or leave it out"
        )


def _start(held: contextlib.ExitStack, placement: Placement) -> Any:
    """Starts Ray on this machine, on 127.0.0.1 alone, with a token, in a private folder.

    On a busy machine it tries again. Raises UserError where Ray cannot start.
    """
    listen_on_loopback_only()
    if placement.memory_per_trial and sys.platform != "linux":
        print("warning: --memory-per-trial limits nothing on this system: it needs Linux or a GPU", file=sys.stderr)
    folder = held.enter_context(ray_folder())
    make_token()
    tries_left = TRIES
    while True:
        try:
            return ray.init(
                address="local",
                include_dashboard=placement.dashboard,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **folder_of_session(folder),
            )
        except (UserError, ray.exceptions.AuthenticationError):
            raise
        except Exception as error:  # Ray has no class of its own for this
            said, tries_left = last_errors(folder), tries_left - 1
            if tries_left and "timed out during startup" in str(error):
                print("warning: Ray has not started in time, as on a busy machine; starting it again", file=sys.stderr)
                end_processes(folder)
                continue
            raise UserError(
                f"Ray cannot start on this machine: {one_line(error)[:LONGEST_REASON]}{f' ({said})' if said else ''}"
            ) from error


def _connect(address: str) -> Any:
    """Connects to the cluster at `address`."""
    try:
        _reach(address)
        tell_of_token(address)
        return ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"`--address`: no Ray cluster can be reached at {address} ({str(error).strip().splitlines()[0]})"
        ) from error


def services_of_ray() -> dict[str, tuple[str, int]]:
    """Host and port of Ray's control store and of this machine's raylet; nothing through Ray's client (ray://)."""
    with contextlib.suppress(Exception):
        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        here = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        raylet = here["NodeManagerAddress"], int(here["NodeManagerPort"])
        return {"control store (gcs_server)": (host, int(port)), "raylet on this machine": raylet}
    return {}


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM in the block, where Ray starts, end it by KeyboardInterrupt.

    Ray would put a handler of its own in the place of that of SIGTERM. And what a handler raises while a process is
    being forked is lost, so a signal is noted too, and looked for at the end.
    """
    arrived: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with without_handlers():
            yield
        if arrived:
            raise KeyboardInterrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reach(address: str) -> None:
    """Raises OSError where nothing answers at host:port, for Ray itself would try for minutes, and ValueError for what
    is no address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local") or ("://" in address and not address.startswith("ray://")):
        return
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("an address is auto, local, HOST:PORT or ray://HOST:PORT, with a port from 1 to 65535")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _with_gpus(placement: Placement) -> Placement:
    """Decides the GPUs of a trial. A request that no node can meet would wait forever, so it is refused here."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most_gpus = max(node.get("GPU", 0.0) for node in nodes)
    placement = dataclasses.replace(placement, gpus_per_trial=gpu_share(placement.gpus_per_trial, most_gpus))
    if room(placement) < placement.workers_per_trial and placement.address is None:
        of_memory = f" and {placement.memory_per_trial:g} GiB" if placement.memory_per_trial else ""
        of_workers = f", {placement.workers_per_trial} times" if placement.workers_per_trial > 1 else ""
        raise UserError(
            f"`--cpus-per-trial` and `--gpus-per-trial` must fit one node, got {placement.cpus_per_trial:g} CPUs and "
            f"{placement.gpus:g} GPUs{of_memory}{of_workers} where a node has at most "
            f"{max(node.get('CPU', 0.0) for node in nodes):g} CPUs, {most_gpus:g} GPUs and "
            f"{max(node.get('memory', 0.0) for node in nodes) / GIB:.3g} GiB"
        )
    return placement


def room(placement: Placement) -> int:
    """How many workers of trials the cluster has room for at once, as it is now."""
    nodes, asked = [node["Resources"] for node in ray.nodes() if node["Alive"]], placement.resources().items()
    return sum(int(min(node.get(name, 0.0) // amount for name, amount in asked if amount)) for node in nodes)
