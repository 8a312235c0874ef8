"""The names of measures in words, and the numbers of their settings."""

import pytest

from analysis.data.measure_names import NAMES, measure_in_words, short
from trainables.measures.by_name import MEASURES


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ("box_sharpness", "box sharpness"),
        ("hessian_trace", "Hessian trace"),
        ("gauss_newton_max_eig", "largest Gauss-Newton eigenvalue"),
        ("adaptive_pac_bayes_width", "adaptive PAC-Bayes width"),
        ("logit_normalized_linf_ball_sharpness", "logit-normalized l-infinity ball sharpness"),
        ("my_own_measure", "my own measure"),
    ],
)
def test_names_in_words(measure: str, words: str) -> None:
    assert measure_in_words(measure) == words


def test_every_measure_has_words_of_its_own() -> None:
    words = [measure_in_words(measure) for measure in MEASURES]
    assert len(set(words)) == len(words)
    assert not any("_" in text for text in words)
    assert set(NAMES) <= set(MEASURES)


@pytest.mark.parametrize(
    ("number", "text"),
    [(1e-3, "1e-3"), (5e-4, "5e-4"), (0.05, "0.05"), (0.123456789, "0.123456789"), (2.0, "2"), (1e6, "1e6")],
)
def test_short_numbers(number: float, text: str) -> None:
    assert short(number) == text
    assert float(text) == number
