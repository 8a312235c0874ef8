"""Text and pairs by a tokenizer.json that the user has: its own ids, and what does not match in one line."""

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from trainables.data import Source, load_source
from trainables.data.tokenizer import Tokenizer
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


def test_many_texts_are_encoded_some_at_once(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.data.tokenizer.AT_ONCE", 2)
    found = Tokenizer(tmp_path / "tokenizer.json").encode(TEXT.split()[:5])
    tokenizer.no_truncation()
    assert [ids.tolist() for ids in found] == [tokenizer.encode(word).ids for word in TEXT.split()[:5]]


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


KINDS: dict[str, tuple[str, dict[str, Any], str | None, str | None]] = {  # model, trainer's options, and what is before
    "BPE by bytes": ("BPE", {"vocab_size": 300}, "ByteLevel", None),
    "BPE by words": ("BPE", {"vocab_size": 60}, "Whitespace", "NFD"),
    "unigram": ("Unigram", {"vocab_size": 60, "unk_token": "<unk>"}, "Metaspace", "NFC"),
    "word pieces": ("WordPiece", {"vocab_size": 60}, "BertPreTokenizer", "BertNormalizer"),
    "words": ("WordLevel", {}, "WhitespaceSplit", None),
    "BPE of the text as a whole": ("BPE", {"vocab_size": 60}, None, None),
}
LONG = TEXT + "na\u00efve caf\u00e9 \U0001f600\U0001f601   \n\n\n lowest\u00a0wide " * 40 + TEXT


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_long_text_in_pieces_has_the_tokens_of_the_whole(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where tokens depend on where a long word begins: that text is encoded as a whole."""
    library = pytest.importorskip("tokenizers")
    model, options, pre_tokenizer, normalizer = KINDS[kind]
    unknown = {} if model == "Unigram" else {"unk_token": "<unk>"}
    own = library.Tokenizer(getattr(library.models, model)(**unknown))
    if pre_tokenizer is not None:
        own.pre_tokenizer = getattr(library.pre_tokenizers, pre_tokenizer)()
    if normalizer is not None:
        own.normalizer = getattr(library.normalizers, normalizer)()
    words = LONG + "a" * 2000
    trainer = {"BPE": "BpeTrainer"}.get(model, f"{model}Trainer")
    how = getattr(library.trainers, trainer)(show_progress=False, special_tokens=["<unk>"], **options)
    own.train_from_iterator([words], how)
    own.save(str(tmp_path / "tokenizer.json"))
    used, as_a_whole = Tokenizer(tmp_path / "tokenizer.json"), Mock()
    as_a_whole.side_effect = used.encode
    monkeypatch.setattr(used, "encode", as_a_whole)
    for piece, overlap in ((101, 40), (1000, 100), (10**6, 40)):
        monkeypatch.setattr("trainables.data.tokenizer.PIECE", piece)
        monkeypatch.setattr("trainables.data.tokenizer.OVERLAP", overlap)
        assert used.encode_long(LONG).tolist() == own.encode(LONG).ids
    as_a_whole.assert_not_called()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("trainables.data.tokenizer.SAID_EVERY", 0)
    monkeypatch.setattr("trainables.data.tokenizer.TOGETHER", 1)
    monkeypatch.setattr("trainables.data.tokenizer.PIECE", len(LONG) // 2 + 1)
    used.encode_long(LONG)
    assert capsys.readouterr().err == "Tokenized 50 % of the text, 0 s left\n"
    monkeypatch.setattr("trainables.data.tokenizer.PIECE", 700)
    assert used.encode_long(words).tolist() == own.encode(words).ids
    as_a_whole.assert_called()
    assert used.encode_long("").tolist() == []
