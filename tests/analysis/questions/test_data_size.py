"""Power laws in the size of the training set: against textbook formulas, with known truth, and through the command."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from made_up import record
from scipy import stats

from analysis.charts.data_size import data_size_figure
from analysis.data.batch_unit import BatchUnit
from analysis.data.load import load_sweep
from analysis.data_size import main
from analysis.questions.data_size import QUANTITIES, DataSizes, Scaling, data_sizes, lines
from analysis.stats.power_law import fit_power_law
from trainables.records.tables import Record
from trainables.runtime.errors import UserError

Write = Callable[..., Path]
X = np.array([300.0, 600.0, 1200.0, 2400.0, 5000.0])


def test_against_scipy_and_refitting() -> None:
    y = 3 * X**0.4 * np.exp([0.1, -0.05, 0.02, -0.1, 0.06])
    law = fit_power_law(X, y)
    line = stats.linregress(np.log(X), np.log(y))
    assert law.exponent == pytest.approx(line.slope, rel=1e-12)
    assert law.factor == pytest.approx(np.exp(line.intercept), rel=1e-12)
    half = stats.t.ppf(0.975, 3) * line.stderr
    assert law.exponent_interval.high - law.exponent == pytest.approx(half, rel=1e-9)
    for place in range(5):
        others = np.arange(5) != place
        rest = stats.linregress(np.log(X[others]), np.log(y[others]))
        predicted = np.exp(rest.intercept + rest.slope * np.log(X[place]))
        assert law.misses[place] == pytest.approx(y[place] / predicted, rel=1e-9)
    assert law.beats_mean
    assert law.outlier is None


def test_an_exact_law_has_no_width() -> None:
    law = fit_power_law(X, 2 * X**0.5)
    assert law.outlier is None
    assert law.at(40_000) == pytest.approx(400, rel=1e-12)
    assert law.interval(40_000).high == pytest.approx(400, rel=1e-6)
    assert fit_power_law(X, 2 * X**0.5 * np.array([1, 1, 1.5, 1, 1])).outlier == 2


def test_a_law_that_predicts_no_better_than_the_mean_is_not_extrapolated() -> None:
    flat = np.array([1.0, 1.2, 1.0, 1.2, 1.0])
    scaling = Scaling("b_crit", tuple(map(int, X)), tuple(flat), fit_power_law(X, flat))
    assert scaling.refusal == "the law predicts a size that is left out no better than the mean of the others"
    assert Scaling("b_crit", tuple(map(int, X)), tuple(X), fit_power_law(X, X)).refusal is None


@pytest.mark.slow
@pytest.mark.parametrize(("points", "replicates"), [(4, 3), (5, 3), (8, 5)])
def test_coverage_of_exponent_and_extrapolation(points: int, replicates: int) -> None:
    """4000 studies with a known law: noise of replicates, and how far each size is off the law. The binomial error of
    95 % is 0.34 %, so 93 to 97 % are six of them.
    """
    random = np.random.default_rng(0)
    sizes, at, exponent = np.geomspace(300, 5000, points), 40_000.0, 0.35
    of_exponent = of_new = refused = 0
    for _ in range(4000):
        off = 0.05 * random.normal(size=points + 1)
        noise = 0.1 * random.normal(size=(points + 1, replicates)).mean(axis=1)
        values = 0.7 * np.append(sizes, at) ** exponent * np.exp(off + noise)
        law = fit_power_law(sizes, values[:-1])
        of_exponent += law.exponent_interval.low <= exponent <= law.exponent_interval.high
        of_new += law.interval(at).low <= values[-1] <= law.interval(at).high
        refused += law.outlier is not None
    assert 0.93 <= of_exponent / 4000 <= 0.97
    assert 0.93 <= of_new / 4000 <= 0.97
    assert refused / 4000 <= 0.06  # of laws that hold, at most 5 %


def study(size: int, critical: float, least: float = 600.0, seeds: Sequence[int] = (0, 1, 2)) -> list[Record]:
    """A training set of `size` examples whose steps to a loss of 0.001 are least (1 + critical / B), to 1 %."""
    random = np.random.default_rng(size)
    records = []
    for batch in (8, 32, 128, 512):
        for seed in seeds:
            steps = least * (1 + critical / batch) * np.exp(0.01 * random.normal())
            epochs = steps * batch / size
            history = [
                {"epoch": e, "step": e * size / batch, "train_loss": float(1e-3 ** (e / epochs))}
                for e in range(1, int(np.ceil(epochs)) + 1)
            ]
            records.append(record(
                history=history, row={"epochs_done": len(history)}, batch_size=batch, seed=seed, split_seed=seed,
                train_size=size, measure_examples=size,
            ))  # fmt: skip
    return records


SIZES = (512, 1024, 2048, 4096)


def test_a_law_from_folders_and_from_one(write_sweep: Write, capsys: pytest.CaptureFixture[str]) -> None:
    records = {size: study(size, 20 * (size / 512) ** 0.5) for size in SIZES}
    folders = [str(write_sweep(records[size], f"n{size}")) for size in SIZES]
    assert main([*folders, "--to", "16384"]) == 0
    said, _, written = capsys.readouterr().out.partition(folders[0])
    assert written.startswith("/figures/data_size.png")
    whole = data_sizes([load_sweep(write_sweep([one for part in records.values() for one in part], "all"))])
    assert "\n".join(lines(whole, [16384])) == said.strip()
    critical, least, _ = whole.scalings
    assert critical.law is not None
    assert critical.law.exponent == pytest.approx(0.5, abs=0.05)
    assert critical.law.interval(16384).low < 20 * 32**0.5 < critical.law.interval(16384).high
    assert f"The critical batch size changes as (training examples)^{critical.law.exponent:.2f} (95 % CI " in said
    assert "\n  at 16384 examples: " in said
    assert "; 4 times the largest size)" in said
    assert "prediction interval" in said
    assert least.law is not None
    assert least.law.exponent == pytest.approx(0, abs=0.02)  # they do not depend on the size
    assert said.count(": significant; 4 sizes)") == 2
    assert said.count(": not significant; 4 sizes)") == 1
    low = round(least.law.exponent_interval.low, 2)
    assert f"(95 % CI {'−' if low < 0 else ''}{abs(low):.2f} to " in said


def test_the_figure_shows_what_is_said(write_sweep: Write) -> None:
    """Measured values, what the other sizes predict, and a law that goes on only where it is extrapolated."""
    records = [one for size in SIZES for one in study(size, 20 * (size / 512) ** 0.5)]
    found = data_sizes([load_sweep(write_sweep(records))])
    panels = data_size_figure(found, [16384]).axes
    assert [panel.get_ylabel() for panel in panels] == [*QUANTITIES.values()]
    for panel, scaling in zip(panels, found.scalings, strict=True):
        assert scaling.law is not None
        law, points = panel.lines[0], {line.get_marker(): line for line in panel.lines if line.get_marker() != "None"}
        x, y = np.asarray(law.get_xdata()), np.asarray(law.get_ydata())
        assert x[-1] == pytest.approx(16384 if scaling.refusal is None else 4096)
        assert y[-1] == pytest.approx(scaling.law.at(x[-1]))
        predicted = points["D"].get_ydata()
        assert predicted == pytest.approx(np.array(scaling.values) / np.array(scaling.law.misses))
        assert ("; not extrapolated" in panel.get_title()) == (scaling.refusal is not None)
    below, above = (lines(found, [size])[-1] for size in (128, 2048))
    assert "; 0.25 times the smallest size)" in below
    assert "times" not in above
    few = data_sizes([load_sweep(write_sweep([one for size in SIZES[:2] for one in study(size, 20.0)], "few"))])
    assert data_size_figure(few).axes[0].get_title() == "no law: too few sizes"


def test_laws_of_a_language_model_are_told_in_tokens() -> None:
    """2 N^0.5 at N = 40000 is 400, of sequences of 32 tokens 12800 tokens."""
    values = 2 * X**0.5
    scalings = tuple(Scaling(name, tuple(map(int, X)), tuple(values), fit_power_law(X, values)) for name in QUANTITIES)
    critical, steps, data = (
        lines(DataSizes(0.1, {}, (), (scaling,), BatchUnit(32)), [40_000])[1:] for scaling in scalings
    )
    assert critical[0].startswith("The critical batch size changes as (training sequences)^0.50 (")
    assert critical[1].startswith(
        "  at 40000 sequences: 400 sequences, 12800 tokens (95 % prediction interval 400 to 400;"
    )
    assert steps[1].startswith("  at 40000 sequences: 400 (95 % prediction interval 400 to 400;")
    assert data[0].startswith("The least number of tokens changes as (training sequences)^0.50 (")
    assert data[1].startswith("  at 40000 sequences: 12800 (95 % prediction interval 12800 to 12800;")


def test_withheld(write_sweep: Write) -> None:
    three = [one for size in SIZES[:3] for one in study(size, 20.0)]
    said = "\n".join(lines(data_sizes([load_sweep(write_sweep(three, "three"))]), [9000]))
    assert "No power law of the critical batch size: it needs 4 training-set sizes that determine it, got 3" in said
    assert "9000" not in said
    sizes = (512, 724, 1024, 1448, 2048, 2896, 4096)
    bent = [one for size in sizes for one in study(size, 20.0 * (size / 512) ** 0.5 * (4 if size == 1448 else 1))]
    said = "\n".join(lines(data_sizes([load_sweep(write_sweep(bent, "bent"))]), [9000]))
    assert "withheld, as the law of the other sizes misses the one of 1448 examples, which is " in said


def test_what_cannot_be_compared(write_sweep: Write, capsys: pytest.CaptureFixture[str]) -> None:
    one = load_sweep(write_sweep(study(512, 20.0), "one"))
    with pytest.raises(UserError, match="each training-set size in one folder, got 512 in two"):
        data_sizes([one, one])
    other = [record(train_size=1024, measure_examples=1024, model="resnet")]
    with pytest.raises(UserError, match="`results` must have one model, got mlp, resnet"):
        data_sizes([one, load_sweep(write_sweep(other, "other"))])
    with pytest.raises(UserError, match="must hold completed trials with their epochs, got none"):
        data_sizes([load_sweep(write_sweep([record()], "short"))])
    with pytest.raises(UserError, match=r"at least 3 batch sizes that reach a training loss of 1e-05 .* got 0 in"):
        data_sizes([one], 1e-5)
    assert main([str(one.folder), "--to", "0"]) == 2
    assert "`to` must be 1 or more training examples, got 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # its logarithm used to warn
        main([str(one.folder), "--loss", "0"])
    assert "--loss: must be a number above 0, got 0" in capsys.readouterr().err


def test_what_is_doubtful_at_a_training_set_size_is_told(write_sweep: Write) -> None:
    """A critical batch outside the batch sizes used to be told without its doubt, and so did upper bounds."""
    late = [dataclasses.replace(one, epochs=one.epochs[-1:]) for one in study(1024, 60.0)]
    folders = [write_sweep(records, f"n{place}") for place, records in enumerate((study(512, 2.0), late))]
    _, small, large, *_ = lines(data_sizes([load_sweep(folder) for folder in folders]))
    assert small.endswith("; the critical batch size is outside the batch sizes tried: a rough guess")
    assert large.endswith("; steps are upper bounds")
