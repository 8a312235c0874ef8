"""cluster.yaml, checked without a cloud: by Ray's own schema, and for what that schema lets pass.

Ray's schema rejects misspelt keys but not a missing source, an open port, or more workers at least than at
most. AWS itself is out of reach here: that the image, the prices and the quota are as stated is not tested.
"""

import copy
import fnmatch
import json
import os
import re
import shlex
import socket
import subprocess
import time
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()
RAW: dict[str, Any] = yaml.safe_load(TEXT)
PREPARED: dict[str, Any] = prepare_config(copy.deepcopy(RAW))  # the common setup commands are merged in here
TOKEN = "~/.ray/auth_token"
NODE_TYPES: dict[str, dict[str, Any]] = PREPARED["available_node_types"]
HEAD = NODE_TYPES[PREPARED["head_node_type"]]
WORKERS = [node for name, node in NODE_TYPES.items() if name != PREPARED["head_node_type"]]
COMMANDS = [
    pytest.param(command, id=f"{part}-{number}")
    for part in RAW
    if part.endswith("_commands")
    for number, command in enumerate(RAW[part])
]


def commands_of(kind: str) -> list[str]:
    """All that Ray runs on a node of this kind, in its order."""
    merged: list[str] = PREPARED[f"{kind}_setup_commands"] + PREPARED[f"{kind}_start_ray_commands"]
    return merged


def index_of(pattern: str, commands: list[str]) -> int:
    """The place of the only command in which the pattern occurs."""
    places = [place for place, command in enumerate(commands) if re.search(pattern, command)]
    assert len(places) == 1, f"{pattern!r} must be in one of {commands}, found in {len(places)}"
    return places[0]


def test_a_worker_ends_itself_once_its_head_is_lost(tmp_path: Path) -> None:
    """Not while the head answers; with stand-ins for `sleep` and `sudo`."""
    commands: list[str] = RAW["worker_start_ray_commands"]
    watch = commands[index_of("head-watch", commands)]
    (tmp_path / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 0.05\n")
    (tmp_path / "sudo").write_text('#!/bin/sh\necho "$@" >> ~/sudo.log\n')
    for name in ("sleep", "sudo"):
        (tmp_path / name).chmod(0o700)
    with socket.create_server(("127.0.0.1", 0)) as head:
        environment = {
            **os.environ,
            "HOME": str(tmp_path),
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "RAY_HEAD_IP": "127.0.0.1",
        }
        command = watch.replace("6379", str(head.getsockname()[1]))
        for _ in range(2):  # Ray runs the commands again when it starts a node again: one watch is enough
            subprocess.run(["bash", "-c", command], env=environment, check=True, timeout=60)
        time.sleep(3)
        assert not (tmp_path / "sudo.log").exists()
    deadline = time.monotonic() + 120
    while not (tmp_path / "sudo.log").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (tmp_path / "sudo.log").read_text() == "shutdown -h now\n"


def test_ray_accepts_the_file() -> None:
    validate_config(PREPARED)


@pytest.mark.parametrize(
    "path", [("idle_timeout_minutes",), ("available_node_types", "head", "resources"), ("auth", "ssh_user")]
)
def test_ray_rejects_a_misspelt_key(path: tuple[str, ...]) -> None:
    broken = copy.deepcopy(PREPARED)
    parent = broken
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1] + "x"] = parent.pop(path[-1])
    with pytest.raises(Exception, match=path[-1]):
        validate_config(broken)


def test_every_mounted_file_exists_or_is_made_by_a_documented_step() -> None:
    for source in RAW["file_mounts"].values():
        if source == TOKEN:
            assert "ray get-auth-token --generate" in TEXT
            assert "chmod 600 ~/.ray/auth_token" in TEXT.split("cluster_name:")[0]
        else:
            assert (ROOT / source).exists(), f"{source} is mounted, but missing: `ray up` would fail"


def test_what_the_installation_needs_is_mounted() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    needed = {
        "pyproject.toml",
        settings["project"]["readme"],
        *settings["project"]["license-files"],
        *(package.rstrip("*") for package in packages),
    }
    mounts = RAW["file_mounts"]
    assert needed <= {source for target, source in mounts.items() if target == f"~/sweep/{source}"}


def test_only_named_parts_of_the_folder_are_sent() -> None:
    sources = {Path(source).name for source in RAW["file_mounts"].values()}
    assert not sources & {"", ".", "..", ".git", ".venv", "venv", "results"}
    assert {".git", ".venv", "__pycache__"} <= set(RAW["rsync_exclude"])


@pytest.mark.parametrize(
    "name",
    [
        "results",
        "auth_token",
        "sweep-versions.txt",
        "ray-bootstrap-k2v0x1",  # Ray's copy of the configuration for the head
        "ray-autoscaler_us-west-2.pem",  # and its key to the workers
    ],
)
def test_the_excludes_leave_alone_what_must_travel(name: str) -> None:
    """rsync applies an exclude also to a file that is named: `*.pem` would keep Ray's key from the head."""
    assert not [pattern for pattern in RAW["rsync_exclude"] if fnmatch.fnmatch(name, pattern.strip("/"))]


def test_workers_scale_from_zero_and_back() -> None:
    assert WORKERS
    assert 0 < PREPARED["idle_timeout_minutes"] <= 30
    assert PREPARED["provider"]["cache_stopped_nodes"] is False
    for worker in WORKERS:
        assert worker["min_workers"] == 0 < worker["max_workers"] <= PREPARED["max_workers"] <= 8
    assert HEAD["max_workers"] == 0


