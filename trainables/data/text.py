"""A language model's data from any text: windows of `context` tokens, each token's label the token that follows it.

`root` is one text file, whose last 10 % is the test part, or a folder with one `*train*` and one `*test*` file (.txt or
.tokens) as PTB, text8 and WikiText come: `train.txt` and `test.txt`, `ptb.train.txt` and `ptb.test.txt`. At level
`char` a token is a character; at level `word` what white space separates, and `<eos>` at the end of a line where it has
none already, as is the custom on PTB (Mikolov et al. 2010). Only a line feed ends a line: form feeds and Unicode's
separators are white space. A byte-order mark is left out. A part of L tokens is cut into floor((L - 1) / context)
windows that do not overlap, so that every token is predicted at most once in an epoch; no token of one part is seen in
the other.

The vocabulary is that of the training part, sorted. Words that it holds but once, and words that it does not hold, are
`<unk>`: else the unknown word would never be trained. A training part that has `<unk>` already was cut by its author
and keeps every word, as PTB with its 10000. A character that only the test part holds is `<unk>` as well; a text
without such has none. PTB by characters comes as words of one letter (`ptb.char.train.txt`): read it at level `word`.

At level `bpe` the tokens and the vocabulary are those of `tokenizer`, a tokenizer.json of the `tokenizers` library.

The ids are kept in the cache, as the smallest type that holds the vocabulary, so that a second start tokenizes nothing;
inputs and labels are views of a mapped file. They do not depend on `context`, but the fingerprint does. Trap: whoever
changes the ids that a text has must raise FORMAT in trainables.data.cache.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import Arrays, Entry
from trainables.data.files import require_regular
from trainables.data.source import Source
from trainables.data.tokenizer import Tokenizer, tokenizer_file
from trainables.data.windows import train_and_test, window_options, windows
from trainables.runtime.errors import UserError

LEVELS = ("char", "word", "bpe")
ENDINGS = (".txt", ".tokens")
UNKNOWN = "<unk>"
END = "<eos>"


def read_text(
    root: Path, download: bool, *, level: str = "char", context: int = 64, tokenizer: str | None = None
) -> Source:
    """Inputs (N, context) token ids, labels (N, context) the same a token later; classes are the vocabulary.

    Raises UserError for files that are missing or no UTF-8, and for a part with fewer than `context` + 1 tokens.
    """
    if level not in LEVELS:
        raise UserError(f"`level` must be one of {', '.join(LEVELS)}, got {level!r}")
    window_options(context)
    own = tokenizer_file(level, tokenizer)
    files = _files(root)
    read = files if own is None else [*files, own]
    entry = Entry.of("text", root, read, {"level": level, "tokenizer": own and str(own.absolute())})
    parts, facts = entry.arrays(("train", "test"), lambda: _tokenized(files, level, own))
    (train, train_labels), (test, test_labels) = (
        windows(parts[name], context, part) for name, part in (("train", "training"), ("test", "test"))
    )
    source = Source(
        "text", train, train_labels, test, test_labels, facts["vocabulary"], task="language", is_checked=True
    )
    vars(source)["fingerprint"] = entry.fingerprint(str(context), lambda: source.fingerprint)
    return source


def _tokenized(files: list[Path], level: str, tokenizer: Path | None) -> tuple[Arrays, dict[str, int]]:
    """The ids of the training and the test part, and the size of the `vocabulary`."""
    if tokenizer is not None:
        encoder = Tokenizer(tokenizer)
        train, test = train_and_test([encoder.encode_long(read_file(file)) for file in files])
        kind = id_type(encoder.vocabulary)
        return {"train": train.astype(kind), "test": test.astype(kind)}, {"vocabulary": encoder.vocabulary}
    train, test = train_and_test([read_file(file) if level == "char" else words(read_file(file)) for file in files])
    ids = _vocabulary(train, test, level)
    return {"train": _numbers(train, ids), "test": _numbers(test, ids)}, {"vocabulary": len(ids)}


def id_type(vocabulary: int) -> type[np.unsignedinteger[Any]]:
    """The smallest type of token ids that PyTorch and token files have."""
    return np.uint16 if vocabulary <= 2**16 else np.uint32


def _vocabulary(train: Sequence[str], test: Sequence[str], level: str) -> dict[str, int]:
    """The numbers of the tokens that are known."""
    if level == "word":
        counts = Counter(train)
        least = 1 if UNKNOWN in counts else 2
        known = {word for word, count in counts.items() if count >= least} | {UNKNOWN}
    else:
        known = set(train)
        known |= {UNKNOWN} if set(test) - known else set()
    return {token: index for index, token in enumerate(sorted(known))}


def _numbers(part: Sequence[str], ids: dict[str, int]) -> NDArray[Any]:
    """The numbers of the tokens of a part; those of characters by a table of all code points, as a text is long."""
    kind, unknown = id_type(len(ids)), ids.get(UNKNOWN, 0)
    if not isinstance(part, str):
        return np.fromiter((ids.get(token, unknown) for token in part), kind, len(part))
    table = np.full(sys.maxunicode + 1, unknown, kind)
    characters = [token for token in ids if token != UNKNOWN]
    table[[ord(token) for token in characters]] = [ids[token] for token in characters]
    return table[np.frombuffer(part.encode("utf-32-le"), np.uint32)]


def _files(root: Path) -> list[Path]:
    """The files of the training and the test part, or the one file of both."""
    if root.is_dir():
        return [_one_file(root, part) for part in ("train", "test")]
    if not root.is_file():
        raise UserError(f"`data-dir` must be a text file, or a folder with a train and a test text, got {root}")
    return [root]


def _one_file(root: Path, part: str) -> Path:
    found = sorted(file for file in root.glob(f"*{part}*") if file.suffix in ENDINGS)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise UserError(
            f"`data-dir` must be a text file, or hold one *{part}*.txt, got {names} in {root}; "
            "name the file, or put the two into a folder of their own"
        )
    return found[0]


def read_file(file: Path) -> str:
    """The text in `file`. Raises UserError for what is not UTF-8."""
    require_regular(file, "UTF-8 text")
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"`data-dir` must hold UTF-8 text, got {file} ({error})") from error


def words(text: str) -> list[str]:
    """What white space separates, and END at the end of a line that has none."""
    lines = [line.split() for line in text.removesuffix("\n").split("\n")] if text else []
    return [word for line in lines for word in (*line, *([END] if line[-1:] != [END] else []))]
