"""A language model's data from files of token ids, as trainers keep them: mapped, and cut into windows of `context`.

`root` is one file, whose last 10 % are the test part, or a folder with `*train*` and `*val*` or `*test*` files:

- `.bin`: ids without anything else (nanoGPT), uint16 or with the option `dtype=uint32` four bytes each; or ids after a
  header of 256 int32 with a magic number, a version and the number of tokens (llm.c, modded-nanogpt).
- `.npy`: one array of integers, (L,).

A part in several files is joined into one file of the cache. A part of L tokens is cut into floor((L - 1) / context)
windows that do not overlap; a label is the token that follows. Nothing else is copied: inputs and labels are two views
of the mapped file. The files are read once, for their digest and largest id, and both are kept in the cache.

The vocabulary is the option `vocabulary`, which may be larger than the ids that occur, or else the largest id and one.
"""

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import Entry, replacing, told
from trainables.data.files import Walk, readable
from trainables.data.rows import chunks
from trainables.data.source import Source
from trainables.data.windows import token_source, window_options
from trainables.runtime.errors import UserError, quoted

ENDINGS = (".bin", ".npy")
TEST_WORDS = ("test", "val")
TYPES = ("uint16", "uint32")
HEADER = 256 * 4
FEWEST_HALVES = 64  # numbers that are looked at for halves
MOST_UPPER = 3  # the upper half of an id in a vocabulary of up to 2^18
MAGIC = {20240520: "uint16", 20240801: "uint32"}  # of llm.c's GPT-2 and Llama 3 files
EXPECTED = "token files, .bin or .npy"

Tokens = NDArray[Any]


def read_tokens(
    root: Path, download: bool, *, context: object = 1024, vocabulary: object = None, dtype: object = "uint16"
) -> Source:
    """Inputs (N, context) and labels (N, context), tokens as they are stored; classes are the vocabulary.

    Raises UserError for files that are missing, truncated or hold ids outside of the vocabulary, and for a part with
    fewer than `context` + 1 tokens.
    """
    length, classes = window_options(context, vocabulary)
    if dtype not in TYPES:
        raise UserError(f"`dtype` must be one of {', '.join(TYPES)}, got {dtype!r}")
    files = _files(root)
    mapped = [[_mapped(file, str(dtype)) for file in part] for part in files]
    every = [file for part in files for file in part]
    entry = Entry.of("tokens", root, every, {"dtype": dtype})
    facts = entry.facts()
    if facts is None or not {"digests", "largest"} <= facts.keys():
        for file, tokens in zip(every, itertools.chain(*mapped), strict=True):
            _require_no_halves(file, tokens)
        facts = _looked_at(mapped)
        with entry.locked():
            entry.keep(facts)
    parts = [_joined(part, entry, name) for part, name in zip(mapped, ("train", "test"), strict=False)]
    largest = dict(zip(every, facts["largest"], strict=True))
    return token_source("tokens", parts, length, classes, facts["digests"], largest)


def _files(root: Path) -> list[list[Path]]:
    """The files of the training and the test part, or the one file of both."""
    if root.is_file():
        return [[root]]
    try:
        found = [file for file in Walk(root).files() if file.suffix in ENDINGS] if root.is_dir() else []
    except OSError as error:
        raise UserError(f"`data-dir` must hold {EXPECTED}, got {root} ({error.strerror})") from error
    train = [file for file in found if "train" in file.name]
    tests = [[file for file in found if word in file.name and file not in train] for word in TEST_WORDS]
    test = next((part for part in tests if part), [])
    if not train or not test:
        names = ", ".join(file.name for file in found[:5]) or "none"
        raise UserError(
            f"`data-dir` must be a token file, or a folder with *train* and *val* or *test* {EXPECTED}, "
            f"got {names} in {root}"
        )
    return [train, test]