def test_gpus_and_spot_are_for_workers_only() -> None:
    gpu_instance = re.compile(r"(g\d|p\d)\w*\.")
    assert HEAD["resources"] == {"CPU": 0}
    assert not gpu_instance.match(HEAD["node_config"]["InstanceType"])
    assert "InstanceMarketOptions" not in HEAD["node_config"]
    for worker in WORKERS:
        assert worker["resources"]["GPU"] >= 1
        assert gpu_instance.match(worker["node_config"]["InstanceType"])
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_the_stated_cost_adds_up() -> None:
    lines = re.findall(r"^# +(\d+) x ([\d.]+) = ([\d.]+) ", TEXT, re.MULTILINE)
    items = [(int(count), float(price), float(product)) for count, price, product in lines]
    stated = re.search(r"at most ([\d.]+) in all; ([\d.]+) with no worker", TEXT)
    assert stated
    for count, price, product in items:
        assert count * price == pytest.approx(product)
    assert sum(product for _, _, product in items) == pytest.approx(float(stated[1]))
    nodes = PREPARED["max_workers"] + 1
    markets = [node["node_config"]["InstanceMarketOptions"] for node in WORKERS]
    assert [count for count, _, _ in items] == [nodes - 1, 1, nodes, nodes]
    assert items[0][1] == pytest.approx(max(float(market["SpotOptions"]["MaxPrice"]) for market in markets))
    assert sum(price for _, price, _ in items[1:]) == pytest.approx(float(stated[2]))


def test_no_port_is_opened_but_ssh() -> None:
    for rule in PREPARED["provider"]["security_group"]["IpPermissions"]:
        assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 22, 22)
    for node in NODE_TYPES.values():
        assert not {"SecurityGroupIds", "NetworkInterfaces", "LaunchTemplate"} & set(node["node_config"])


def test_the_dashboard_listens_on_the_head_only() -> None:
    everything = "\n".join(commands_of("head") + commands_of("worker"))
    assert re.findall(r"--dashboard-host[= ](\S+)", everything) == ["127.0.0.1"]
    assert "0.0.0.0" not in everything


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_ray_starts_with_the_shared_token(kind: str) -> None:
    commands = commands_of(kind)
    assert "RAY_AUTH_MODE=token ray start " in commands[index_of(r"\bray start\b", commands)]
    assert RAW["file_mounts"][TOKEN] == TOKEN
    assert index_of(r"^chmod 600 ~/\.ray/auth_token$", commands) < index_of(r"\bray start\b", commands)


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_the_project_is_installed_before_ray_starts_from_that_environment(kind: str) -> None:
    commands = commands_of(kind)
    order = [r"-m venv ~/venv", r"~/venv/bin/pip install .*-e ~/sweep\b", r"\bray stop\b", r"\bray start\b"]
    assert [index_of(step, commands) for step in order] == sorted(index_of(step, commands) for step in order)
    assert "export PATH=$HOME/venv/bin:$PATH" in commands[index_of(r"> ~/\.sweep-env", commands)]
    assert "~/.sweep-env' >> ~/.bashrc" in commands[index_of(r"~/\.bashrc", commands)]


def test_the_head_installs_the_versions_that_the_tests_passed_on() -> None:
    assert "-c ~/sweep/constraints.txt" in commands_of("head")[index_of("pip install", commands_of("head"))]
    assert RAW["file_mounts"]["~/sweep/constraints.txt"] == "constraints.txt"


def test_workers_install_the_versions_of_the_head() -> None:
    (versions,) = RAW["cluster_synced_files"]
    head, workers = commands_of("head"), commands_of("worker")
    assert index_of("pip install", head) < index_of(f"pip freeze .*> {re.escape(versions)}$", head)
    assert workers[index_of("pip install", workers)].endswith(f"-c {versions}")


def test_results_are_one_place_on_all_nodes() -> None:
    assert "$HOME/results " in RAW["head_setup_commands"][index_of("exportfs", RAW["head_setup_commands"])]
    mount = RAW["worker_setup_commands"][index_of("mount -t nfs4", RAW["worker_setup_commands"])]
    assert "$RAY_HEAD_IP:$HOME/results ~/results" in mount
    assert "--results ~/results" in TEXT


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_valid_shell(command: str) -> None:
    inner = [word for before, word in pairwise(shlex.split(command)) if before == "-c" and " " in word]
    for script in [command, *inner]:  # a script quoted for `bash -c` is only a word to the outer shell
        subprocess.run(["bash", "-n", "-c", f"({script})"], check=True, capture_output=True)


def test_workers_get_the_image_of_the_head(tmp_path: Path) -> None:
    """The rewrite of the configuration on the head changes the images and nothing else, itself included."""
    curl = tmp_path / "curl"
    curl.write_text("#!/bin/sh\necho ami-0123456789abcdef0\n")
    curl.chmod(0o755)
    on_head = tmp_path / "ray_bootstrap_config.yaml"
    on_head.write_text(json.dumps(PREPARED))  # as `ray up` writes it
    rewrite = RAW["head_start_ray_commands"][index_of("ImageId", RAW["head_start_ray_commands"])]
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", rewrite], check=True, env=environment)
    expected = copy.deepcopy(PREPARED)
    for node in expected["available_node_types"].values():
        node["node_config"]["ImageId"] = "ami-0123456789abcdef0"
    assert json.loads(on_head.read_text()) == expected
