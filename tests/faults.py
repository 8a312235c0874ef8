"""Kills a sweep wherever it can, and looks whether anything is lost: `python tests/faults.py --kills 200`.

The same small sweep runs again and again while this script, at moments drawn from a seed,

    kills with SIGKILL  a worker; whoever writes a file, at that moment; the driver; a node of a cluster of three
                        (its raylet and all that this has started); a worker of a data-parallel trial
    stops               the driver, by SIGTERM and SIGINT
    damages             every newest checkpoint, cut short or with a flipped bit, after killing the driver and the
                        workers at once, as a machine that loses its power does
    takes away          the results folder for `--away` seconds, or all space on its disk (a tmpfs, so only as root)

What ends early goes on with `--resume`. At the end every trial must be there once, and all three tables bit-identical
to those of an undisturbed run, but for times, the place and the epoch where a trial was taken up again. That run is
made in this process, one trial after the other; for data-parallel trials, whose sums are ordered otherwise, it is an
undisturbed sweep. No temporary file, checkpoint or record may be left over, and a driver that fails must say why in a
line. Exit status 1 where any of this does not hold.

Repeated work is counted from a killed worker's last checkpoint, or its start where it has none: an upper bound.
"""

import argparse
import contextlib
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the project
    sys.path.insert(1, str(Path(__file__).resolve().parent))  # and this folder
    # Read by Ray when it is imported; the last is its way to keep all services, and the nodes, on 127.0.0.1.
    os.environ.update(RAY_AUTH_MODE="token", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")

import pyarrow.parquet as pq
from disturbed import Count, Nodes, Sweep, ThreeNodes, heed_interruptions

from sweeps.cli.options import parse
from sweeps.plan.grid import expand
from sweeps.studies.study import grid_of
from trainables.data import load_source
from trainables.records.schemas import SCHEMAS
from trainables.records.tables import compact, write_record
from trainables.runtime.process import prepare_process
from trainables.storage.folders import AnyPath
from trainables.trial import run_trial

EACH = ("--batch-sizes", "8", "--learning-rates", "0.001", "--warmup-epochs", "0", "--model-options", "widths=32")
MEMBERS = (*EACH, "--workers-per-trial", "2", "--switch-epochs", "none", "--seeds", "0", "1", "--epochs", "100")


def axes(epochs: int) -> tuple[str, ...]:
    """Six trials of so many epochs; three switch to a larger batch, so that they take less time than the others."""
    switches = ("--switch-epochs", "none", str(3 * epochs // 10), "--switch-batch-size", "64")
    return (*EACH, *switches, "--seeds", "0", "1", "2", "--epochs", str(epochs))


KINDS = ("machine", "disk", "nodes", "members")
OF_MACHINE = ("worker", "writing", "worker", "driver", "writing", "SIGTERM", "worker", "SIGINT")
NOT_COMPARED = {
    "seconds", "train_seconds", "sharpness_seconds", "finished_at", "resumed_epoch", "host", "ray_version",
}  # fmt: skip

Numbers = dict[str, list[str]]


def plan(kills: int, kinds: Sequence[str], draw: random.Random) -> dict[str, list[str]]:
    """The faults of each kind of sweep: an eighth of the kills are nodes, a tenth workers of data-parallel trials."""
    nodes = max(1, kills // 8) if "nodes" in kinds else 0
    members = max(1, kills // 10) if "members" in kinds else 0
    of_machine = [OF_MACHINE[place % len(OF_MACHINE)] for place in range(kills - nodes - members)]
    of_machine += ["damage"] * max(1, kills // 20) + ["away"]
    draw.shuffle(of_machine)
    every = {"machine": of_machine, "disk": ["full"], "nodes": ["node"] * nodes, "members": ["member"] * members}
    return {kind: every[kind] for kind in kinds}


def numbers(folder: AnyPath) -> Numbers:
    """The rows of the three tables, sorted, without what may differ."""
    found = {}
    for table in SCHEMAS:
        rows = pq.read_table(folder / f"{table}.parquet").to_pylist()
        kept = [{name: value for name, value in row.items() if name not in NOT_COMPARED} for row in rows]
        found[table] = sorted(json.dumps(row, sort_keys=True) for row in kept)
    return found


class Faults:
    """All sweeps of one run of this script, in `folder`."""

    def __init__(self, folder: Path, seed: int, away_seconds: float, epochs: int) -> None:
        self.folder, self.away_seconds, self.axes = folder, away_seconds, axes(epochs)
        self.count = Count(seed)
        source = load_source("digits")
        configs = expand(grid_of(parse(self.axes), source), source)
        self.by_label = {config.label: config for config in configs}
        prepare_process(1)
        calm = folder / "undisturbed"
        (calm / "trials").mkdir(parents=True)
        for config in configs:
            write_record(calm, run_trial(config, source))
        compact(calm)
        self.expected = numbers(calm)

    def machine(self, faults: list[str]) -> None:
        self._disturb("machine", faults, self.axes, self.expected)

    def disk(self, faults: list[str]) -> None:
        with small_disk(self.folder / "disk") as is_small:
            if is_small:
                self._disturb("disk/full", faults, self.axes, self.expected)
            else:
                print("full disk: left out, for only root can mount a tmpfs")

    def nodes(self, faults: list[str]) -> None:
        nodes = ThreeNodes()
        try:
            self._disturb("nodes", faults, [*self.axes, "--address", nodes.address], self.expected, nodes)
        finally:
            nodes.shutdown()

    def members(self, faults: list[str]) -> None:
        calm = self.folder / "members-undisturbed"
        Sweep(calm, MEMBERS, self.count, self.by_label, None).run([])
        self._disturb("members", faults, MEMBERS, numbers(calm))

    def _disturb(
        self, name: str, faults: list[str], options: Sequence[str], expected: Numbers, nodes: Nodes | None = None
    ) -> None:
        """As many sweeps as `faults` need; the moment of a fault may come after the end of a sweep."""
        place = undisturbed = 0
        while faults:
            place, before = place + 1, len(faults)
            print(f"{name} {place}: {before} faults to come", flush=True)
            sweep = Sweep(self.folder / f"{name}-{place}", options, self.count, self.by_label, nodes)
            sweep.run(faults, self.away_seconds)
            self.count.resumes += sweep.starts - 1
            self._check(sweep, expected)
            undisturbed = undisturbed + 1 if len(faults) == before else 0
            if undisturbed == 3:
                raise AssertionError(f"three sweeps ended before their first fault; see {sweep.log}")

    def _check(self, sweep: Sweep, expected: Numbers) -> None:
        """Nothing lost, nothing doubled, nothing changed, nothing left over."""
        found, count, complain = numbers(sweep.folder), self.count, self.count.complain
        known, wanted = ({json.loads(row)["trial_id"] for row in rows["trials"]} for rows in (found, expected))
        count.trials += len(wanted)
        count.lost += len(wanted - known)
        for table, rows in expected.items():
            if rows != found[table]:
                different = len(set(rows) ^ set(found[table]))
                complain(f"{sweep.folder}: {table} has {len(found[table])} rows of {len(rows)}, {different} differ")
        left = [file for part in ("trials", "checkpoints") for file in (sweep.folder / part).iterdir()]
        left += sweep.folder.rglob(".*.tmp")
        if left:
            complain(f"{sweep.folder}: left over: {', '.join(sorted({file.name for file in left}))}")
        resumed = pq.read_table(sweep.folder / "trials.parquet", columns=["trial_id", "resumed_epoch"]).to_pylist()
        count.taken_up += sum(row["resumed_epoch"] is not None for row in resumed)
        afresh = sweep.damaged & {row["trial_id"] for row in resumed if row["resumed_epoch"] is None}
        if afresh:
            complain(f"{sweep.folder}: the checkpoint before the damaged one was not used by {', '.join(afresh)}")

    def report(self, seconds: float) -> None:
        count = self.count
        print()
        for kind, times in sorted(count.done.items()):
            print(f"{times:6d}  {kind}")
        print(f"{count.resumes:6d}  times --resume")
        print(f"{count.taken_up:6d}  trials went on from a checkpoint")
        print(f"{count.lost:6d}  of {count.trials} trials lost")
        print(f"{count.repeated:6.0f}  seconds of work repeated, in {seconds:.0f} s")
        print("\n".join(count.complaints) or "every row is there once, with the numbers of an undisturbed run")


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int = 16) -> Iterator[bool]:
    """A tmpfs at `folder`; False where there is no right to mount one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def main(arguments: list[str]) -> int:
    heed_interruptions()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="and signals (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments and the victims")
    parser.add_argument("--away", type=float, default=30.0, metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=1000, metavar="N", help="of each trial (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="kinds of sweeps (default: all)")
    parser.add_argument("--folder", type=Path, help="is kept, with the drivers' output (default: a temporary one)")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        folder.mkdir(parents=True, exist_ok=True)
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        faults = Faults(folder.absolute(), options.seed, options.away, options.epochs)
        for kind, these in plan(options.kills, options.only, faults.count.draw).items():
            getattr(faults, kind)(these)
        faults.report(time.monotonic() - begun)
    return 1 if faults.count.complaints or faults.count.lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
