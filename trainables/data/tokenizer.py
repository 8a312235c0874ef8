"""Byte-pair and other subword tokenizers that the user has: a tokenizer.json of the `tokenizers` library.

The library is an optional extra, imported where a tokenizer is asked for.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.runtime.errors import UserError, one_line, quoted
from trainables.runtime.text import duration

PIECE = 2**18  # characters: the library takes about 170 bytes for each character that it encodes at once
OVERLAP = 2**10  # characters, on each side of where two pieces meet
TOGETHER = 8  # pieces, on several threads
AT_ONCE = 4096  # texts
SAID_EVERY = 10.0  # seconds of encoding a long text


@dataclass(frozen=True)
class _Encoded:
    """The ids of the tokens of a piece of a text, and the places in the text where each begins and ends."""

    ids: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]

    def moved(self, places: int) -> "_Encoded":
        return _Encoded(self.ids, self.begins + places, self.ends + places)

    def inside(self, low: int, high: int) -> "_Encoded":
        """The tokens between two places."""
        return self._of((self.begins >= low) & (self.ends <= high))

    def before(self, place: int) -> "_Encoded":
        return self._of(self.begins < place)

    def since(self, place: int) -> "_Encoded":
        return self._of(self.begins >= place)

    def _of(self, chosen: NDArray[np.bool_]) -> "_Encoded":
        return _Encoded(self.ids[chosen], self.begins[chosen], self.ends[chosen])

    def __len__(self) -> int:
        return len(self.ids)

    def equals(self, other: "_Encoded") -> bool:
        mine, theirs = (np.stack([one.ids, one.begins, one.ends]) for one in (self, other))
        return np.array_equal(mine, theirs)


_NOTHING = _Encoded(*(np.empty(0, np.int64) for _ in range(3)))


class Tokenizer:
    """The tokenizer in `file`; `vocabulary` is the number of its tokens.

    Raises UserError where it is no tokenizer, or the library is not installed.
    """

    def __init__(self, file: Path) -> None:
        try:
            from tokenizers import Tokenizer as FromFile
        except ImportError as error:
            raise UserError(
                f"`level` bpe needs tokenizers, which cannot be imported ({one_line(error)}); "
                "pip install 'large-batch-sweeps[hf]'"
            ) from error
        self._file = file
        try:
            self._own: Any = FromFile.from_file(str(self._file))
        except Exception as error:  # of a library in Rust
            raise UserError(f"`tokenizer` must be a tokenizer.json, got {self._file} ({quoted(error)})") from error
        self._own.no_truncation()
        self._own.no_padding()
        self.vocabulary: int = self._own.get_vocab_size(with_added_tokens=True)

    def encode(self, texts: list[str]) -> list[NDArray[np.int64]]:
        """The token ids of each text, without tokens that mark its beginning and end.

        Raises UserError for ids outside of the vocabulary, and for characters that have no token.
        """
        found: list[NDArray[np.int64]] = []
        for first in range(0, len(texts), AT_ONCE):
            some = texts[first : first + AT_ONCE]
            found += [self._check(text, one).ids for text, one in zip(some, self._encoded(some), strict=True)]
        return found

    def encode_long(self, text: str) -> NDArray[np.int64]:
        """`encode` of one text, in pieces: with less memory for a long one, and on several threads.

        Neighbouring pieces overlap. They are joined in the middle of the overlap, where both have the same tokens at
        the same places. Where they do not, as the tokens depend on text far away, the text is encoded as a whole.
        """
        joined: list[NDArray[np.int64]] = []
        begin, last = 0, _NOTHING  # the tokens of the piece before, and where the first of them begins
        for cut, own in self._pieces(text):
            if cut:
                middle = (cut - OVERLAP // 2, cut + OVERLAP // 2)
                shared = own.inside(*middle)
                if not len(shared) or not shared.equals(last.inside(*middle)):
                    return self.encode([text])[0]
                end = int(shared.begins[0])
                joined.append(self._check(text[begin:end], last.before(end).moved(-begin)).ids)
                begin, own = end, own.since(end)
            last = own
        joined.append(self._check(text[begin:], last.moved(-begin)).ids)
        return np.concatenate(joined)

    def _pieces(self, text: str) -> Iterator[tuple[int, _Encoded]]:
        """Where each piece of the text begins, and its tokens and those of the overlaps on both sides."""
        places = range(0, len(text), PIECE)
        started = said = time.monotonic()
        for first in range(0, len(places), TOGETHER):
            cuts = places[first : first + TOGETHER]
            starts = [max(cut - OVERLAP, 0) for cut in cuts]
            texts = [text[start : cut + PIECE + OVERLAP] for start, cut in zip(starts, cuts, strict=True)]
            for cut, start, found in zip(cuts, starts, self._encoded(texts), strict=True):
                yield cut, found.moved(start)
            done = (cuts[-1] + PIECE) / len(text)
            if time.monotonic() - said > SAID_EVERY and done < 1:
                said = time.monotonic()
                left = duration((said - started) * (1 / done - 1))
                print(f"Tokenized {100 * done:.0f} % of the text, {left} left", file=sys.stderr, flush=True)

    def _encoded(self, texts: list[str]) -> list[_Encoded]:
        found = []
        for encoding in self._own.encode_batch(texts, add_special_tokens=False):
            begins, ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
            found.append(_Encoded(np.array(encoding.ids, dtype=np.int64), begins, ends))
        return found

    def _check(self, text: str, found: _Encoded) -> _Encoded:
        """`found`, the tokens of `text`. Raises UserError as `encode`."""
        most = found.ids.max(initial=0)
        if most >= self.vocabulary:
            raise UserError(
                f"`tokenizer` must have ids from 0 to {self.vocabulary - 1} for its {self.vocabulary} tokens, "
                f"got {most} in {self._file}"
            )
        if not len(found) and text.strip():
            raise UserError(f"`tokenizer` must know the text, got no token for {text[:20]!r} in {self._file}")
        if (lost := self._lost(text, found)) is not None:
            raise UserError(
                f"`tokenizer` must have a token for every character, or one for unknown text, got none for "
                f"{lost!r} in {self._file}"
            )
        return found

    def _lost(self, text: str, found: _Encoded) -> str | None:
        """A character that no token covers; None where these are spaces, or what the tokenizer is made to remove."""
        count = len(text) + 1
        starts = np.bincount(found.begins, minlength=count) - np.bincount(found.ends, minlength=count)
        uncovered = np.flatnonzero(np.cumsum(starts)[:-1] <= 0)
        lost = {text[place] for place in uncovered.tolist()}
        lost = {one for one in lost if one.isprintable() and not one.isspace()}
        if lost and (normalizer := self._own.normalizer) is not None:
            lost &= set(normalizer.normalize_str("".join(sorted(lost))))
        if not lost:
            return None
        # Behind a character that is dropped within a word, the library counts on from the wrong place.
        shown = sorted({one for one in text if one.isprintable() and not one.isspace()})
        return next((one for one in shown if not self._own.encode(one, add_special_tokens=False).ids), min(lost))


def tokenizer_file(level: str, file: str | None) -> Path | None:
    """The tokenizer.json of level bpe, None for other levels.

    Raises UserError where there is no such file, and where one is given without the other.
    """
    if not isinstance(file, str | None):
        raise UserError(f"`tokenizer` must be a tokenizer.json, got {file!r}")
    if (level == "bpe") != (file is not None):
        raise UserError(f"`tokenizer` must be a tokenizer.json with level=bpe, and only then, got {file} with {level}")
    if file is None:
        return None
    path = Path(file).expanduser()
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # a NUL in the name, or one that is too long
        is_file = False
    if not is_file:
        raise UserError(f"`tokenizer` must be a tokenizer.json, got no file {quoted(path)}")
    return path
