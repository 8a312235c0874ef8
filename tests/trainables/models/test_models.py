"""Models: layers and parameter counts of the paper's networks, options, and models of one's own."""

import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from trainables.models import MODELS, build_model
from trainables.models.layers import ACTIVATIONS
from trainables.runtime.errors import UserError
from trainables.runtime.float32 import exact_products
from trainables.sharpness import ModelLoss, hessian_eigenvalues
from trainables.tasks.classification import cross_entropy
from trainables.training.evaluate import evaluate


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def kinds(model: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in model.children()]


def linear(*widths: int) -> int:
    """Weights and biases of linear layers from each width to the next."""
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths))


def convolutions(size: int, *channels: int) -> int:
    return sum(a * b * size**2 + b for a, b in pairwise(channels))


VGG = [64, 64, 128, 128, *[256] * 3, *[512] * 6]
C_DENSE = {"c1": [4096, 384, 192], "c2": [512, 512]}
C_CONVOLUTIONS = {
    "c1": convolutions(5, 3, 64, 64) + 2 * (64 + 64 + 384 + 192),
    "c2": convolutions(3, 3, *VGG) + 2 * (sum(VGG) + 512),
}


@pytest.mark.parametrize(
    ("name", "input_shape", "classes", "expected", "count"),
    [
        ("f1", (1, 28, 28), 10, linear(784, *[512] * 5, 10) + 5 * 2 * 512, 1_462_794),
        ("f2", (360,), 1973, linear(360, *[512] * 7, 1973) + 7 * 2 * 512, 2_780_085),
        ("c1", (3, 32, 32), 10, C_CONVOLUTIONS["c1"] + linear(*C_DENSE["c1"], 10), 1_757_834),
        ("c2", (3, 32, 32), 10, C_CONVOLUTIONS["c2"] + linear(*C_DENSE["c2"], 10), 14_991_946),
        ("c3", (3, 32, 32), 100, C_CONVOLUTIONS["c1"] + linear(*C_DENSE["c1"], 100), 1_775_204),
        ("c4", (3, 32, 32), 100, C_CONVOLUTIONS["c2"] + linear(*C_DENSE["c2"], 100), 15_038_116),
    ],
)
def test_the_papers_networks(name: str, input_shape: tuple[int, ...], classes: int, expected: int, count: int) -> None:
    model = build_model(name, input_shape, classes)
    assert parameters(model) == expected == count
    assert model(torch.zeros(2, *input_shape)).shape == (2, classes)


DENSE = ["Linear", "BatchNorm1d", "ReLU"]
C1_BLOCK = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
CONVOLUTION = ["Conv2d", "BatchNorm2d", "ReLU"]
TWO = [*CONVOLUTION, "Dropout", *CONVOLUTION, "MaxPool2d"]
THREE = [*CONVOLUTION, "Dropout", *CONVOLUTION, "Dropout", *CONVOLUTION, "MaxPool2d"]


@pytest.mark.parametrize(
    ("name", "input_shape", "layers", "rates"),
    [
        ("f1", (784,), ["Flatten", *DENSE * 5, "Linear"], []),
        ("f2", (360,), ["Flatten", *DENSE * 7, "Linear"], []),
        ("c1", (3, 32, 32), [*C1_BLOCK * 2, "Flatten", *[*DENSE, "Dropout"] * 2, "Linear"], [0.5] * 2),
        (
            "c2",
            (3, 32, 32),
            [*TWO * 2, *THREE * 3, "Flatten", "Dropout", *DENSE, "Dropout", "Linear"],
            [0.3, *[0.4] * 7, 0.5, 0.5],
        ),
    ],
)
def test_the_papers_layers(name: str, input_shape: tuple[int, ...], layers: list[str], rates: list[float]) -> None:
    model = build_model(name, input_shape, 10)
    assert kinds(model) == layers
    assert [layer.p for layer in model.children() if isinstance(layer, nn.Dropout)] == pytest.approx(rates)


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
    assert sizes == [*([widths] if isinstance(widths, int) else widths), 4]  # type: ignore[misc]
    assert any(isinstance(layer, nn.BatchNorm1d) for layer in model.children()) == batch_norm


