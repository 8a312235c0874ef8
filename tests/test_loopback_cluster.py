"""cluster.yaml brought up for real: `ray up` by SSH on two loopback addresses, the documented sweep, `ray down`.

Its text runs as it stands, but for what only AWS has: provider, node types, user, key, boto3, and Ray's port, which
may be in use here. A node is an sshd with a home folder of its own. What a fresh machine in the cloud has and this one
has not is stood in for by a few commands at the front of the nodes' PATH: `sudo` installs nothing and links what it
would mount, `python3 -m venv` sees this interpreter's packages, `pip` keeps to them, `curl` answers as AWS does, `ssh`
knows the port, and `ray` adds the addresses and resources of a node. Its `ray stop` ends the processes of that node
alone: Ray's own, which `ray down` calls too, ends every Ray of the machine by name.
"""

import contextlib
import copy
import getpass
import json
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from sweeps.plan.grid import Grid, expand
from trainables.data import Source
from trainables.trial import run_trial

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()
RAW: dict[str, Any] = yaml.safe_load(TEXT)
NODES = {"head": "127.0.0.2", "gpu_worker": "127.0.0.3"}  # by their name in cluster.yaml; Ray rewrites 127.0.0.1
OF_AWS = {"cluster_name", "provider", "auth", "available_node_types", "head_node_type"}
PATIENCE = 600
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
GRID: dict[str, Any] = {
    "batch_sizes": [300],
    "learning_rates": [0.01],
    "switch_epochs": [None],
    "seeds": [0, 1, 2, 3],
    "epochs": 3,
    "model_options": {"widths": 16},
}
SMALL = (  # the same on the command line
    "--batch-sizes 300 --learning-rates 0.01 --warmup-epochs 0 --switch-epochs none --seeds 0 1 2 3 --epochs 3 "
    "--model-options widths=16"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SSHD and shutil.which("rsync") and shutil.which("ssh-keygen")),
        reason="needs an SSH server and rsync: apt-get install openssh-server rsync",
    ),
]


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


