"""One sweep, run as the command that a user gives, and what can be done to it: the faults of tests/faults.py.

Whom to kill is found by process titles among the children of the driver and of the raylets, so no process of anybody
else is touched. Who is writing is found by the process id in the name of a temporary file of this sweep; it is
stopped (SIGSTOP) at once, so that the kill comes while the file is half there.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
import pyarrow.parquet as pq

from trainables.config import TrialConfig

SCRIPT = Path(__file__).resolve().parents[1] / "sweeps" / "batch_grid.py"
# Exit statuses after which --resume goes on; SIGTERM ends a driver that has not reached Ray yet in the usual way.
STILL_OPEN = {1, 3, 130, -signal.SIGKILL, -signal.SIGTERM}
PATIENCE = 900.0  # seconds that are waited for what has to come
LONGEST_PAUSE = 5.0  # seconds before a fault
TRIAL = re.compile(r"^ray::(TuneTrial|ParallelTrial)")
MEMBER = re.compile(r"^ray::_?RayTrainWorker")


class Nodes(Protocol):
    """The cluster that a sweep runs on, where it is not the driver's own."""

    address: str

    def raylets(self) -> list[int]: ...

    def lose_one(self, draw: random.Random) -> list[psutil.Process]: ...

    def add_one(self) -> None: ...


