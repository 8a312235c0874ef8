"""Byte-pair and other subword tokenizers that the user has: a tokenizer.json of the `tokenizers` library.

The library is an optional extra, imported where a tokenizer is asked for.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.runtime.errors import UserError, one_line, quoted


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
        found = []
        for text, encoding in zip(texts, self._own.encode_batch(texts, add_special_tokens=False), strict=True):
            ids = np.array(encoding.ids, dtype=np.int64)
            if ids.max(initial=0) >= self.vocabulary:
                raise UserError(
                    f"`tokenizer` must have ids from 0 to {self.vocabulary - 1} for its {self.vocabulary} tokens, "
                    f"got {ids.max()} in {self._file}"
                )
            if len(ids) == 0 and text.strip():
                raise UserError(f"`tokenizer` must know the text, got no token for {text[:20]!r} in {self._file}")
            if (lost := self._lost(text, encoding.offsets)) is not None:
                raise UserError(
                    f"`tokenizer` must have a token for every character, or one for unknown text, got none for "
                    f"{lost!r} in {self._file}"
                )
            found.append(ids)
        return found

    def _lost(self, text: str, offsets: list[tuple[int, int]]) -> str | None:
        """A character that no token covers; None where these are spaces, or what the tokenizer is made to remove."""
        starts = np.zeros(len(text) + 1, dtype=np.int64)
        for place, change in zip(np.array(offsets, dtype=np.int64).reshape(-1, 2).T, (1, -1), strict=True):
            np.add.at(starts, place, change)
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
