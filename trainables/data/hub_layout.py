"""Which Parquet files of a folder are which split of which configuration, as datasets lie on the Hugging Face Hub.

    data/train-00000-of-00001.parquet                 file named by its split
    CONFIG/train-00000-of-00001.parquet               the same, in a folder for each configuration
    CONFIG/SPLIT/0000.parquet                         the branch refs/convert/parquet
    CONFIG/partial-SPLIT/0000.parquet                 the same, of the beginning of a large split
    CONFIG-train.parquet                              file named by both

A split is `train`, `validation` (also `valid`, `val`, `dev`) or `test` (also `eval`), a word of the file's name or of a
folder's. What is left of the path, without the number of the shard, is the configuration.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from trainables.data.files import Walk
from trainables.runtime.errors import UserError

WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
_NUMBER = re.compile(r"[-_. ]*(part|shard|chunk)?[-_. ]*\d+([-_]of[-_]\d+([-_][0-9a-f]+)?|[-_][0-9a-f]{8,})?$")
PARTIAL = "partial-"
EXPECTED = "a folder with *train*.parquet and *test*.parquet files"


@dataclass(frozen=True)
class Part:
    """The files of one split of one configuration."""

    split: str
    config: str
    files: tuple[Path, ...]


def choose_parts(root: Path, split: object = None, config: object = None) -> tuple[Part, Part, list[str]]:
    """The training part, the part to test on, and the names of the splits that could be that.

    Args:
        split: the split to test on; by default `test`, or `validation` where there is none.
        config: the configuration; needed where there are several.

    Raises UserError, naming the choices, where there is no such part or more than one.
    """
    try:
        files = [file for file in Walk(root).files() if file.suffix == ".parquet"] if root.is_dir() else []
    except OSError as error:
        raise UserError(f"`data-dir` must be {EXPECTED}, got {root} ({error.strerror})") from error
    parts = _parts(root, files)
    found = sorted({part.config for part in parts})
    if config is not None:
        parts = [part for part in parts if part.config == str(config)]
        if not parts:
            raise UserError(f"`config` must be one of {_listed(found)}, got {config!r}")
    splits = [name for name in WORDS if any(part.split == name for part in parts)]
    to_test = [name for name in splits if name != "train"]
    if "train" not in splits or not to_test:
        in_parts = [file for part in parts for file in part.files] if config is not None else files
        shown = _listed([str(file.relative_to(root)) for file in in_parts]) if files else "no Parquet file"
        raise UserError(f"`data-dir` must be {EXPECTED}, got {root} with {shown}")
    chosen = to_test[0] if split is None else next((name for name in WORDS if str(split) in (name, *WORDS[name])), None)
    if chosen not in to_test:
        raise UserError(f"`split` must be one of {_listed(to_test)}, to test on, got {split!r}")
    train, test = ([part for part in parts if part.split == name] for name in ("train", chosen))
    if len(train) > 1 or len(test) > 1:
        raise UserError(
            f"`data-dir` must hold one configuration, got {_listed(found)} in {root}; "
            f"--dataset-options config={found[0]} chooses one"
        )
    if train[0].config != test[0].config and "." not in (train[0].config, test[0].config):
        raise UserError(
            f"`data-dir` must hold train and {chosen} of one configuration, got train of {train[0].config} and "
            f"{chosen} of {test[0].config} in {root}; give both the same name, or none"
        )
    for part in (train[0], test[0]):
        _require_all_shards(part)
    return train[0], test[0], to_test


def _require_all_shards(part: Part) -> None:
    """Raises UserError where the files are numbered `i-of-n`, and one of the n is missing."""
    numbered = [match for file in part.files if (match := re.search(r"(\d+)[-_]of[-_](\d+)", file.stem))]
    found = {int(match[1]) for match in numbered}
    for match in numbered:
        count = int(match[2])
        if len(numbered) == len(part.files) and len(found) < count:
            missing = min(set(range(count)) - found, default=count)
            raise UserError(
                f"`data-dir` must hold all {count} shards of {part.split}, got {len(found)}; "
                f"number {missing} is missing beside {part.files[0]}"
            )


def _parts(root: Path, files: list[Path]) -> list[Part]:
    grouped: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        split, config = _named(file.relative_to(root).with_suffix(""))
        if split is not None:
            grouped.setdefault((split, config), []).append(file)
    return [Part(split, config, tuple(found)) for (split, config), found in grouped.items()]


def _named(path: Path) -> tuple[str | None, str]:
    """The split and the configuration that a path without its ending names."""
    *folders, name = path.parts
    whole_words = [
        (name, r"(?<![a-z])({})(?![a-z])"),
        *((folder, r"(?<![a-z])({})(?![a-z])") for folder in folders[::-1]),
    ]
    for place, pattern in [*whole_words, (name, "({})")]:  # in the end also as a part of a word, but of the file only
        for split, words in WORDS.items():
            match = re.search(pattern.format("|".join(words)), place, re.IGNORECASE)
            if match and place is name:
                beside = [_NUMBER.sub("", text).strip("-_. ") for text in (name[: match.start()], name[match.end() :])]
                return split, "/".join([*folders, *filter(None, beside)]) or "."
            if match:
                is_split = match[0] == place.removeprefix(PARTIAL)
                return split, "/".join(folder for folder in folders if not (is_split and folder is place)) or "."
    return None, "."


def _listed(names: list[str], most: int = 10) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])
