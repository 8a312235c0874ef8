"""Whether the results folder is one place for all nodes, asked before the first trial.

A folder that is shared with some nodes only is found out late otherwise: trials end well, and their records are on a
machine that nobody looks at. So the driver leaves a probe, every other node reads it and leaves one of its own, and
the driver looks for that. Nodes that join later start with a trial, which fails where it cannot leave its record.
"""

import contextlib
import uuid

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath, place, write_atomically
from trainables.storage.remote_path import RemotePath

ANSWER_SECONDS = 120.0  # a node may have to start a worker, which imports Ray


def check_shared(folder: AnyPath) -> None:
    """Raises UserError, naming the node, where a node cannot read and write in `folder` what the driver can."""
    here = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here}
    probe = folder / f".probe-{uuid.uuid4().hex[:12]}"
    answers = {node_id: folder / f"{probe.name}-{node_id[:12]}" for node_id in nodes}
    try:
        write_atomically(probe, probe.name.encode())
        asked = {
            node_id: _answer.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(
                str(folder), probe.name, answer.name
            )
            for node_id, answer in answers.items()
        }
        if asked:
            ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_SECONDS)
        for node_id, reference in asked.items():
            reason = _reason(reference, answers[node_id])
            if reason is not None:
                remote = isinstance(folder, RemotePath)
                way_out = "see its credentials and network" if remote else "mount it there, or give a URI"
                node = f"{nodes[node_id]['NodeManagerAddress']} ({nodes[node_id]['NodeManagerHostname']})"
                raise UserError(
                    f"`results` must be storage that all nodes share, got {folder}: node {node} {reason}; {way_out}"
                )
    finally:
        for file in (probe, *answers.values()):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def _reason(reference: "ray.ObjectRef[str | None]", answer: AnyPath) -> str | None:
    """Why a node failed; None where it did not."""
    try:
        reason = ray.get(reference, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"did not answer in {ANSWER_SECONDS:.0f} s"
    except ray.exceptions.RayError as error:
        return f"could not be asked ({str(error).strip().splitlines()[-1]})"
    if reason is None and not answer.exists():
        return "writes to a place of its own"
    return str(reason) if reason is not None else None


@ray.remote(num_cpus=0, max_retries=1)  # type: ignore[untyped-decorator]
def _answer(folder: str, probe: str, answer: str) -> str | None:
    """Run on a node: reads the driver's probe and leaves the answer; returns why that failed, in words, or None."""
    there = place(folder)
    try:
        if (there / probe).read_bytes() != probe.encode():
            return "reads something else there"
    except FileNotFoundError:
        return "does not see there what the driver wrote"
    except OSError as error:
        return f"cannot read there ({error.strerror or error})"
    try:
        write_atomically(there / answer, b"")
    except OSError as error:
        return f"cannot write there ({error.strerror or error})"
    return None