class Count:
    """What was done, and what came of it."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.repeated = 0.0  # seconds
        self.half_written = self.resumes = self.trials = self.lost = self.taken_up = 0

    def add(self, kind: str) -> None:
        self.done[kind] += 1
        print(f"  {kind}", flush=True)

    def complain(self, text: str) -> None:
        self.complaints.append(text)
        print(f"  NOT RIGHT: {text}", flush=True)


def heed_interruptions() -> None:
    """A shell starts its background processes with SIGINT ignored, which a sweep that they start would inherit."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def title(process: psutil.Process) -> str:
    """What the process calls itself; nothing where it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def is_trial(process: psutil.Process) -> bool:
    return TRIAL.match(title(process)) is not None


class Sweep:
    """A sweep in `folder` by `options` of batch_grid.py; its trials are known by their labels."""

    def __init__(
        self, folder: Path, options: Sequence[str], count: Count, by_label: dict[str, TrialConfig], nodes: Nodes | None
    ) -> None:
        self.folder, self.count, self.by_label, self.nodes = folder, count, by_label, nodes
        self.log = folder.with_name(f"{folder.name}.log")
        self.command = [sys.executable, str(SCRIPT), "--results", str(folder.parent), "--name", folder.name]
        self.command += ["--resume", "--no-dashboard", "--plain", "--checkpoint-seconds", "0", *options]
        self.starts = 0
        self.damaged: set[str] = set()  # trials whose checkpoint was damaged while there was one before
        self._start()

    def run(self, faults: list[str], away_seconds: float = 30.0) -> None:
        """Runs to the end; takes from the end of `faults` as many as there is time for."""
        try:
            while self._goes_on():
                if faults and self._is_time_for(faults[-1]):
                    fault = faults.pop()
                    self._disturb(fault, away_seconds)
                    if fault == "damage" and not self._damage():
                        faults.append(fault)  # the trials had just ended: once more
                elif not faults:
                    self.driver.wait(PATIENCE)
        finally:
            if self.driver.poll() is None:
                self.driver.kill()
                self.driver.wait()

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._read = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.driver = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        self.starts += 1

    def _goes_on(self) -> bool:
        """Whether there is a driver, started anew if need be; complains of an end without a reason in words."""
        status = self.driver.poll()
        if status is not None and status != 0:
            said = self.log.read_bytes()[self._read :].decode(errors="replace").strip().splitlines()
            if status not in STILL_OPEN or (status == 1 and not any(line.startswith("failed: ") for line in said)):
                self.count.complain(f"{self.log}: exit status {status}: {' '.join(said[-1:])}")
            if self.starts > 100:
                raise AssertionError(f"started 100 times without an end; see {self.log}")
            self._start()
        return status != 0

    def _is_time_for(self, fault: str) -> bool:
        """Waits for a random moment, and for what `fault` needs; returns whether there still is somebody to hurt."""
        until = time.monotonic() + self.count.draw.uniform(0, LONGEST_PAUSE)
        while self.driver.poll() is None:
            now = time.monotonic()
            if now > until + PATIENCE:
                raise AssertionError(f"no moment for {fault} in {PATIENCE:.0f} s; see {self.log}")
            if now > until and (
                fault in ("driver", "SIGTERM", "SIGINT")
                or (fault in ("worker", "writing", "node") and self._processes(TRIAL))
                or (fault in ("damage", "full", "away") and self._checkpoints())
                or (fault == "member" and self._processes(MEMBER) and self._checkpoints())
            ):
                return True
            time.sleep(0.05)
        return False

    def _processes(self, pattern: re.Pattern[str]) -> list[psutil.Process]:
        found = []
        for root in [self.driver.pid, *(self.nodes.raylets() if self.nodes else ())]:
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(root).children(recursive=True)
                found += [process for process in children if pattern.match(title(process))]
        return found

    def _checkpoints(self) -> list[Path]:
        return [file for file in self.folder.glob("checkpoints/*.pt") if not file.name.startswith("warm-start")]

    def _disturb(self, fault: str, away_seconds: float) -> None:
        draw = self.count.draw
        if fault in ("worker", "member"):
            victims = self._processes(MEMBER if fault == "member" else TRIAL)
            self._kill(fault, [draw.choice(victims)] if victims else [])
        elif fault == "writing":
            self._kill_while_writing()
        elif fault == "driver":
            self._kill(fault, [psutil.Process(self.driver.pid)])
        elif fault == "damage":  # a trial that went on would end, and take its checkpoint away
            self._kill("driver and workers", [psutil.Process(self.driver.pid), *self._processes(TRIAL)])
        elif fault == "node" and self.nodes:
            self._kill(fault, self.nodes.lose_one(draw))
            self.nodes.add_one()
        elif fault == "away":
            self._take_away(away_seconds)
        elif fault == "full":
            self._fill(min(10.0, away_seconds))
        else:
            self.count.add(fault)
            self.driver.send_signal(signal.Signals[fault])
            self._reap()

    def _kill(self, kind: str, victims: list[psutil.Process]) -> None:
        """SIGKILL for all of `victims`; the driver takes its Ray with it."""
        of_driver = any(victim.pid == self.driver.pid for victim in victims)
        workers = {process for process in victims if is_trial(process) or MEMBER.match(title(process))}
        if of_driver:
            workers.update(self._processes(TRIAL))
        self.count.repeated += sum(map(self._since_checkpoint, workers))
        for victim in victims:
            with contextlib.suppress(psutil.Error):
                victim.kill()
        if victims:
            self.count.add(kind)
        if of_driver:
            self._reap()
            psutil.wait_procs(workers, timeout=60)

    def _reap(self) -> None:
        try:
            self.driver.wait(PATIENCE / 5)
        except subprocess.TimeoutExpired:
            self.count.complain(f"{self.log}: the driver did not end in {PATIENCE / 5:.0f} s after its signal")
            self.driver.kill()
            self.driver.wait()

    def _since_checkpoint(self, worker: psutil.Process) -> float:
        """At most so many seconds of work are lost with `worker`; its title has the label of the trial."""
        label = re.search(r"\((.+)\)", title(worker))
        config = self.by_label.get(label[1]) if label else None
        with contextlib.suppress(psutil.Error, OSError):
            files = self._checkpoints() if config is None else self.folder.glob(f"checkpoints/{config.trial_id}.pt")
            begun: float = max([worker.create_time(), *(file.stat().st_mtime for file in files)])
            return max(0.0, time.time() - begun)
        return 0.0

    def _kill_while_writing(self, seconds: float = 10.0) -> None:
        """Kills the first who writes a file of the results from now on; a worker where nobody does."""
        until = time.monotonic() + seconds
        folders = [self.folder / "checkpoints", self.folder / "trials", self.folder]
        stale = {file.name for folder in folders for file in folder.glob(".*.tmp")}
        while time.monotonic() < until and self.driver.poll() is None:
            for folder in folders:
                with contextlib.suppress(OSError), os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.endswith(".tmp") and entry.name not in stale:
                            pid = int(entry.name.split(".")[-2])
                            os.kill(pid, signal.SIGSTOP)
                            is_there = (folder / entry.name).exists()
                            self.count.half_written += is_there
                            self._kill("while writing" if is_there else "worker", [psutil.Process(pid)])
                            return
        self._disturb("worker", 0.0)

    def _damage(self) -> bool:
        """Every newest checkpoint is cut short, or has one bit flipped; False where there is none."""
        files = self._checkpoints()
        for file in files:
            content = bytearray(file.read_bytes())
            place = self.count.draw.randrange(len(content))
            if self.count.draw.random() < 0.5:
                content = content[:place]
                self.count.add("checkpoint cut short")
            else:
                content[place] ^= 1 << self.count.draw.randrange(8)
                self.count.add("checkpoint with a flipped bit")
            file.write_bytes(content)
            if file.with_suffix(".previous").exists() and file.stem not in self._ended():
                self.damaged.add(file.stem)
        return bool(files)

    def _ended(self) -> set[str]:
        """The trials that have a record: one whose worker is killed right after it may have its checkpoint still."""
        ended = {file.stem for file in self.folder.glob("trials/[!.]*.json")}
        for table in self.folder.glob("trials.parquet"):  # none before the first record
            ended.update(pq.read_table(table, columns=["trial_id"])["trial_id"].to_pylist())
        return ended

    def _take_away(self, seconds: float) -> None:
        """The folder is elsewhere, and a file in its place, so that nobody makes it anew."""
        elsewhere = self.folder.with_name(f"{self.folder.name}-elsewhere")
        self.folder.rename(elsewhere)
        self.folder.touch()
        self.count.add(f"storage away for {seconds:g} s")
        time.sleep(seconds)
        self.folder.unlink()
        elsewhere.rename(self.folder)

    def _fill(self, seconds: float) -> None:
        """No byte is left on the disk."""
        filler = self.folder.parent / "filler"
        self.count.add(f"disk full for {seconds:g} s")
        until = time.monotonic() + seconds
        with filler.open("wb", buffering=0) as file:
            while time.monotonic() < until:
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * 4096):
                        pass
                time.sleep(0.05)
        filler.unlink()


class ThreeNodes:
    """A head without CPUs and two nodes of one CPU, all on 127.0.0.1; a node that is lost is replaced."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._settings: dict[str, Any] = {
            "node_ip_address": "127.0.0.1",
            "object_store_memory": 80 * 2**20,
            "include_dashboard": False,
        }
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **self._settings})
        for _ in range(2):
            self.add_one()
        self._cluster.wait_for_nodes()
        self.address = self._cluster.address

    def raylets(self) -> list[int]:
        return [self._raylet(node).pid for node in (self._cluster.head_node, *self._cluster.worker_nodes)]

    def lose_one(self, draw: random.Random) -> list[psutil.Process]:
        """The processes of one node that trains, to be killed."""
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: self._raylet(node).pid)
        busy = [node for node in nodes if any(map(is_trial, self._raylet(node).children(recursive=True)))]
        lost = draw.choice(busy or nodes)
        raylet = self._raylet(lost)
        with contextlib.suppress(psutil.Error):
            raylet.suspend()  # it shall start nothing more
        processes = [psutil.Process(part.process.pid) for parts in lost.all_processes.values() for part in parts]
        processes += raylet.children(recursive=True)
        self._cluster.worker_nodes.remove(lost)
        return processes

    def add_one(self) -> None:
        self._cluster.add_node(num_cpus=1, wait=False, **self._settings)

    def shutdown(self) -> None:
        self._cluster.shutdown()

    @staticmethod
    def _raylet(node: Any) -> psutil.Process:
        return psutil.Process(node.all_processes["raylet"][0].process.pid)
