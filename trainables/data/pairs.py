"""Pairs of sequences for an encoder-decoder model: translation, spelling to pronunciation, any text to any other.

`root` is one of

- JSON lines: `pairs.jsonl`, or a folder with one `*train*.jsonl` and one `*test*.jsonl`. Every line is an object with a
  text for the source and one for the target, under the keys `source` and `target` or those that the options of these
  names give;
- a folder of aligned text files, line i of one belonging to line i of the other: `train.source`, `train.target`,
  `test.source` and `test.target`, or with other endings by the same options: `source=en target=de` for `train.en`.

Without test files all pairs are one pool, from which training and test examples are drawn by the split seed. `level`
says what a token is on both sides: a character, a word between white space, or with bpe a token of the tokenizer.json
`tokenizer`; `target_level` says so for the target alone. The vocabulary is one for both sides: `<pad>`, `<bos>`,
`<eos>`, `<unk>`, then the tokens of the training pairs in order, and those of the tokenizer.

An example is (2, T) token ids: the source with `<eos>` behind it, and the target with `<bos>` before it, both filled up
with `<pad>` to the longest. Its labels (T,) are the target with `<eos>` behind it, then -100, which weighs nothing.
Pairs longer than `longest` tokens on either side are left out.

The arrays are kept in the cache and mapped, as those of a text are (trainables.data.text).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import Arrays, Entry
from trainables.data.source import ARRAYS, Source
from trainables.data.text import LEVELS, read_file
from trainables.data.tokenizer import Tokenizer, tokenizer_file
from trainables.runtime.errors import UserError, quoted

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNKNOWN = range(len(SPECIAL))
NO_LABEL = -100
LINES = (".jsonl", ".ndjson")

Texts = tuple[list[str], list[str]]  # sources and targets
Ids = Sequence[NDArray[np.int64]]


def read_pairs(
    root: Path,
    download: bool,
    *,
    source: str = "source",
    target: str = "target",
    level: str = "char",
    target_level: str | None = None,
    tokenizer: str | None = None,
    longest: int | None = None,
) -> Source:
    """Inputs (N, 2, T) token ids, labels (N, T), -100 where there is none; classes are the vocabulary.

    Raises UserError for files that are missing, not aligned or of another layout, and where no pair is left.
    """
    levels = level, target_level or level
    for name, one in zip(("level", "target_level"), levels, strict=True):
        if one not in LEVELS:
            raise UserError(f"`{name}` must be one of {', '.join(LEVELS)}, got {one!r}")
    if longest is not None and (type(longest) is not int or longest < 1):
        raise UserError(f"`longest` must be a positive integer, got {longest!r}")
    for name, key in (("source", source), ("target", target)):
        if not isinstance(key, str):
            raise UserError(f"`{name}` must be a name, got {key!r}")
    own = tokenizer_file("bpe" if "bpe" in levels else level, tokenizer)
    files = _files(root, source, target)
    read = [file for part in files for file in part] + ([] if own is None else [own])
    options = {"keys": (source, target), "levels": levels, "tokenizer": own and str(own.absolute()), "longest": longest}

    def tokenize() -> tuple[Arrays, dict[str, int]]:
        parts = [_texts(part, source, target) for part in files]
        encode, vocabulary = _encoder(parts[0], levels, None if own is None else Tokenizer(own))
        pairs = [_short((encode(texts[0], 0), encode(texts[1], 1)), longest) for texts in parts]
        for part, (sources, _) in zip(("training", "test"), pairs, strict=False):
            if not sources:
                raise UserError(f"`data-dir` must hold {part} pairs of at most {longest} tokens, got none in {root}")
        length = 1 + max(len(ids) for sides in pairs for side in sides for ids in side)
        kind = np.int16 if vocabulary <= 2**15 else np.int32  # labels are negative where there is none
        arrays = [array for sides in pairs for array in _examples(*sides, length, kind)]
        return dict(zip(ARRAYS, arrays, strict=False)), {"vocabulary": vocabulary}

    entry = Entry.of("pairs", root, read, options)
    arrays, facts = entry.arrays(ARRAYS[: 2 * len(files)], tokenize)
    inputs, labels, test_inputs, test_labels = map(arrays.get, ARRAYS)
    assert inputs is not None
    assert labels is not None
    found = Source(
        "pairs", inputs, labels, test_inputs, test_labels, facts["vocabulary"], task="language", is_checked=True
    )
    vars(found)["fingerprint"] = entry.fingerprint("pairs", lambda: found.fingerprint)
    return found


def _encoder(
    train: Texts, levels: tuple[str, str], tokenizer: Tokenizer | None
) -> tuple[Callable[[list[str], int], Ids], int]:
    """What makes the ids of texts of side 0 or 1, and the size of the vocabulary."""
    sides = [_split(texts, level) for texts, level in zip(train, levels, strict=True) if level != "bpe"]
    known = sorted({token for side in sides for tokens in side for token in tokens} - set(SPECIAL))
    ids = {token: number for number, token in enumerate((*SPECIAL, *known))}

    def encode(texts: list[str], side: int) -> Ids:
        if levels[side] == "bpe" and tokenizer is not None:
            return [own + len(ids) for own in tokenizer.encode(texts)]
        tokens = _split(texts, levels[side])
        return [np.array([ids.get(token, UNKNOWN) for token in one], dtype=np.int64) for one in tokens]

    return encode, len(ids) + (0 if tokenizer is None else tokenizer.vocabulary)


def _split(texts: list[str], level: str) -> list[list[str]]:
    return [list(text) if level == "char" else text.split() for text in texts]


def _short(sides: tuple[Ids, Ids], longest: int | None) -> tuple[Ids, Ids]:
    """The pairs with at most `longest` tokens on each side."""
    if longest is None:
        return sides
    kept = [pair for pair in zip(*sides, strict=True) if max(map(len, pair)) <= longest]
    return [one for one, _ in kept], [other for _, other in kept]


def _examples(sources: Ids, targets: Ids, length: int, kind: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    inputs = np.full((len(sources), 2, length), PAD, dtype=kind)
    labels = np.full((len(sources), length), NO_LABEL, dtype=kind)
    inputs[:, 1, 0] = BOS
    for row, (own, other) in enumerate(zip(sources, targets, strict=True)):
        inputs[row, 0, : len(own) + 1] = [*own, EOS]
        inputs[row, 1, 1 : len(other) + 1] = other
        labels[row, : len(other) + 1] = [*other, EOS]
    return inputs, labels


def _files(root: Path, source: str, target: str) -> list[list[Path]]:
    """The files of the training and the test part, or of the one pool: one of JSON lines, or two that are aligned."""
    if root.is_file() and root.suffix in LINES:
        return [[root]]
    if not root.is_dir():
        raise UserError(f"`data-dir` must be a .jsonl file, or a folder with pairs, got {root}")
    names = [file.name for file in root.iterdir()]
    in_lines = any(name.endswith(LINES) for name in names)
    endings = LINES if in_lines else (f".{source}",)
    parts = ("train", "test") if any("train" in name and name.endswith(endings) for name in names) else ("",)
    sides = [LINES] if in_lines else [(f".{source}",), (f".{target}",)]
    return [[_one_file(root, part, side) for side in sides] for part in parts]


def _texts(files: list[Path], source: str, target: str) -> Texts:
    """The texts of one part."""
    if len(files) == 1:
        return _of_lines(files[0], source, target)
    own, other = (read_file(file).removesuffix("\n").split("\n") for file in files)
    if len(own) != len(other):
        raise UserError(
            f"`data-dir` must hold files with as many lines as each other, got {len(own)} in {files[0]} and "
            f"{len(other)} in {files[1]}"
        )
    return own, other


def _of_lines(file: Path, source: str, target: str) -> Texts:
    sides: Texts = ([], [])
    for number, line in enumerate(read_file(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # too deep, or a number with too many digits
            raise UserError(
                f"`data-dir` must hold JSON lines, got {quoted(line)} in line {number} of {file}"
            ) from error
        for side, key in zip(sides, (source, target), strict=True):
            text = row.get(key) if isinstance(row, dict) else None
            if not isinstance(text, str):
                keys = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
                raise UserError(
                    f"`data-dir` must have a text under {key!r} in every line, got {quoted(keys)} in line {number} of "
                    f"{file}; source=KEY and target=KEY name others"
                )
            side.append(text)
    return sides


def _one_file(root: Path, part: str, endings: tuple[str, ...]) -> Path:
    found = sorted(file for file in root.iterdir() if part in file.name and file.name.endswith(endings))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise UserError(
            f"`data-dir` must hold one *{part}{'*' if part else ''}{endings[0]}, got {quoted(names)} in {root}; "
            "source=ENDING and target=ENDING name the endings of aligned files"
        )
    return found[0]