def _mapped(file: Path, kind: str) -> Tokens:
    """The tokens of one file. Raises UserError where it is not whole."""
    readable(file, EXPECTED)
    try:
        is_array = file.suffix == ".npy"
        array: Tokens = np.load(file, mmap_mode="r", allow_pickle=False) if is_array else _of_bytes(file, kind)
    except UserError:
        raise
    except Exception as error:  # NumPy parses a damaged header as Python
        raise UserError(f"`data-dir` must hold whole {EXPECTED}, got {file} ({quoted(error)})") from error
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or not array.dtype.isnative:
        raise UserError(f"`data-dir` must hold integers (L,), got {array.dtype} of shape {array.shape} in {file}")
    if not len(array):
        raise UserError(f"`data-dir` must hold tokens, got none in {file}")
    return array


def _of_bytes(file: Path, kind: str) -> Tokens:
    size = file.stat().st_size
    start, count = 0, None
    if size >= HEADER:
        magic, _, told_count, *_ = np.fromfile(file, np.int32, count=3).tolist()
        if magic in MAGIC:
            kind, start, count = MAGIC[magic], HEADER, told_count
    width = np.dtype(kind).itemsize
    left = (size - start) % width
    if left:
        raise UserError(
            f"`data-dir` must hold whole {EXPECTED}, got {file} of {size} bytes, which {kind} tokens cannot fill; "
            "it is truncated, or needs another dtype"
        )
    found = (size - start) // width
    if count is not None and count != found:
        raise UserError(f"`data-dir` must hold whole {EXPECTED}, got {found} of the {count} tokens of {file}")
    if not found:
        raise UserError(f"`data-dir` must hold tokens, got none in {file}")
    return np.memmap(file, kind, "r", start, (found,))


def _require_no_halves(file: Path, tokens: Tokens) -> None:
    """Raises UserError where the tokens of a .bin file are halves of uint32: every second one is next to nothing."""
    is_plain = file.suffix == ".bin" and getattr(tokens, "offset", 0) == 0  # a header says what its tokens are
    if not is_plain or tokens.dtype != np.uint16 or len(tokens) < FEWEST_HALVES or len(tokens) % 2:
        return
    if tokens[1::2].max() <= MOST_UPPER < tokens[::2].max():
        raise UserError(
            f"`dtype` must be that of the tokens, got uint16 for {file}, whose every second number is at most "
            f"{MOST_UPPER}, as in a file of uint32; --dataset-options dtype=uint32"
        )


def _looked_at(parts: list[list[Tokens]]) -> dict[str, Any]:
    """The digest of each part and the largest id of each file. Raises UserError for a negative id."""
    digests, largest = [], []
    for part in parts:
        digest = hashlib.sha256()
        for tokens in part:
            most = 0
            for chunk in chunks(tokens):
                digest.update(np.ascontiguousarray(chunk).data)
                most = max(most, int(chunk.max()))
                if chunk.min() < 0:
                    raise UserError(f"`data-dir` must hold token ids of 0 or more, got {int(chunk.min())}")
            largest.append(most)
        digests.append(f"{digest.hexdigest()} {part[0].dtype.itemsize}")
    return {"digests": digests, "largest": largest}


def _joined(part: list[Tokens], entry: Entry, name: str) -> Tokens:
    """The files of a part as one, in the cache where they are several."""
    if len(part) == 1:
        return part[0]
    if any(tokens.dtype != part[0].dtype for tokens in part):
        raise UserError(f"`data-dir` must hold {name} tokens of one type, got {part[0].dtype} and others")

    def join(paths: list[Path]) -> dict[str, Any]:
        with told(entry.path, sum(tokens.nbytes for tokens in part)), replacing(paths[0]) as file:
            for tokens in part:
                for chunk in chunks(tokens):
                    file.write(np.ascontiguousarray(chunk).data)
        return {}

    entry.made([f"{name}.tokens"], join)
    return np.memmap(entry.path / f"{name}.tokens", part[0].dtype, "r")
