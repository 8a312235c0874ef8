"""Token ids of texts and pairs that the cache keeps: the results of int64 arrays in memory, and when they are made."""

import json
import pickle
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.data.source import ARRAYS
from trainables.runtime.errors import UserError
from trainables.trial import run_trial

TEXT = "low lower lowest new newer newest wide wider widest\n" * 12
KINDS = ("char", "word", "bpe", "pairs")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A cache of the test's own."""
    return tmp_path / "cache"


@pytest.fixture
def load(tmp_path: Path, own: Path) -> Callable[..., Source]:
    """Loads text by a level, or pairs by characters, from files that are written here."""
    (tmp_path / "play.txt").write_text(TEXT)
    lines = [{"source": word, "target": word[::-1]} for word in TEXT.split()]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def loaded(kind: str, **options: Any) -> Source:
        if kind == "pairs":
            return load_source("pairs", root=tmp_path / "words.jsonl", options=options, cache_dir=own)
        if kind == "bpe":
            options["tokenizer"] = str(tokenizer(tmp_path / "tokenizer.json"))
        options = {"level": kind, "context": 5, **options}
        return load_source("text", root=tmp_path / "play.txt", options=options, cache_dir=own)

    return loaded


def tokenizer(file: Path, size: int = 30) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    if not file.exists():
        made = tokenizers.Tokenizer(tokenizers.models.BPE())
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.train_from_iterator([TEXT], tokenizers.trainers.BpeTrainer(vocab_size=size, show_progress=False))
        made.save(str(file))
    return file


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The text files that were read."""
    read: list[Path] = []

    def reading(file: Path) -> str:
        read.append(file)
        return file.read_text()

    for module in ("text", "pairs"):
        name = f"trainables.data.{module}.read_file"
        monkeypatch.setattr(name, reading)
    return read


def in_memory(source: Source) -> Source:
    """The same as int64 arrays in memory."""
    arrays = {name: array for name in ARRAYS if (array := getattr(source, name)) is not None}
    values: dict[str, Any] = {name: np.array(array, np.int64) for name, array in arrays.items()}
    return replace(source, **values, is_checked=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_start_reads_and_tokenizes_nothing(
    kind: str, load: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(kind)
    assert first.fingerprint == in_memory(first).fingerprint
    for name in ("text.read_file", "pairs.read_file", "text.Tokenizer", "source.chunks", "rows.chunks"):
        monkeypatch.setattr(f"trainables.data.{name}", lambda *_: pytest.fail("read again"))
    again = load(kind)
    assert again.fingerprint == first.fingerprint
    for name in ARRAYS[: 4 if kind != "pairs" else 2]:
        array = getattr(again, name)
        assert isinstance(array, np.memmap)
        assert array.dtype == (np.int16 if kind == "pairs" else np.uint16)
        np.testing.assert_array_equal(array, getattr(first, name))


@pytest.mark.parametrize("kind", ["bpe", "pairs"])
def test_trials_have_the_results_of_int64_arrays_in_memory(
    kind: str, load: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load(kind)
    config = TrialConfig(
        dataset=source.name, data_fingerprint=source.fingerprint, train_size=20, test_size=2,
        model="seq2seq" if kind == "pairs" else "gpt", model_options='{"width": 8, "depth": 1, "heads": 2}',
        learning_rate=0.01, batch_size=8, epochs=2, measures="hessian_max_eig", measure_examples=8,
    )  # fmt: skip
    plain = run_trial(config, in_memory(source))
    monkeypatch.setattr("trainables.data.rows.COPIED", 0)  # small sets are copied out of the file otherwise
    kept = run_trial(config, source)
    for name in ("trial_id", "train_loss", "test_loss", "steps"):
        assert kept.trial[name] == plain.trial[name]
    assert [row["value"] for row in kept.measures] == [row["value"] for row in plain.measures]
    assert kept.trial["train_loss"] > 0


def test_a_source_is_pickled_as_the_place_of_its_files(tmp_path: Path, own: Path) -> None:
    """Not its ids, which Ray would copy into its object store."""
    (tmp_path / "long.txt").write_text(TEXT * 100)
    source = load_source("text", root=tmp_path / "long.txt", cache_dir=own)
    content = pickle.dumps(source)
    assert len(content) < 5000 < source.inputs.nbytes
    np.testing.assert_array_equal(pickle.loads(content).labels, source.labels)


def test_ids_take_two_bytes_up_to_a_vocabulary_of_65536(tmp_path: Path, own: Path) -> None:
    for words, kind in ((2**16 - 2, np.uint16), (2**16 - 1, np.uint32)):  # beside <eos> and <unk>
        text = " ".join(f"{word:05x}" for word in range(words))
        (tmp_path / "train.txt").write_text(f"{text}\n{text}\n")
        (tmp_path / "test.txt").write_text(f"{text}\n")
        source = load_source("text", root=tmp_path, options={"level": "word", "context": words}, cache_dir=own)
        assert source.num_classes == words + 2
        assert source.inputs.dtype == kind
        np.testing.assert_array_equal(source.inputs[0], np.arange(words))


@pytest.mark.parametrize("kind", ["char", "pairs"])
def test_a_broken_entry_is_made_again(
    kind: str, load: Callable[..., Source], own: Path, tmp_path: Path, tokenized: list[Path]
) -> None:
    right = in_memory(load(kind))
    (entry,) = own.iterdir()
    shutil.copytree(entry, tmp_path / "whole")
    name = "inputs.npy" if kind == "pairs" else "train.npy"
    content = (entry / name).read_bytes()

    def foreign() -> None:
        """Another array of the same shape, and the facts of this one."""
        np.save(entry / name, np.zeros_like(np.load(entry / name)))

    damages: list[Callable[[], Any]] = [
        lambda: (entry / name).write_bytes(content[:-1]),
        lambda: (entry / name).write_bytes(bytes(len(content))),
        lambda: (entry / name).unlink(),
        foreign,
        lambda: (entry / "facts.json").write_text("[1]"),
        lambda: (entry / "facts.json").write_text('{"train.npy test.npy": 3, "inputs.npy labels.npy": 3}'),
        lambda: (entry / "facts.json").write_text('{"fingerprints": {"5": "wrong", "pairs": "wrong"}}'),
        lambda: (entry / "facts.json").unlink(),
    ]
    for count, damage in enumerate(damages, 2):
        damage()
        source = load(kind)
        assert len(tokenized) == count
        assert source.fingerprint == right.fingerprint
        np.testing.assert_array_equal(source.inputs, right.inputs)


def test_what_makes_a_new_entry(load: Callable[..., Source], own: Path, tmp_path: Path, tokenized: list[Path]) -> None:
    """Another level or tokenizer has an entry of its own; a changed file replaces the entry; a context needs none."""

    def entries(kind: str, files_read: int, **options: Any) -> set[str]:
        load(kind, **options)
        assert len(tokenized) == files_read
        return {entry.name for entry in own.iterdir()}

    assert len(entries("char", 1)) == 1
    assert len(entries("char", 1, context=7)) == 1
    first = entries("word", 2)
    assert len(first) == 2
    (tmp_path / "play.txt").write_text(TEXT * 2)
    second = entries("word", 3)
    assert len(second) == 2
    assert len(first & second) == 1
    before = entries("bpe", 4)
    (tmp_path / "tokenizer.json").unlink()
    tokenizer(tmp_path / "tokenizer.json", size=25)
    after = entries("bpe", 5)
    assert len(before) == len(after) == 3
    assert len(before & after) == 2
    assert load("bpe").num_classes == 25


def test_starts_at_once_tokenize_once(load: Callable[..., Source], tokenized: list[Path]) -> None:
    found: list[Source] = []
    threads = [threading.Thread(target=lambda: found.append(load("char"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({source.fingerprint for source in found}) == 1
    assert (len(found), len(tokenized)) == (4, 1)


@pytest.mark.parametrize("kind", ["char", "pairs"])
def test_a_cache_that_is_full_or_cannot_be_written(
    kind: str, load: Callable[..., Source], own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"^`cache-dir` .* is full \(No space left on device\); --cache-dir names"):
        load(kind)
    monkeypatch.undo()
    assert not list(own.rglob("*.tmp"))
    assert load(kind).num_classes > 2
    shutil.rmtree(own)
    own.write_text("")
    with pytest.raises(UserError, match=r"^`cache-dir` .* is not writable"):
        load(kind)