class Loopback:
    """Two nodes of this machine behind SSH, and a laptop, each with a home folder in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ssh_port, self.ray_port, self.dashboard_port = free_port(), free_port(), free_port()
        self.yaml = folder / "cluster.yaml"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "HOME": str(self.home("laptop")),
            "PATH": f"{folder}/laptop/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TMPDIR": str(folder),
            "RAY_TMPDIR": str(folder / "ray"),
            "RAY_UP_enable_autoscaler_v2": "0",  # v2 never starts a node of the `local` provider (Ray 2.60)
        }

    def home(self, name: str) -> Path:
        return self.folder / name

    def build(self) -> None:
        for part in ("ray", "laptop/.ray", *NODES):
            (self.folder / part).mkdir(parents=True)
        for key in ("host_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key)]
            subprocess.run(command, check=True)
        (self.folder / "ssh_config").write_text(f"Host *\n  Port {self.ssh_port}\n")
        ssh = f"exec {shutil.which('ssh')} -F {self.folder}/ssh_config"
        script(self.folder / "laptop/bin/ssh", f'{ssh} "$@"\n')
        # The head reaches its workers by SSH too, with the key that Ray has put there; ssh itself ignores $HOME.
        script(self.folder / "bin/ssh", f'{ssh} -i ~/ray_bootstrap_key.pem "$@"\n')
        script(self.folder / "bin/sudo", SUDO.format(shared=self.home("head") / "results"))
        script(self.folder / "bin/curl", "echo ami-0123456789abcdef0\n")
        script(self.folder / "bin/python3", VENV.format(python=sys.executable, here=sysconfig.get_path("purelib")))
        first_port = random.Random().randrange(20000, 31000, 200)
        for place, name in enumerate(NODES):
            (self.home(name) / "bin").mkdir()
            (self.home(name) / "bin/stop.py").write_text(STOP)
            script(self.home(name) / "bin/ray", RAY.format(flags=self._flags(name, first_port + 100 * place)))
            (self.home(name) / ".bash_profile").write_text(f"export PATH=~/bin:{self.folder}/bin:$PATH\n. ~/.bashrc\n")
            (self.home(name) / ".bashrc").touch()
        for file in RAW["cluster_synced_files"]:  # Ray writes `~` out on the head; elsewhere all nodes' homes are alike
            name = Path(file).name
            (self.home("gpu_worker") / name).symlink_to(self.home("head") / name)
        self.yaml.write_text(yaml.safe_dump(self.derived()))

    def _flags(self, name: str, first_port: int) -> str:
        """What tells two nodes of one machine apart, and their resources in cluster.yaml."""
        resources = RAW["available_node_types"][name]["resources"]
        flags = {
            "node-ip-address": NODES[name],
            "num-cpus": resources["CPU"],
            "num-gpus": resources.get("GPU", 0),
            "object-store-memory": 100 * 2**20,
            "min-worker-port": first_port,
            "max-worker-port": first_port + 99,
            "dashboard-agent-listen-port": free_port(),
        }
        if name == RAW["head_node_type"]:
            flags |= {"dashboard-port": self.dashboard_port, "ray-client-server-port": free_port()}
        return " ".join(f"--{flag}={value}" for flag, value in flags.items())

    def derived(self) -> dict[str, Any]:
        """cluster.yaml for these nodes."""
        config = {part: copy.deepcopy(value) for part, value in RAW.items() if part not in OF_AWS}
        for part in config:
            if part.endswith("_commands"):
                config[part] = [
                    command.replace("6379", str(self.ray_port)).replace(" boto3", "") for command in config[part]
                ]
        config["cluster_name"] = self.folder.name
        config["provider"] = {"type": "local", "head_ip": NODES["head"], "worker_ips": [NODES["gpu_worker"]]}
        config["auth"] = {"ssh_user": getpass.getuser(), "ssh_private_key": str(self.folder / "user_key")}
        return config

    def sshd(self, name: str) -> subprocess.Popen[bytes]:
        settings = self.folder / f"sshd_{name}"
        settings.write_text(
            f"ListenAddress {NODES[name]}:{self.ssh_port}\nHostKey {self.folder}/host_key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/user_key.pub\nStrictModes no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            f"SetEnv HOME={self.home(name)} RAY_TMPDIR={self.folder}/ray TMPDIR={self.folder}\n"
        )
        return subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(settings)], stderr=subprocess.DEVNULL)

    def on_laptop(self, *command: str) -> str:
        result = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr

    def stop_worker(self) -> None:
        """`ray down` leaves Ray on the workers of this provider; in a cloud the machine goes, and Ray with it."""
        options = f"-i {self.folder}/user_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null".split()
        worker = f"{getpass.getuser()}@{NODES['gpu_worker']}"
        self.on_laptop("ssh", *options, worker, "bash --login -c 'ray stop'")
        for process in self.processes():  # that watch for a lost head
            if ".head-watch" in " ".join(process.cmdline()) or "shutdown" in " ".join(process.cmdline()):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """All that runs on the nodes, by the home folder in its environment."""
        homes = {str(self.home(name)) for name in NODES}
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") in homes:
                    found.append(process)
            except psutil.Error:
                continue
        return found


SUDO = """\
echo "$@" >> ~/sudo.log
for last; do :; done
case $1 in
  tee) cat > ~/exports ;;
  mount) rmdir "$last" && ln -s {shared} "$last" ;;
esac
"""

VENV = """\
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
{python} "$@" --without-pip
echo {here} > "$(echo "$3"/lib/python*/site-packages)/here.pth"
cat > "$3/bin/pip" << 'END'
#!/bin/sh
[ "$1" = install ] && set -- "$@" --no-index --no-deps --no-build-isolation
exec ~/venv/bin/python -m pip --disable-pip-version-check "$@"
END
chmod +x "$3/bin/pip"
"""

RAY = """\
case $1 in
  start) set -- "$@" {flags} ;;
  stop) exec ~/venv/bin/python ~/bin/stop.py ;;
esac
exec ~/venv/bin/python -c 'from ray.scripts.scripts import main; main()' "$@"
"""

STOP = """\
import os, psutil
me = psutil.Process()
spared = {me.pid, *(parent.pid for parent in me.parents())}
for process in psutil.process_iter():
    try:
        if process.pid not in spared and process.environ().get("HOME") == os.environ["HOME"]:
            process.kill()
    except psutil.Error:
        pass
