"""Whatever changes a user's own network changes its fingerprint, and nothing else does."""

import importlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from narrow import as_a
from torch import Tensor, nn

from trainables.models.fingerprints import Network, network_fingerprint, weights_digest

FILES = {
    "net/__init__.py": "",
    "net/model.py": """
        import json, pathlib
        import torch
        from torch import nn
        from net.blocks import body
        from . import parts
        SETTINGS = pathlib.Path(__file__).with_name("settings.json")
        def build(shape, classes):
            from net.late import activation
            settings = json.loads(SETTINGS.read_text())
            return nn.Sequential(nn.Flatten(), body(shape[0], 4), activation(), nn.Dropout(settings["dropout"]),
                                 parts.head(4, classes))
    """,
    "net/blocks.py": "from torch import nn\ndef body(n, wide): return nn.Linear(n, wide)\n",
    "net/late.py": "from torch import nn\ndef activation(): return nn.Tanh()\n",
    "net/parts.py": "from torch import nn\nimport outside\nhead = nn.Linear\n",
    "net/unrelated.py": "a = 1\n",
    "net/settings.json": '{"dropout": 0.1}',
    "outside.py": "SCALE = 1\n",
    "partly.py": """
        import functools
        from torch import nn
        def make(shape, classes, width): return nn.Sequential(nn.Linear(shape[0], width), nn.Linear(width, classes))
        build = functools.partial(make, width=4)
    """,
    "computed.py": """
        import importlib
        def build(shape, classes): return importlib.import_module("out" + "side").make(shape[0], classes)
    """,
    "seeds_itself.py": """
        import torch
        from torch import nn
        def build(shape, classes):
            torch.manual_seed(0)
            return nn.Linear(shape[0], classes)
    """,
    "draws.py": """
        import random
        import numpy as np
        import torch
        from torch import nn
        torch.manual_seed(42); np.random.seed(1); random.seed(2)
        class Model(nn.Linear):
            def __init__(self, n, classes):
                super().__init__(n, classes)
                with torch.no_grad():
                    self.weight.copy_(torch.from_numpy(np.random.randn(classes, n)))
                    self.bias.fill_(random.random())
        def build(shape, classes): return Model(shape[0], classes)
        def afresh(shape, classes):
            model = Model(shape[0], classes)
            nn.init.constant_(model.weight, 10 ** np.random.default_rng().uniform(-30, 30))  # no two draws look alike
            return model
    """,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which is not renewed within a second
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        lines = text.splitlines()
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        file.write_text("\n".join(line[indent:] for line in lines))
    return tmp_path


def fingerprint(folder: Path, path: str) -> Network:
    """As in a new process, which has imported nothing of FILES."""
    own = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in FILES}
    for name in own & set(sys.modules):
        del sys.modules[name]
    importlib.invalidate_caches()
    return network_fingerprint(path, {}, (3,), 2, torch.float32)


@pytest.mark.parametrize(
    ("path", "file", "before", "after", "changes"),
    [
        ("net.model:build", "net/blocks.py", "Linear(n, wide)", "Linear(n, wide, bias=False)", True),
        ("net.model:build", "net/late.py", "Tanh", "ReLU", True),  # imported inside a function
        ("net.model:build", "net/parts.py", "outside", "outside  # edited", True),  # relative import
        ("net.model:build", "outside.py", "1", "2", True),  # of another package, and no part of the weights
        ("net.model:build", "net/__init__.py", "", "import os\n", True),
        ("net.model:build", "net/settings.json", "0.1", "0.2", True),  # no source code: the structure
        ("net.model:build", "net/unrelated.py", "1", "2", False),
        ("partly:build", "partly.py", "width=4", "width=64", True),
        ("computed:build", "outside.py", "SCALE", "OTHER", True),
    ],
)
def test_an_edit(folder: Path, path: str, file: str, before: str, after: str, changes: bool) -> None:
    (folder / "outside.py").write_text("from torch import nn\nSCALE = 1\ndef make(n, k): return nn.Linear(n, k)\n")
    first = fingerprint(folder, path)
    text = (folder / file).read_text()
    (folder / file).write_text(text.replace(before, after, 1) if before else after)
    second = fingerprint(folder, path)
    assert (first.fingerprint != second.fingerprint) == changes
    assert not first.ignores_seed
    assert first.is_reproducible


def test_how_initial_weights_come_about(folder: Path) -> None:
    itself = fingerprint(folder, "seeds_itself:build")
    assert itself.ignores_seed
    assert itself.is_reproducible
    drawn = fingerprint(folder, "draws:build")
    assert not drawn.ignores_seed
    assert drawn.is_reproducible
    assert fingerprint(folder, "draws:build") == drawn
    fresh = fingerprint(folder, "draws:afresh")
    assert not fresh.is_reproducible
    assert fingerprint(folder, "draws:afresh").fingerprint == fresh.fingerprint  # without those weights


def test_generators_are_as_before(folder: Path) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    fingerprint(folder, "draws:build")
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_the_digest_ignores_rounding_and_sees_everything_else() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.Linear(20, 5))
    digest = weights_digest(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-7)
    assert weights_digest(model) == digest
    with torch.no_grad():
        as_a(Tensor, model[0].weight).copy_(as_a(Tensor, model[0].weight).flip(0))  # the same values in other places
    assert weights_digest(model) != digest
    with torch.no_grad():
        as_a(Tensor, model[0].weight).copy_(as_a(Tensor, model[0].weight).flip(0))
        as_a(Tensor, model[1].running_var).mul_(1.1)
    assert weights_digest(model) != digest
