"""Models: layers and parameter counts of the paper's networks, options, and models of one's own."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from trainables.errors import UserError
from trainables.models import build_model


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "input_shape", "classes", "expected"),
    [
        # 784*512 + 512, four times 512*512 + 512, 512*10 + 10, and 5 batch norms of 2*512
        ("f1", (1, 28, 28), 10, 401_920 + 4 * 262_656 + 5_130 + 5 * 1_024),
        # convolutions 3*64*25 + 64 and 64*64*25 + 64; 4096*384 + 384; 384*192 + 192; 192*10 + 10; batch norms
        ("c1", (3, 32, 32), 10, 4_864 + 102_464 + 1_573_248 + 73_920 + 1_930 + 2 * (64 + 64 + 384 + 192)),
    ],
)
def test_the_papers_networks(name: str, input_shape: tuple[int, ...], classes: int, expected: int) -> None:
    model = build_model(name, input_shape, classes)
    assert parameters(model) == expected
    assert model(torch.zeros(2, *input_shape)).shape == (2, classes)


def test_c1_layers() -> None:
    kinds = [type(layer).__name__ for layer in build_model("c1", (3, 32, 32), 10).children()]
    block = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    dense = ["Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert kinds == [*block, *block, "Flatten", *dense, *dense, "Linear"]


def test_c1_pools_like_keras_same() -> None:
    """A window of 3 with stride 2 and "same" borders on 32 pixels: 16 outputs, the padding on the far side alone."""
    pool = build_model("c1", (3, 32, 32), 10)[3]  # type: ignore[index]
    row = torch.arange(32.0).view(1, 1, 1, 32).expand(1, 1, 32, 32)
    expected = torch.tensor([min(2 * start + 2, 31) for start in range(16)], dtype=torch.float32)
    assert torch.equal(pool(row)[0, 0, 0], expected)


@pytest.mark.parametrize(("widths", "batch_norm"), [([16], False), ((8, 4), True), (12, False), ([], False)])
def test_mlp(widths: object, batch_norm: bool) -> None:
    model = build_model("mlp", (2, 3), 4, widths=widths, batch_norm=batch_norm)
    sizes = [layer.out_features for layer in model.children() if isinstance(layer, nn.Linear)]
    assert sizes == [*([widths] if isinstance(widths, int) else widths), 4]  # type: ignore[has-type,misc]
    assert any(isinstance(layer, nn.BatchNorm1d) for layer in model.children()) == batch_norm


OWN = """
from torch import nn
def build(input_shape, num_classes, *, width=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], width), nn.Linear(width, num_classes))
def wrong(input_shape, num_classes): return nn.Linear(input_shape[0], num_classes + 1)
def crash(input_shape, num_classes): raise RuntimeError("no weights")
def text(input_shape, num_classes): return "model"
"""


def test_own_model_and_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert parameters(build_model("own_nets:build", (3,), 2, width=7)) == 3 * 7 + 7 + 7 * 2 + 2
    for name, options, message in [
        ("own_nets:wrong", {}, r"logits of shape \(2, 2\), got \(2, 3\)"),
        ("own_nets:crash", {}, "RuntimeError: no weights"),
        ("own_nets:text", {}, "must build a torch.nn.Module, got str"),
        (
            "own_nets:build",
            {"depth": 3},
            "`model-options` must be among width for own_nets:build, got 'depth'",
        ),
        ("own_nets:absent", {}, "`model` must be an importable"),
        ("resnet", {}, "`model` must be one of mlp, f1, c1"),
        ("mlp", {"widths": "wide"}, "`widths` must be positive integers"),
        ("mlp", {"widths": [0]}, "`widths` must be positive integers"),
        ("mlp", {"batch_norm": 1}, "`batch_norm` must be true or false"),
        ("f1", {"widths": [3]}, r"must be among \(none\) for f1"),
        ("c1", {}, "c1 must get images"),
    ]:
        with pytest.raises(UserError, match=message):
            build_model(name, (3,), 2, **options)