SMALL = {"c1": {"width": 2}, "c2": {"width": 2}, "f1": {"width": 4}, "f2": {"width": 4, "depth": 2}, "mlp": {}}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_batch_norm_and_dropout_by_option(name: str, activation: str) -> None:
    options: dict[str, Any] = {**SMALL[name], "activation": activation}
    on = build_model(name, (3, 9, 8), 4, **options, batch_norm=True, dropout=0.25)
    off = build_model(name, (3, 9, 8), 4, **options, batch_norm=False, dropout=0)
    functions = [layer for layer in on.modules() if type(layer) in ACTIVATIONS.values()]
    assert {type(layer) for layer in functions} == {ACTIVATIONS[activation]}
    assert sum("BatchNorm" in kind for kind in kinds(on)) == len(functions)
    assert any(isinstance(layer, nn.Dropout) for layer in on.modules())
    assert not any("Norm" in kind or "Dropout" in kind for kind in kinds(off))
    assert len([kind for kind in kinds(off) if kind == ACTIVATIONS[activation].__name__]) == len(functions)


@pytest.mark.parametrize(("depth", "count"), [(20, 269_722), (32, 464_154), (56, 853_018), (110, 1_727_962)])
def test_resnet_sizes(depth: int, count: int) -> None:
    """The paper's table 6 has 0.27, 0.46, 0.85 and 1.7 million."""
    model = build_model("resnet", (3, 32, 32), 10, depth=depth)
    assert parameters(model) == count
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules()) == depth


def test_resnet_block_by_hand() -> None:
    """The first block that halves the size, in eval mode with fresh statistics (batch norm nearly the identity)."""
    torch.manual_seed(0)
    block = build_model("resnet", (1, 8, 8), 4, depth=8, width=2).double().eval()[4]  # type: ignore[index]
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    first, second = (layer.weight for layer in block.modules() if isinstance(layer, nn.Conv2d))
    scale = 1 / math.sqrt(1 + 1e-5)
    branch = scale * conv2d(relu(scale * conv2d(x, first, stride=2, padding=1)), second, padding=1)
    shortcut = torch.zeros(3, 4, 4, 4, dtype=torch.float64)
    shortcut[:, :2] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), relu(branch + shortcut), rtol=1e-12, atol=1e-12)


def test_resnet_options_and_small_images() -> None:
    model = build_model("resnet", (1, 7, 5), 3, depth=14, width=4, activation="gelu", batch_norm=False)
    assert not any(isinstance(layer, nn.BatchNorm2d | nn.ReLU) for layer in model.modules())
    x = torch.rand(2, 1, 7, 5)
    features = nn.Sequential(*list(model.children())[:-3])(x)
    stem = nn.Sequential(*list(model.children())[:2])(x)
    assert features.shape == (2, 16, 2, 2)  # blocks of size 7x5, 4x3, 2x2 that start as their shortcuts
    assert torch.isfinite(features).all()
    assert torch.count_nonzero(features[:, 4:]) == 0
    assert torch.count_nonzero(stem) > 0


# An LSTM of 4 gates: for each layer inputs and units to 4 units, and two biases of these.
def lstm_count(vocabulary: int, embedding: int, width: int, depth: int, tied: bool) -> int:
    cells = sum(4 * width * ((width if layer else embedding) + width + 2) for layer in range(depth))
    return vocabulary * embedding + cells + (0 if tied else width * vocabulary) + vocabulary


TEXT: dict[str, Any] = {"input_dtype": torch.int64}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, lstm_count(65, 128, 128, 2, False)),
        ({"width": 12, "depth": 1, "embedding": 5}, lstm_count(65, 5, 12, 1, False)),
        ({"width": 12, "depth": 3, "tied": True, "dropout": 0.5}, lstm_count(65, 12, 12, 3, True)),
    ],
)
def test_lstm(options: dict[str, Any], count: int) -> None:
    model = build_model("lstm", (7,), 65, **TEXT, **options)
    assert parameters(model) == count
    tokens = torch.randint(65, (3, 7), generator=torch.Generator().manual_seed(0))
    model.eval()
    logits = model(tokens)
    assert logits.shape == (3, 7, 65)
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] + 1) % 65
    moved = (model(changed) - logits).abs().amax((0, 2))
    assert (moved[:4] == 0).all()  # it looks back alone
    assert (moved[4:] > 0).all()