"""


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    folder = Path(tempfile.mkdtemp(prefix="ray-up-", dir="/tmp"))  # short: Ray's sockets allow no long paths
    nodes = Loopback(folder)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        nodes.build()
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own demand
        servers += [nodes.sshd(name) for name in NODES]
        yield nodes
    finally:
        for process in nodes.processes():
            process.kill()
        for server in servers:
            server.terminate()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def documented(start: str) -> str:
    """The command in the first lines of cluster.yaml that starts so."""
    lines = re.sub(r"\\\n#\s+(?=')", "", TEXT.split("cluster_name:")[0])
    (line,) = re.findall(rf"^#\s+(?:.*: `)?({re.escape(start)}.*?)(?:\s+# .*)?$", lines, re.MULTILINE)
    return str(line)


def test_only_what_is_of_aws_differs(loopback: Loopback) -> None:
    derived = yaml.safe_load(loopback.yaml.read_text())
    assert set(RAW) - set(derived) == {"available_node_types", "head_node_type"}
    changed = []
    for part in set(RAW) - OF_AWS:
        if not part.endswith("_commands"):
            assert derived[part] == RAW[part]
            continue
        changed += [old for old, new in zip(RAW[part], derived[part], strict=True) if old != new]
    assert len(changed) == 3  # pip with boto3, the start of Ray on the head and on workers
    assert all("boto3" in command or "ray start" in command for command in changed)


def test_ray_up_a_sweep_and_ray_down(loopback: Loopback, digits: Source, tmp_path: Path) -> None:
    loopback.on_laptop("bash", "-c", documented("(umask 077; ray get-auth-token"))
    bystander = tmp_path / "raylet"  # what Ray's own `ray stop` would end by its name
    shutil.copy(str(shutil.which("sleep")), bystander)
    with subprocess.Popen([str(bystander), "3600"]) as raylet_of_others:
        try:
            seconds = {}
            begun = time.monotonic()
            up = documented("ray up cluster.yaml").replace("cluster.yaml", str(loopback.yaml)).split()
            loopback.on_laptop(*up, "--yes", "--no-config-cache")
            seconds["up"] = time.monotonic() - begun

            command = documented("ray exec cluster.yaml --tmux").split("'")[1]
            assert "--address auto" in command
            assert "--gpus-per-trial 0.25" in command
            begun = time.monotonic()
            output = loopback.on_laptop("ray", "exec", str(loopback.yaml), f"{command} {SMALL}")
            seconds["sweep"] = time.monotonic() - begun
            assert "4 trials" in output
            check_numbers(loopback.home("head") / "results/batch_grid", digits)
            check_security(loopback)

            fetched = tmp_path / "results"
            fetch = documented("ray rsync-down").replace("cluster.yaml", str(loopback.yaml)).replace("'", "").split()
            loopback.on_laptop(*fetch[:-1], f"{fetched}/")
            check_numbers(fetched / "batch_grid", digits)

            begun = time.monotonic()
            loopback.on_laptop("ray", "down", str(loopback.yaml), "--yes")
            seconds["down"] = time.monotonic() - begun
            loopback.stop_worker()
            _, left = psutil.wait_procs(loopback.processes(), timeout=60)
            assert not [process for process in left if "ssh" not in process.name()]
            assert raylet_of_others.poll() is None
            assert (loopback.home("head") / "results/batch_grid/trials.parquet").exists()
            print(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
        finally:
            raylet_of_others.kill()


def check_numbers(folder: Path, source: Source) -> None:
    """Every trial is there once, with the numbers that it has in this process."""
    rows = pq.read_table(folder / "trials.parquet").to_pylist()
    configs = {config.trial_id: config for config in expand(Grid(**GRID), source)}
    assert sorted(row["trial_id"] for row in rows) == sorted(configs)
    for row in rows:
        assert row["status"] == "completed", row["error"]
        expected = run_trial(configs[row["trial_id"]], source).trial
        for name in ("train_loss", "test_loss", "test_accuracy", "box_sharpness", "hessian_max_eig"):
            assert row[name] == expected[name]


def check_security(loopback: Loopback) -> None:
    """The token is for its owner's eyes, Ray asks for it, and the dashboard listens on the head alone."""
    tokens = [loopback.home(name) / ".ray/auth_token" for name in ("laptop", *NODES)]
    assert {stat.S_IMODE(token.stat().st_mode) for token in tokens} == {0o600}
    assert len({token.read_text() for token in tokens}) == 1
    address = f"http://127.0.0.1:{loopback.dashboard_port}/api/cluster_status"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(address, timeout=60)
    assert refused.value.code == 401
    allowed = urllib.request.Request(address, headers={"Authorization": f"Bearer {tokens[0].read_text().strip()}"})
    with urllib.request.urlopen(allowed, timeout=60) as answer:
        assert json.load(answer)["result"] is True
    stranger = {**loopback.environment, "RAY_AUTH_MODE": "disabled"}
    code = f"import ray; ray.init('{NODES['head']}:{loopback.ray_port}', log_to_driver=False)"
    refused_client = subprocess.run(
        [sys.executable, "-c", code], env=stranger, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert refused_client.returncode != 0
    assert "token" in refused_client.stderr.lower()

    listening: dict[int, set[str]] = {}
    for process in loopback.processes():
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    listening.setdefault(connection.laddr.port, set()).add(connection.laddr.ip)
    assert listening[loopback.dashboard_port] == {"127.0.0.1"}
    print("listening:", dict(sorted(listening.items())))
