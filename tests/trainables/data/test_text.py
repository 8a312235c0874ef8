"""Text as windows of tokens: what they hold, where training ends, which words are known; one line for each mistake."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.data import Source, load_source
from trainables.data.text import read_file, words
from trainables.runtime.errors import UserError

FIRST = "to be or not to be that is the question\n"
TEXT = FIRST * 10


def read(path: Path, **options: object) -> Source:
    return load_source("text", root=path, options=options)


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def decoded(ids: np.ndarray, vocabulary: list[str]) -> list[str]:
    return [vocabulary[index] for index in ids.ravel()]


def test_characters_of_one_file(tmp_path: Path) -> None:
    """Windows put together again are the text, labels the text one later; the last tenth is the test part."""
    source = read(write(tmp_path, play=TEXT) / "play.txt", context=7)
    vocabulary = sorted(set(TEXT))
    train, test = TEXT[:360], TEXT[360:]
    assert source.num_classes == len(vocabulary)
    assert (source.of_tokens, source.input_shape) == (True, (7,))
    for inputs, labels, text in ((source.inputs, source.labels, train), (source.test_inputs, source.test_labels, test)):
        assert inputs is not None
        assert labels is not None
        assert inputs.shape == labels.shape == ((len(text) - 1) // 7, 7)
        assert "".join(decoded(inputs, vocabulary)) == text[: inputs.size]
        assert "".join(decoded(labels, vocabulary)) == text[1 : inputs.size + 1]
    dataset = source.split(20, 3, 0)
    assert (dataset.input_dtype, dataset.train_labels.shape) == (torch.int64, (20, 7))


def test_words_of_a_folder(tmp_path: Path) -> None:
    """Words that training holds once or never are unknown; a line ends with a word of its own."""
    texts = {"ptb.train": "a b b a\nrare a b\n", "ptb.test": "a new b\nb\n", "ptb.valid": "a\n"}
    source = read(write(tmp_path, **texts), level="word", context=2)
    vocabulary = ["<eos>", "<unk>", "a", "b"]
    assert source.num_classes == 4
    assert source.test_inputs is not None
    assert decoded(source.inputs, vocabulary) == ["a", "b", "b", "a", "<eos>", "<unk>", "a", "b"]
    assert decoded(source.labels, vocabulary) == ["b", "b", "a", "<eos>", "<unk>", "a", "b", "<eos>"]
    assert decoded(source.test_inputs, vocabulary) == ["a", "<unk>", "b", "<eos>"]


def test_unknown_characters(tmp_path: Path) -> None:
    source = read(write(tmp_path, train="abababab", test="abäab"), context=2)
    assert source.num_classes == 3
    assert source.test_inputs is not None
    assert decoded(source.test_inputs, ["<unk>", "a", "b"]) == ["a", "b", "<unk>", "a"]


def test_characters_of_all_planes_are_numbered_as_they_sort(tmp_path: Path) -> None:
    """`<unk>` sorts between `<` and `=`; the numbers are those of a dictionary, one character after the other."""
    characters = [chr(code) for code in (10, 32, 59, 60, 61, 97, 0xE4, 0x20AC, 0xFFFD, 0x10000, 0x1F600, 0x10FFFF)]
    train, test = ("".join(np.random.default_rng(seed).choice(characters, 400)) for seed in (0, 1))
    for unseen in ("", "\U0001f601?"):
        source = read(write(tmp_path, train=train, test=f"{test}{unseen}"), context=2)
        vocabulary = sorted({*characters, *(["<unk>"] if unseen else [])})
        ids = {token: index for index, token in enumerate(vocabulary)}
        assert source.num_classes == len(vocabulary)
        for inputs, text in ((source.inputs, train), (source.test_inputs, f"{test}{unseen}")):
            assert inputs is not None
            expected = [ids.get(character, ids.get("<unk>")) for character in text]
            assert inputs.ravel().tolist() == expected[: inputs.size]


def test_a_vocabulary_that_was_cut_already(tmp_path: Path) -> None:
    """As in PTB, where 30 words occur once: with `<unk>` in the training part every word is known."""
    source = read(write(tmp_path, train="a b <unk>\nrare a\n", test="a rarest\nb\n"), level="word", context=2)
    vocabulary = ["<eos>", "<unk>", "a", "b", "rare"]
    assert source.num_classes == 5
    assert source.test_inputs is not None
    assert decoded(source.inputs, vocabulary) == ["a", "b", "<unk>", "<eos>", "rare", "a"]
    assert decoded(source.test_inputs, vocabulary) == ["a", "<unk>", "<eos>", "b"]


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("a b\x0cc d\ne\u2028f\ng\x85h\x1ci\n", "a b c d <eos> e f <eos> g h i <eos>"),
        ("a\r\nb\rc", "a <eos> b <eos> c <eos>"),
        ("\n\na\n\n", "<eos> <eos> a <eos> <eos>"),
        ("a <eos>\nb\n", "a <eos> b <eos>"),
        ("\ufeffa b\n", "a b <eos>"),
        ("", ""),
    ],
)
def test_where_lines_end(tmp_path: Path, content: str, tokens: str) -> None:
    (tmp_path / "text.txt").write_bytes(content.encode())
    assert words(read_file(tmp_path / "text.txt")) == tokens.split()


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    plain, marked = tmp_path / "plain.txt", tmp_path / "marked.txt"
    plain.write_text(TEXT)
    marked.write_text(TEXT, encoding="utf-8-sig")
    assert read(plain, context=9).fingerprint == read(marked, context=9).fingerprint


def test_options_are_seen_in_the_fingerprint(tmp_path: Path) -> None:
    file = write(tmp_path, play=TEXT) / "play.txt"
    sources = [read(file, context=5), read(file, context=7), read(file, level="word", context=7)]
    assert len({source.fingerprint for source in sources}) == 3
    assert read(file, context=5).fingerprint == sources[0].fingerprint


def test_mistakes(tmp_path: Path) -> None:
    file = write(tmp_path / "one", play=FIRST) / "play.txt"
    two = write(tmp_path / "two", **{"ptb.train": TEXT, "ptb.char.train": TEXT, "ptb.test": TEXT})
    (tmp_path / "latin.txt").write_bytes("né".encode("latin-1"))
    mistakes: list[tuple[Path, dict[str, Any], str]] = [
        (
            file,
            {},
            "`context` must be shorter than the training text of 36 tokens, got 64; a smaller context or a longer",
        ),
        (file, {"context": 4}, "`context` must be shorter than the test text of 4 tokens, got 4"),
        (write(tmp_path / "empty", play="") / "play.txt", {}, "training text of 0 tokens"),
        (file, {"context": 0}, "`context` must be a positive integer, got 0"),
        (file, {"level": "byte"}, "`level` must be one of char, word, bpe, got 'byte'"),
        (file, {"length": 3}, "`dataset-options` must be among level, context, tokenizer for text, got 'length'"),
        (tmp_path / "absent", {}, "`data-dir` must be a text file, or a folder with a train and a test text"),
        (tmp_path / "one", {}, r"hold one \*train\*.txt, got none in"),
        (two, {}, r"hold one \*train\*.txt, got ptb.char.train.txt, ptb.train.txt in"),
        (tmp_path / "latin.txt", {}, "must hold UTF-8 text, got .*latin.txt"),
    ]
    for path, options, message in mistakes:
        with pytest.raises(UserError, match=message) as error:
            read(path, **options)
        assert "\n" not in str(error.value)
