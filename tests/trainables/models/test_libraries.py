"""Models of torchvision, timm and transformers by name: offline, with safetensors, and each mistake in one line."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.models import build_model
from trainables.models.fingerprints import network_fingerprint
from trainables.runtime.errors import UserError

IMAGE, CLASSES = (3, 32, 32), 7
TINY = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}


def same(model: nn.Module, other: nn.Module) -> list[str]:
    """The names of the parameters and buffers that are equal."""
    theirs = other.state_dict()
    return [
        name
        for name, value in model.state_dict().items()
        if theirs[name].shape == value.shape and torch.equal(theirs[name], value)
    ]


def built(name: str, seed: int = 0, shape: tuple[int, ...] = IMAGE, classes: int = CLASSES, **options: Any) -> Any:
    torch.manual_seed(seed)
    return build_model(name, shape, classes, **options)


def folder_of(config: Any, folder: Path) -> str:
    config.save_pretrained(folder)
    return f"hf:{folder}"


def test_torchvision_by_name_and_import_path() -> None:
    model, alias = built("torchvision:squeezenet1_1"), built("torchvision.models:squeezenet1_1")
    assert model(torch.zeros(2, *IMAGE)).shape == (2, CLASSES)
    assert same(model, alias) == list(model.state_dict())
    assert type(model).__module__ == "torchvision.models.squeezenet"
    assert built("torchvision:squeezenet1_1", dropout=0.25).classifier[0].p == 0.25


def test_weights_come_from_safetensors_alone(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    name, file = "torchvision:squeezenet1_1", tmp_path / "own.safetensors"
    old, wider = built(name, 1), built(name, 1, classes=9)
    save_file(old.state_dict(), file)
    assert same(built(name, 2, weights=str(file)), old) == list(old.state_dict())
    with pytest.raises(UserError, match=r"got none that fit classifier.1.bias, classifier.1.weight .*adapt_head=true"):
        built(name, classes=9, weights=str(file))
    adapted = built(name, 2, classes=9, weights=str(file), adapt_head=True)
    kept = [key for key in old.state_dict() if not key.startswith("classifier.1")]
    assert same(adapted, old) == kept
    assert not torch.equal(adapted.classifier[1].weight, wider.classifier[1].weight)
    torch.save(old.state_dict(), tmp_path / "pickle.pt")
    for given, message in [
        (tmp_path / "pickle.pt", "must name a .safetensors file"),
        (tmp_path / "absent.safetensors", "must name a .safetensors file"),
    ]:
        with pytest.raises(UserError, match=message):
            built(name, weights=str(given))
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"must name a .safetensors file, got .*broken"):
        built(name, weights=str(tmp_path / "broken.safetensors"))
    with pytest.raises(
        UserError, match=r"must hold all weights of torchvision:alexnet in their shapes.*\.safetensors$"
    ):
        built("torchvision:alexnet", shape=(3, 64, 64), weights=str(file), adapt_head=True)


def test_timm() -> None:
    pytest.importorskip("timm")
    options = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2}
    model = built("timm:vit_tiny_patch16_224", shape=(1, 8, 8), **options)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, CLASSES)
    with pytest.raises(UserError, match="`pretrained` cannot be used with timm:resnet18: nothing is downloaded"):
        built("timm:resnet18", pretrained=True)


@pytest.mark.slow  # by the import of transformers
def test_hugging_face_models_by_what_the_data_are(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    gpt = folder_of(transformers.GPT2Config(vocab_size=50, **TINY), tmp_path / "gpt")
    bert = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    of_ids = folder_of(transformers.BertConfig(vocab_size=50, **bert), tmp_path / "bert")
    of_images = folder_of(transformers.ViTConfig(patch_size=4, **bert), tmp_path / "vit")
    t5 = transformers.T5Config(
        vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    of_pairs = folder_of(t5, tmp_path / "t5")
    tokens: dict[str, Any] = {"input_dtype": torch.int64}
    causal = built(gpt, shape=(5,), **tokens)
    assert type(causal).__name__ == "GPT2LMHeadModel"
    assert causal(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, CLASSES)
    assert causal.lm_head.weight is causal.transformer.wte.weight
    llama = transformers.LlamaConfig(
        vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=48, eos_token_id=[3, 49],
    )  # fmt: skip
    assert built(folder_of(llama, tmp_path / "llama"), shape=(5,), **tokens).config.eos_token_id is None
    classifier = built(of_ids, shape=(5,))
    assert classifier(torch.full((2, 5), 49.0)).shape == (2, CLASSES)
    assert built(of_images, shape=(1, 8, 8))(torch.zeros(2, 1, 8, 8)).shape == (2, CLASSES)
    pairs = built(of_pairs, shape=(2, 5), **tokens).eval()
    ids = torch.randint(1, CLASSES, (3, 2, 5), generator=torch.Generator().manual_seed(0))
    assert pairs(ids).shape == (3, 5, CLASSES)
    padded = ids.clone()
    padded[:, 0, 3:] = 0
    longer = torch.cat([padded, torch.zeros_like(padded[:, :, :2])], 2)
    torch.testing.assert_close(pairs(longer)[:, :5], pairs(padded))  # nothing attends to padding


def test_hugging_face_weights(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        num_labels=CLASSES,
    )  # fmt: skip
    torch.manual_seed(5)
    old = transformers.ViTForImageClassification(config)
    old.save_pretrained(tmp_path)
    name, shape = f"hf:{tmp_path}", (3, 8, 8)
    assert same(built(name, 2, shape=shape, weights=True), old) == list(old.state_dict())
    assert "vit.embeddings.cls_token" not in same(built(name, 2, shape=shape), old)
    with pytest.raises(UserError, match=r"none that fit classifier.bias, classifier.weight in .*; adapt_head=true"):
        built(name, shape=shape, classes=9, weights=True)
    adapted = built(name, 2, shape=shape, classes=9, weights=True, adapt_head=True)
    assert same(adapted, old) == [key for key in old.state_dict() if not key.startswith("classifier")]
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50, **TINY))
    gpt.save_pretrained(tmp_path / "gpt")
    tokens: dict[str, Any] = {"input_dtype": torch.int64, "shape": (5,)}
    assert same(built(f"hf:{tmp_path / 'gpt'}", classes=50, weights=True, **tokens), gpt) == list(gpt.state_dict())
    larger = built(f"hf:{tmp_path / 'gpt'}", classes=47, weights=True, **tokens)  # a vocabulary that was rounded up
    assert larger(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 50)
    with pytest.raises(UserError, match="`weights` must be of a vocabulary of at least the data's 51 tokens, got 50"):
        built(f"hf:{tmp_path / 'gpt'}", classes=51, weights=True, **tokens)
    (tmp_path / "gpt" / "model.safetensors").rename(tmp_path / "gpt" / "elsewhere.safetensors")
    with pytest.raises(UserError, match=r"must be a AutoModelForCausalLM of this data, got .*safetensors"):
        built(f"hf:{tmp_path / 'gpt'}", classes=50, weights=True, **tokens)


def test_an_edited_configuration_is_another_network(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    name = folder_of(transformers.GPT2Config(vocab_size=50, **TINY), tmp_path)
    first = network_fingerprint(name, {}, (5,), CLASSES, torch.int64)
    assert first == network_fingerprint(name, {}, (5,), CLASSES, torch.int64)
    assert first.is_reproducible
    assert not first.ignores_seed
    file = tmp_path / "config.json"
    text = file.read_text()
    file.write_text(text.replace('"layer_norm_epsilon": 1e-05', '"layer_norm_epsilon": 0.5'))
    assert file.read_text() != text
    assert network_fingerprint(name, {}, (5,), CLASSES, torch.int64).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:resnet19", {}, r"torchvision:NAME for a classifier such as .*resnet1.*, got 'resnet19'"),
        ("torchvision:fcn_resnet50", {}, "torchvision:NAME for a classifier"),
        ("torchvision:resnet18", {"colour": 1}, "must be options of torchvision:resnet18, got .*'colour'"),
        ("torchvision:resnet18", {"adapt_head": True}, "`adapt_head` cannot be used without `weights`"),
        ("hf:no/such/folder", {}, "a folder with a config.json, got no no/such/folder/config.json"),
        ("transformers:BertModel", {}, "must be hf:FOLDER, a folder with a config.json, for transformers"),
    ],
)
def test_refuses(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(name, **options)


def test_more_that_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    name = folder_of(transformers.GPT2Config(vocab_size=50, **TINY), tmp_path)
    tokens: dict[str, Any] = {"input_dtype": torch.int64, "shape": (5,)}
    with pytest.raises(UserError, match=r"must be fields of .*config.json, got colour"):
        built(name, colour=1, **tokens)
    with pytest.raises(UserError, match="must be a AutoModelForImageClassification of this data, got"):
        built(name)
    with pytest.raises(UserError, match="`weights` must be true for hf"):
        built(name, weights="model.safetensors", **tokens)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="must be a AutoModelForCausalLM of this data, got"):
        built(name, **tokens)


@pytest.mark.parametrize(("name", "module"), [("timm:resnet18", "timm"), ("torchvision:resnet18", "torchvision")])
def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    way_out = "large-batch-sweeps\\[timm\\]" if module == "timm" else "pip install torchvision"
    with pytest.raises(UserError, match=f"`model` needs {module}, which cannot be imported.*{way_out}"):
        built(name)


def test_transformers_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"`model` needs transformers.*pip install 'large-batch-sweeps\[hf\]'"):
        built(f"hf:{tmp_path}")


def test_attention_of_a_library_is_measured() -> None:
    """A step of Lanczos through timm's attention, against a difference of gradients."""
    pytest.importorskip("timm")
    from trainables.sharpness import ModelLoss

    options = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2}
    model = built("timm:vit_tiny_patch16_224", shape=(1, 8, 8), **options)
    inputs: Tensor = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    loss = ModelLoss(model, inputs, torch.arange(4))
    direction = torch.linspace(-1, 1, len(loss.params), dtype=torch.float64)
    ahead, behind = (loss.value_and_gradient(loss.params + step * direction)[1] for step in (1e-5, -1e-5))
    torch.testing.assert_close(loss.hessian(loss.params)(direction), (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-7)
