"""Every command of the manual runs: sweeps as dry runs, analysis on the kept results, the others skipped with a reason.

A command that is none of these fails, so that somebody decides how a new one is tested.
"""

import io
import itertools
import json
import re
import runpy
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sweeps.plan.estimate import Estimate
from trainables.config import TrialConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(python [^`]+)`")
SKIPPED = (
    (r"(pip|apt-get|python -m venv|pre-commit|mlflow-ui/bin/pip) ", "installs packages"),
    (r"\. .venv/bin/activate|cp ", "is no command of this project"),
    (r"(RAY_\w+=\S+ )?ray ", "needs machines: tests/test_loopback_cluster.py"),
    (r"(pytest|ruff|mypy|lint-imports|mkdocs|\.ci/run)\b", "is a check of its own"),
    (r"(optuna-dashboard|tensorboard|mlflow-ui/bin/mlflow) ", "is another project's server"),
    (r"python (analysis/serve|sweeps/dashboard)\.py", "is a server: its own tests"),
    (r"python sweeps/status\.py .*--watch", "goes on until it is interrupted: tests/sweeps/monitoring/test_status.py"),
    (r"python benchmarks/", "takes minutes, or a GPU: tests/benchmarks"),
    (r"python docs/", "rewrites the manual: tests/test_docs.py and tests/benchmarks"),
    (r"python tests/faults\.py", "takes minutes: tests/test_faults.py"),
    (r"python -m trainables\.sharpness", "needs weights: tests/trainables/measures/test_command.py"),
    (r"python analysis/(parametric_plot|landscape)\.py", "needs weights: tests/analysis/minima"),
    (r"python analysis/steps_to_result\.py (runs\.csv|logs) ", "reads others' runs: tests/analysis/data/test_runs.py"),
    (r"python sweeps/throughput\.py (?!--sweep)|.*--measure$", "measures: tests/sweeps/plan/test_throughput.py"),
    (r".*--download", "fetches data"),
    (r"python sweeps/keskar_tables\.py .*--networks c1", "needs CIFAR-10 itself, whose checksums torchvision knows"),
    (r"python sweeps/batch_grid\.py .*--dataset mnist .*--train-size 60000", "needs all of MNIST"),
    (r"python sweeps/warm_start\.py .*--scale paper --dataset mnist", "needs all of MNIST"),
)
KEPT = {
    **dict.fromkeys(("A", "pilot", "decided"), "remedies_digits"),
    **dict.fromkeys(("NAME", "batch_grid", "python"), "default_digits"),
    "B": "warmup_digits",
    "data_size": "data_size_digits",
    "f1_threshold": "../paper/data/f1_threshold",
    "f1_warm_start": "../paper/data/f1_warm_start",
    "warmup": "warmup_digits",
    "branched_batch": "branched_batch_digits",
    "optimizer_ladder": "optimizer_ladder_digits",
    "scaling_rules": "scaling_rules_digits",
    "sharpness_intervention": "sharpness_intervention_digits",
    "steps_to_result": "steps_to_result_digits",
}
"""The kept results that stand for `results/NAME`."""


def commands() -> list[str]:
    """The commands in code of the manual, each once."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = dict.fromkeys(("sh", "bash", "", "python", "yaml", "mermaid"), "")
        for kind, block in BLOCK.findall(text):
            blocks[kind] += block.replace("\\\n", " ")  # KeyError: a new kind of block
        shown = [line for line in blocks[""].splitlines() if line.startswith("python ") and " -c " not in line]
        lines = [*blocks["sh"].splitlines(), *shown]
        for line in [*lines, *INLINE.findall(text)]:
            line = " ".join(line.split())
            line = re.sub(r"^\s*for n in .*?; do\b|; done$|^\s*done$", "", re.sub(r"(^| )#.*", "", line))
            found += [part.strip() for part in line.split(" && ") if part.strip()]
    return list(dict.fromkeys(found))


MODULES = {
    "my_package/__init__.py": "",
    "my_package/nets.py": """
import math
from torch import nn

def build(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))
""",
    "my_package/data.py": """
import numpy as np

def load():
    inputs = np.random.default_rng(0).standard_normal((6000, 8), dtype=np.float32)
    labels = (inputs[:, 0] > 0).astype(np.int64)
    return inputs[:5000], labels[:5000], inputs[5000:], labels[5000:]
""",
}


def write_data(folder: Path) -> None:
    """Random data in the layouts and sizes that the commands ask for."""
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice([*"abcdefghijklmnop"], 6)) for _ in range(300)]
    (folder / "tinyshakespeare.txt").write_text(" ".join(generator.choice(words, 150_000)))
    pairs = [{"source": f"{words[at % 300]}{at}", "target": " ".join(words[at % 40 :][:4])} for at in range(6500)]
    for name in ("cmudict.jsonl", "messages.jsonl"):
        (folder / name).write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    raw = folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 4500), ("t10k", 1000)):
        header, images = np.array([0x803, count, 28, 28], ">i4"), generator.integers(0, 256, count * 784, np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header.tobytes() + images.tobytes())
        labels = np.array([0x801, count], ">i4").tobytes() + generator.integers(0, 10, count, np.uint8).tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    (folder / "DIR").mkdir()
    buffer = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "png")
    for part, label, count in itertools.product(("train", "test"), ("cat", "dog"), range(256)):
        (folder / "photos" / part / label).mkdir(parents=True, exist_ok=True)
        (folder / "photos" / part / label / f"{count}.png").write_bytes(buffer.getvalue())
    for part in ("train", "val"):
        (folder / "tokens").mkdir(exist_ok=True)
        generator.integers(0, 256, 120_000, np.uint16).tofile(folder / "tokens" / f"{part}.bin")
    for part, count in (("train", 5000), ("test", 2000)):
        rows = {"image": [{"bytes": buffer.getvalue(), "path": None}] * count, "label": [*range(10)] * (count // 10)}
        pq.write_table(pa.table(rows), folder / "DIR" / f"{part}.parquet")


def estimated(configs: Sequence[TrialConfig], *_: object, **__: object) -> Estimate:
    """In place of the time that trials take: to know it some are trained."""
    seconds = {config.trial_id: 1.0 for config in configs}
    return Estimate(1.0, seconds, seconds, is_bound=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read: results, the user's modules, and data in the layouts of the manual."""
    folder = tmp_path_factory.mktemp("manual")
    for name, kept in KEPT.items():
        shutil.copytree(ROOT / "docs" / "kept" / kept, folder / "results" / name)
    shutil.copytree(ROOT / "docs" / "kept", folder / "docs" / "kept")
    trials = pq.read_table(folder / "results" / "data_size" / "trials.parquet")
    for name, size in (("n300", 150), ("n600", 300), ("n1200", 600), ("n2400", 1200)):
        shutil.copytree(folder / "results" / "data_size", folder / "results" / name)
        pq.write_table(
            trials.filter(pc.equal(trials["train_size"], size)), folder / "results" / name / "trials.parquet"
        )
    for name, code in MODULES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    (step,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own-step.md").read_text(), re.DOTALL)[:1]
    (folder / "my_steps.py").write_text(step)
    write_data(folder)
    return folder


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_runs(
    command: str,
    folders: Path,
    check_here: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for pattern, reason in SKIPPED:
        if re.match(pattern, command):
            pytest.skip(reason)
    match = re.fullmatch(r"python (sweeps|analysis)/(\w+)\.py(.*)", command)
    assert match, "say in SKIPPED why this command does not run here, or how it does"
    package, script, rest = match.groups()
    words = [word for word in shlex.split(rest.replace("$n", "300")) if word != "..."]
    monkeypatch.chdir(folders)
    monkeypatch.syspath_prepend(folders)
    if package == "sweeps" and script != "status" and not {"--plan", "--sweep", "--help"} & {*words}:
        words.append("--dry-run")
    if package == "analysis" and not words:
        words.append("--help")
    monkeypatch.setattr("sys.argv", [script, *words])
    monkeypatch.setattr("sweeps.plan.estimate.estimate", estimated)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / package / f"{script}.py"), run_name="__main__")
    assert not ended.value.code, capsys.readouterr().err