def test_lstm_zaremba_medium_size() -> None:
    """About 20 million for PTB's 10000 words (2 layers of 650 units)."""
    with torch.device("meta"):
        model = MODELS["lstm"]((35,), 10_000, width=650, depth=2)
    assert parameters(model) == lstm_count(10_000, 650, 650, 2, False) == 19_780_400


def small_text() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = build_model("lstm", (5,), 4, width=2, depth=2, tied=True, dropout=0.3, **TEXT)
    return model, *torch.randint(4, (2, 6, 5), generator=generator)


def test_the_loss_of_tokens() -> None:
    """Nats per token, by a loop; one example's loss is the mean over its tokens; smoothing as its definition."""
    model, tokens, labels = small_text()
    logits = model.double().eval()(tokens).detach()
    logs = logits.log_softmax(-1)
    rows = [[-logs[n, t, labels[n, t]] for t in range(5)] for n in range(6)]
    naive = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(cross_entropy(logits, labels, reduction="none"), naive, rtol=1e-13, atol=0)
    torch.testing.assert_close(cross_entropy(logits, labels), naive.mean(), rtol=1e-13, atol=0)
    smoothed = 0.8 * naive - 0.2 * logs.mean(-1)
    torch.testing.assert_close(cross_entropy(logits, labels, label_smoothing=0.2), smoothed.mean(), rtol=1e-13, atol=0)
    result = evaluate(model, tokens, labels)
    assert result.loss == pytest.approx(naive.mean().item(), rel=1e-13)
    assert result.accuracy == (logits.argmax(2) == labels).double().mean().item()
    bound = ModelLoss(model, tokens, labels)
    assert bound.value(bound.params) == pytest.approx(naive.mean().item(), rel=1e-13)


def test_the_loss_of_classes_is_pytorchs_own() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(7, 4, generator=generator), torch.randint(4, (7,), generator=generator)
    for smoothing in (0.0, 0.1):
        for reduction in ("mean", "none"):
            theirs = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction=reduction)
            ours = cross_entropy(logits, labels, label_smoothing=smoothing, reduction=reduction)
            assert torch.equal(ours, theirs)


def test_evaluation_in_chunks_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, labels = small_text()
    model.double()
    whole = evaluate(model, tokens, labels)
    monkeypatch.setattr("trainables.training.evaluate.CHUNK_NUMBERS", 4 * 5 * 256)
    parts = evaluate(model, tokens, labels)
    assert parts.accuracy == whole.accuracy
    assert parts.loss == pytest.approx(whole.loss, rel=1e-13)


def test_logits_over_a_large_vocabulary_are_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's vocabulary and context: 64 windows would take 13 GB of logits, and as much for their softmax."""
    model, tokens, labels = small_text()
    outputs: list[torch.Size] = []
    model.register_forward_hook(lambda _, __, found: outputs.append(found.shape))
    whole = evaluate(model.double(), tokens, labels)
    one = outputs[0].numel()
    outputs.clear()
    monkeypatch.setattr("trainables.training.evaluate.OUTPUT_NUMBERS", 3 * one)
    parts = evaluate(model, tokens, labels)
    assert outputs[0][0] == 1  # which says how much comes out of an example
    assert max(shape.numel() for shape in outputs) == 3 * one
    assert sum(shape[0] for shape in outputs[1:]) == len(tokens)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-13)


