"""Text and pairs by a tokenizer.json that the user has: its own ids, and what does not match in one line."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.data import Source, load_source
from trainables.runtime.errors import UserError

TEXT = "low lower lowest new newer newest wide wider widest\n" * 12


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    """A byte-pair tokenizer of 30 tokens, kept in tmp_path/tokenizer.json."""
    tokenizers = pytest.importorskip("tokenizers")
    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=30, show_progress=False, special_tokens=["<end>"])
    own.train_from_iterator([TEXT], trainer)
    own.enable_truncation(3)  # settings of another use, which must cut nothing here
    own.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "play.txt").write_text(TEXT)
    return own


def test_text_has_the_ids_of_the_tokenizer(tmp_path: Path, tokenizer: Any) -> None:
    options = {"level": "bpe", "tokenizer": str(tmp_path / "tokenizer.json"), "context": 5}
    source = load_source("text", root=tmp_path / "play.txt", options=options)
    tokenizer.no_truncation()
    ids = tokenizer.encode(TEXT).ids
    assert source.num_classes == tokenizer.get_vocab_size() == 30
    assert source.inputs.flatten().tolist() == ids[: source.inputs.size]
    assert source.labels.flatten().tolist() == ids[1 : source.labels.size + 1]
    assert tokenizer.decode(source.inputs.flatten().tolist()[:4]).replace(" ", "") == "lowĠlowerĠlo"
    assert len(ids) < len(TEXT) / 2


def test_pairs_have_its_ids_behind_their_own(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"source": "lower", "target": "newest"}) + "\n")
    options = {"level": "bpe", "target_level": "char", "tokenizer": str(tmp_path / "tokenizer.json")}
    source = load_source("pairs", root=tmp_path / "p.jsonl", options=options)
    letters = sorted(set("newest"))
    assert source.num_classes == 4 + len(letters) + 30
    own = tokenizer.encode("lower").ids
    assert source.inputs[0, 0, : len(own) + 1].tolist() == [*(4 + len(letters) + number for number in own), 2]
    assert source.labels[0].tolist() == [*(4 + letters.index(letter) for letter in "newest"), 2]


def test_what_does_not_match(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokenizer.json"

    def refused(message: str, **options: object) -> None:
        with pytest.raises(UserError, match=message):
            load_source("text", root=tmp_path / "play.txt", options={"context": 5, **options})

    refused("`tokenizer` must be a tokenizer.json with level=bpe, and only then, got None with bpe", level="bpe")
    refused("got .*tokenizer.json with char", tokenizer=str(file))
    refused("must be a tokenizer.json, got no file no.json", level="bpe", tokenizer="no.json")
    refused("must be a tokenizer.json, got .*play.txt", level="bpe", tokenizer=str(tmp_path / "play.txt"))
    settings = json.loads(file.read_text())
    vocabulary = settings["model"]["vocab"]
    settings["model"]["vocab"] = {token: number + (1000 if token == "o" else 0) for token, number in vocabulary.items()}
    settings["model"]["merges"] = []
    file.write_text(json.dumps(settings))
    refused("must have ids from 0 to 29 for its 30 tokens, got 10", level="bpe", tokenizer=str(file))
    (tmp_path / "play.txt").write_text("\u4e2d\u6587" * 100)
    settings["pre_tokenizer"] = None
    file.write_text(json.dumps(settings))
    refused("must know the text, got no token for", level="bpe", tokenizer=str(file))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    refused(r"pip install 'large-batch-sweeps\[hf\]'", level="bpe", tokenizer=str(file))


def saved(own: Any, tmp_path: Path, text: str) -> dict[str, Any]:
    own.no_truncation()
    own.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "play.txt").write_text(text)
    return {
        "root": tmp_path / "play.txt",
        "options": {"level": "bpe", "tokenizer": str(tmp_path / "tokenizer.json"), "context": 5},
    }


def test_characters_without_a_token(tmp_path: Path, tokenizer: Any) -> None:
    """Without `<unk>` the library drops them."""
    with pytest.raises(UserError, match=r"a token for every character, .* got none for 'x' in .*tokenizer\.json"):
        load_source("text", **saved(tokenizer, tmp_path, f"{TEXT}lowxlow zzz"))
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer.normalizer = tokenizers.normalizers.Replace("x", "")  # removed on purpose
    load_source("text", **saved(tokenizer, tmp_path, f"{TEXT}lowxlow"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    load_source("text", **saved(tokenizer, tmp_path, TEXT.upper()))
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "low": 1}, unk_token="<unk>"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    load_source("text", **saved(own, tmp_path, f"{TEXT}xyz"))


def test_tokens_that_never_occur_are_seen_in_the_fingerprint() -> None:
    """Two vocabularies give models of two sizes, so their trials must not have one ID."""
    ids = np.arange(12).reshape(3, 4)

    def fingerprint(vocabulary: int) -> str:
        return Source("own", ids, (ids + 1) % 12, None, None, vocabulary, task="language").fingerprint

    assert len({fingerprint(size) for size in (12, 13, 20)}) == 3