def test_hessian_of_an_lstm() -> None:
    """Second derivatives of the LSTM with shared weights: against the dense Hessian by finite differences."""
    model, tokens, labels = small_text()
    loss = ModelLoss(model, tokens, labels)
    step, rows = 1e-5, torch.eye(len(loss.params), dtype=torch.float64)
    columns = [
        (loss.value_and_gradient(loss.params + step * e)[1] - loss.value_and_gradient(loss.params - step * e)[1])
        / (2 * step)
        for e in rows
    ]
    dense = torch.stack(columns)
    expected = torch.linalg.eigvalsh((dense + dense.T) / 2)[-1].item()
    found = hessian_eigenvalues(loss, loss.params, tol=1e-8)
    assert found.converged
    assert float(found.values[0]) == pytest.approx(expected, rel=1e-7)


def test_an_lstm_is_measured_in_float32_as_on_a_gpu() -> None:
    """There products are without TF32, by precisions that PyTorch's own switch of cuDNN cannot read."""
    model, tokens, _ = small_text()
    before = torch.backends.cudnn.enabled
    with exact_products([torch.empty(1, device="meta")], 1):
        assert model.eval()(tokens).isfinite().all()
    assert torch.backends.cudnn.enabled == before


OWN = """
from torch import nn
def build(input_shape, num_classes, *, width=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], width), nn.Linear(width, num_classes))
def tokens(input_shape, num_classes): return nn.Embedding(num_classes, num_classes)
def wrong(input_shape, num_classes): return nn.Linear(input_shape[0], num_classes + 1)
def crash(input_shape, num_classes): raise RuntimeError("no weights")
def text(input_shape, num_classes): return "model"
"""


def test_own_model_and_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert parameters(build_model("own_nets:build", (3,), 2, width=7)) == 3 * 7 + 7 + 7 * 2 + 2
    assert parameters(build_model("own_nets:tokens", (3,), 4, **TEXT)) == 16
    mistakes: list[tuple[str, dict[str, Any], str]] = [
        ("own_nets:wrong", {}, r"logits of shape \(2, 2\), got \(2, 3\)"),
        ("own_nets:crash", {}, "RuntimeError: no weights"),
        ("own_nets:text", {}, "must build a torch.nn.Module, got str"),
        (
            "own_nets:build",
            {"depth": 3},
            "`model-options` must be among width for own_nets:build, got 'depth'",
        ),
        ("own_nets:absent", {}, "`model` must be an importable"),
        ("vgg", {}, "`model` must be one of mlp, f1, .* gpt, seq2seq, .*torchvision:NAME, timm:NAME, hf:FOLDER or"),
        ("mlp", {"widths": "wide"}, "`widths` must be positive integers"),
        ("mlp", {"widths": [0]}, "`widths` must be positive integers"),
        ("mlp", {"batch_norm": 1}, "`batch_norm` must be true or false"),
        ("mlp", {"activation": "sine"}, "`activation` must be one of relu, tanh, gelu, got 'sine'"),
        ("mlp", {"dropout": 1}, r"`dropout` must be a number in \[0, 1\), got 1"),
        ("f1", {"widths": [3]}, "must be among depth, width, activation, batch_norm, dropout for f1"),
        ("f2", {"depth": 0}, "`depth` must be a positive integer, got 0"),
        ("c1", {}, "c1 must get images"),
        ("c2", {}, "c2 must get images"),
        ("resnet", {}, "resnet must get images"),
        ("lstm", {"tied": True, "embedding": 3, "width": 4}, r"`embedding` must be `width` \(4\) for tied weights"),
        ("lstm", {"depth": True}, "`depth` must be a positive integer, got True"),
    ]
    for name, options, message in mistakes:
        with pytest.raises(UserError, match=message):
            build_model(name, (3,), 2, **options)
    for name, shape, kind, message in [
        ("resnet", (1, 8, 8), torch.float32, "`depth` must be 6n \\+ 2 for resnet.*got 9"),
        ("c2", (1, 8, 8), torch.float32, "must be among width, activation, batch_norm, dropout for c2, got 'depth'"),
        ("lstm", (1, 8, 8), torch.float32, "lstm must get sequences of tokens"),
        ("f1", (5,), torch.int64, r"f1 must take inputs of shape \(5,\) and type int64, got RuntimeError"),
    ]:
        with pytest.raises(UserError, match=message):
            build_model(name, shape, 2, input_dtype=kind, depth=9)
