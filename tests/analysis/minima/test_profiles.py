"""Points between and around real, tiny minima: exact at the ends, else against naive references."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from made_up import record
from matplotlib.figure import Figure
from narrow import as_a
from torch import Tensor

from analysis import landscape
from analysis import parametric_plot as parametric_plot_script
from analysis.charts.parametric_plot import parametric_figure
from analysis.data.load import load_sweep
from analysis.data.metric import Metric
from analysis.minima import parametric_plot
from analysis.minima.pairs import MinimumPair, minimum_pairs
from analysis.minima.profiles import SCHEMA, Network, Point, coefficients, direction, profiles
from trainables.config import TrialConfig, model_options_json
from trainables.data import Dataset, Source
from trainables.records.saved import config_of, network_of, source_of, split_of, weights_of
from trainables.records.tables import compact, read_tables, write_record
from trainables.runtime.errors import UserError
from trainables.sharpness.model_loss import BatchNorm, ModelLoss
from trainables.trial import Trial

PLAIN, BATCH_NORM = {"widths": [12]}, {"widths": [12, 8], "batch_norm": True}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(
    digits: Source, make_config: Callable[..., TrialConfig], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A sweep of an MLP and one with batch norm: batch 10 and 60, two seeds, with weights; each trial takes 20 ms."""
    made = {}
    for name, options in (("plain", PLAIN), ("batch_norm", BATCH_NORM)):
        folder = made[name] = tmp_path_factory.mktemp(name)
        (folder / "trials").mkdir()
        (folder / "weights").mkdir()
        for batch_size, seed in itertools.product((10, 60), (0, 1)):
            config = make_config(
                train_size=60, test_size=90, measure_examples=60, epochs=6, batch_size=batch_size, seed=seed,
                split_seed=seed, model_options=model_options_json(options),
            )  # fmt: skip
            trial = Trial(config, digits)
            trial.train()
            write_record(folder, trial.record())
            trial.save_weights(folder / "weights" / f"{config.trial_id}.pt")
        compact(folder)
    return made


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["trial_id"]: row for row in read_tables(folder).trials.to_pylist()}


def ends_of(folder: Path) -> tuple[list[dict[str, Any]], Dataset, list[dict[str, Tensor]]]:
    """A pair of minima: their rows, their data and their weights."""
    pair = minimum_pairs(load_sweep(folder))[0]
    rows = [rows_of(folder)[trial_id] for trial_id in (pair.small, pair.large)]
    config = config_of(rows[0])
    data = split_of(config, source_of(config))
    return rows, data, [weights_of(folder, row["trial_id"], CPU) for row in rows]


def between(rows: list[dict[str, Any]], alpha: float, kind: str = "linear", mode: BatchNorm = "recalibrated") -> Point:
    return Point(
        trial_id=rows[0]["trial_id"], other_trial_id=rows[1]["trial_id"], kind=kind, alpha=alpha, batch_norm=mode
    )


def around(row: dict[str, Any], alpha: float, beta: float | None = None, seed: int = 3) -> Point:
    kind = "random_line" if beta is None else "random_plane"
    return Point(trial_id=row["trial_id"], kind=kind, direction_seed=seed, alpha=alpha, beta=beta, batch_norm="running")


@pytest.mark.parametrize(("name", "mode"), [("plain", "recalibrated"), ("plain", "batch"), ("batch_norm", "running")])
@pytest.mark.parametrize("kind", ["linear", "curvilinear"])
def test_the_ends_are_the_stored_losses_to_the_last_bit(
    folders: dict[str, Path], name: str, mode: BatchNorm, kind: str
) -> None:
    rows, _, _ = ends_of(folders[name])
    found = profiles(folders[name], [between(rows, alpha, kind, mode) for alpha in (0.0, 1.0)])
    names = ("loss", "accuracy", "metric")
    stored = [tuple(row[f"{split}_{name}"] for name in names) for row in rows for split in ("train", "test")]
    assert list(found[list(names)].itertuples(index=False, name=None)) == stored


def test_random_points_at_the_centre_are_the_stored_losses_to_the_last_bit(folders: dict[str, Path]) -> None:
    rows, _, _ = ends_of(folders["batch_norm"])
    found = profiles(folders["batch_norm"], [around(rows[0], 0.0), around(rows[0], 0.0, 0.0)], splits=("train",))
    assert found["loss"].tolist() == [rows[0]["train_loss"]] * 2


def test_coefficients() -> None:
    assert coefficients("linear", -1.0) == (2.0, -1.0)
    assert [coefficients("curvilinear", alpha) for alpha in (0.0, 1.0)] == [(1.0, 0.0), (0.0, 1.0)]
    assert coefficients("curvilinear", 1 / 3) == pytest.approx((3**0.5 / 2, 0.5), abs=1e-14)


@pytest.mark.parametrize("kind", ["linear", "curvilinear"])
def test_a_point_in_between_is_that_of_mixed_weights(folders: dict[str, Path], kind: str) -> None:
    """Against a network loaded by hand, in float64: float32 rounds 1e-7 of logits of order 10."""
    rows, data, states = ends_of(folders["plain"])
    found = profiles(folders["plain"], [between(rows, 0.3, kind)]).set_index("split")
    one, other = (0.7, 0.3) if kind == "linear" else (np.cos(0.15 * np.pi), np.sin(0.15 * np.pi))
    first, second = ({name: value.double() for name, value in state.items()} for state in states)
    mixed = [one * first[name] + other * second[name] for name in first]
    hidden = torch.relu(as_a(Tensor, data.test_inputs).double().flatten(1) @ mixed[0].T + mixed[1])
    logits = hidden @ mixed[2].T + mixed[3]
    loss = torch.nn.functional.cross_entropy(logits, as_a(Tensor, data.test_labels))
    assert found.loc["test", "loss"] == pytest.approx(float(loss), rel=1e-5)
    assert found.loc["test", "accuracy"] == float((logits.argmax(1) == as_a(Tensor, data.test_labels)).double().mean())


@pytest.mark.parametrize("mode", ["recalibrated", "batch"])
def test_batch_norm_modes_are_those_of_the_measures(folders: dict[str, Path], mode: BatchNorm) -> None:
    """The training loss halfway, against trainables.sharpness.model_loss in float64."""
    rows, data, states = ends_of(folders["batch_norm"])
    found = profiles(folders["batch_norm"], [between(rows, 0.5, mode=mode)], splits=("train",))
    network = Network(config_of(rows[0]), data, "running")
    model = copy.deepcopy(network.model).requires_grad_()
    model.load_state_dict(network.mixed([(0.5, state) for state in states]))
    size = 60 if mode == "batch" else None
    loss = ModelLoss(
        model, as_a(Tensor, data.train_inputs), as_a(Tensor, data.train_labels), batch_norm=mode, batch_size=size
    )
    assert found["loss"][0] == pytest.approx(loss.value(loss.params), rel=1e-5)


def test_test_examples_are_normalized_by_the_statistics_of_training_examples(folders: dict[str, Path]) -> None:
    rows, data, states = ends_of(folders["batch_norm"])
    found = profiles(folders["batch_norm"], [between(rows, 0.5)], splits=("test",))
    network = Network(config_of(rows[0]), data, "running")
    state = {name: value.double() for name, value in network.mixed([(0.5, one) for one in states]).items()}

    def layers(
        inputs: Tensor, statistics: list[tuple[Tensor, Tensor]] | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        noted = []
        values = inputs.double().flatten(1)
        for k, (linear, norm) in enumerate((("1", "2"), ("4", "5"))):
            values = values @ state[f"{linear}.weight"].T + state[f"{linear}.bias"]
            noted.append((values.mean(0), values.var(0, correction=0)))
            mean, variance = statistics[k] if statistics else noted[k]
            values = (values - mean) / (variance + 1e-5).sqrt() * state[f"{norm}.weight"] + state[f"{norm}.bias"]
            values = values.relu()
        return values @ state["7.weight"].T + state["7.bias"], noted

    logits, _ = layers(as_a(Tensor, data.test_inputs), layers(as_a(Tensor, data.train_inputs), None)[1])
    assert found["loss"][0] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, as_a(Tensor, data.test_labels))), rel=1e-5
    )


def test_running_variances_stay_above_zero_beyond_the_ends(folders: dict[str, Path]) -> None:
    rows, _, _ = ends_of(folders["batch_norm"])
    found = profiles(folders["batch_norm"], [between(rows, alpha, mode="running") for alpha in (-3.0, 4.0)])
    assert np.isfinite(found["loss"]).all()


def test_directions_have_the_weights_filter_norms_and_one_seed_is_one_draw(folders: dict[str, Path]) -> None:
    rows, data, states = ends_of(folders["batch_norm"])
    model = Network(config_of(rows[0]), data, "running").model
    first, second = (direction(model, state, 3, 0) for state in states)
    for name, moved in first.items():
        if moved.ndim < 2:
            assert not moved.any()
            continue
        assert moved.norm(dim=1).tolist() == pytest.approx(states[0][name].norm(dim=1).tolist(), rel=1e-5)
        cosines = torch.nn.functional.cosine_similarity(moved, second[name])
        assert cosines.tolist() == pytest.approx([1.0] * len(cosines), abs=1e-5)
    assert not torch.equal(first["1.weight"], direction(model, states[0], 3, 1)["1.weight"])
    plane = profiles(folders["batch_norm"], [around(rows[0], 0.5), around(rows[0], 0.5, 0.0)], splits=("train",))
    assert plane["loss"][0] == plane["loss"][1]  # a plane's first axis is the line of its seed


def test_points_are_kept_and_need_neither_weights_nor_data_again(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    (folder / "trials").mkdir(parents=True)
    rows, _, states = ends_of(folders["plain"])
    for table in ("trials", "epochs", "measures"):
        (folder / f"{table}.parquet").write_bytes((folders["plain"] / f"{table}.parquet").read_bytes())
    with pytest.raises(UserError, match=r"^`results` must hold the weights of trial .*--keep-weights"):
        profiles(folder, [between(rows, 0.5)])
    (folder / "weights").mkdir()
    for row, state in zip(rows, states, strict=True):
        torch.save(state, folder / "weights" / f"{row['trial_id']}.pt")
    first = profiles(folder, [between(rows, 0.5)])
    for path in (folder / "weights").iterdir():
        path.unlink()
    pd.testing.assert_frame_equal(first, profiles(folder, [between(rows, 0.5)]))
    assert pq.read_table(folder / "profiles.parquet").schema.equals(SCHEMA)
    with pytest.raises(UserError, match="must hold the weights"):
        profiles(folder, [between(rows, 0.5), between(rows, 0.25)])
    (folder / "profiles.parquet").write_bytes(b"spoilt")
    with pytest.raises(UserError, match=r"whole profiles\.parquet"):
        profiles(folder, [between(rows, 0.5)])


def test_weights_that_are_not_the_trials_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    rows, _, states = ends_of(folders["plain"])
    (tmp_path / "trials").mkdir()
    (tmp_path / "weights").mkdir()
    for table in ("trials", "epochs", "measures"):
        (tmp_path / f"{table}.parquet").write_bytes((folders["plain"] / f"{table}.parquet").read_bytes())
    for row in rows:
        torch.save(states[0], tmp_path / "weights" / f"{row['trial_id']}.pt")
    with pytest.raises(UserError, match=f"must reproduce the train loss that trial {rows[1]['trial_id']}"):
        profiles(tmp_path, [between(rows, 0.5)])
    torch.save({"odd": torch.zeros(1)}, tmp_path / "weights" / f"{rows[0]['trial_id']}.pt")
    with pytest.raises(UserError, match="must fit the network"):
        profiles(tmp_path, [between(rows, 0.5)])
    other = TrialConfig(**{**vars(config_of(rows[0])), "data_fingerprint": "other"})
    with pytest.raises(UserError, match=r"^`data-dir` must hold the data that the trial was trained on"):
        source_of(other)
    edited = TrialConfig(**{**vars(config_of(rows[0])), "model": "made_up:record", "model_fingerprint": "before"})
    with pytest.raises(UserError, match="made_up:record must be as it was when the trial was trained"):
        network_of(edited, split_of(edited, source_of(edited)))


def test_pairs_differ_in_batch_size_alone(write_sweep: Callable[..., Path]) -> None:
    axes = itertools.product((16, 64, 512), (0.003, 0.01), (0, 1))
    records = [record(batch_size=b, learning_rate=rate, seed=s, split_seed=s) for b, rate, s in axes]
    sweep = load_sweep(write_sweep(records))
    pairs = minimum_pairs(sweep)
    table = sweep.trials.set_index("trial_id")
    assert len(pairs) == 4
    for pair in pairs:
        small, large = table.loc[pair.small], table.loc[pair.large]
        assert (small["batch_size"], large["batch_size"]) == (16, 512)
        assert (small[["learning_rate", "seed"]] == large[["learning_rate", "seed"]]).all()
    middle = table.index[(table["batch_size"] == 64) & (table["seed"] == table.loc[pairs[0].small, "seed"])][0]
    assert minimum_pairs(sweep, [middle, pairs[0].small]) == [MinimumPair(middle, pairs[0].small, pairs[0].replicate)]


def test_pairs_that_cannot_be_compared(write_sweep: Callable[..., Path]) -> None:
    lonely = load_sweep(write_sweep([record(batch_size=16), record(batch_size=16, seed=1)], "lonely"))
    with pytest.raises(UserError, match="two completed trials that differ in batch size alone"):
        minimum_pairs(lonely)
    records = [record(batch_size=16), record(batch_size=64, model="f1"), record(batch_size=64, split_seed=1)]
    sweep = load_sweep(write_sweep(records))
    first, network, split = (entry.trial["trial_id"] for entry in records)
    with pytest.raises(UserError, match="got model mlp and f1"):
        minimum_pairs(sweep, [first, network])
    with pytest.raises(UserError, match="one split of the data"):
        minimum_pairs(sweep, [first, split])
    with pytest.raises(UserError, match="twice"):
        minimum_pairs(sweep, [first, first])
    with pytest.raises(UserError, match="nowhere, which is not among its trials"):
        minimum_pairs(sweep, [first, "nowhere"])


def test_alphas() -> None:
    assert parametric_plot.alphas() == [k / 8 - 1 for k in range(25)]
    assert parametric_plot.alphas(-0.5, 1.3, 2) == [-0.5, 0.0, 1.0, 1.3]
    for wrong in ((0.5, 0.5, 25), (1.0, 0.0, 25), (0.0, float("nan"), 25), (0.0, 1.0, 1)):
        with pytest.raises(UserError, match=r"^`(alpha-range|points)` must "):
            parametric_plot.alphas(*wrong)


def test_rises_and_their_ratio_in_closed_form() -> None:
    """Parabolas of curvature c at SB and 9 c at LB along every line, but for the seed's factor."""
    rows = []
    for seed, factor in enumerate((1.0, 2.0, 4.0)):
        for alpha in parametric_plot.alphas():
            nearest = 0.0 if alpha < 0.5 else 1.0
            loss = 0.01 + factor * (1 + 8 * nearest) * (alpha - nearest) ** 2
            key = {"trial_id": f"s{seed}", "other_trial_id": f"l{seed}", "replicate": seed}
            rows.append({**key, "kind": "linear", "split": "train", "alpha": alpha, "loss": loss, "accuracy": 1.0})
    pairs = tuple(MinimumPair(f"s{seed}", f"l{seed}", seed) for seed in range(3))
    plot = parametric_plot.ParametricPlot(pairs, pd.DataFrame(rows), (16, 300), 0)
    table = parametric_plot.rises(plot)
    assert table["rise_sb"].tolist() == pytest.approx([0.0625, 0.125, 0.25])
    assert table["log_ratio"].tolist() == pytest.approx([np.log(9)] * 3)
    assert "9.00 times as much around batch 300 as around 16" in parametric_plot.parametric_sentence(plot)
    short = parametric_plot.ParametricPlot(pairs, plot.rows[plot.rows["alpha"] >= 0], (16, 300), 0)
    assert table["log_ratio"].notna().all()
    assert parametric_plot.rises(short)["log_ratio"].isna().all()  # the range does not reach to both sides
    assert "no comparison" in parametric_plot.parametric_sentence(short)


def one_pair(of: Metric, **columns: Any) -> parametric_plot.ParametricPlot:
    """A path of five points between two minima, whose loss is 1 + alpha^2."""
    alphas = np.linspace(0, 1, 5)
    key = {"trial_id": "a", "other_trial_id": "b", "replicate": 0}
    rows = pd.DataFrame(
        {**key, "kind": kind, "split": split, "alpha": alpha, "loss": 1 + alpha**2}
        for kind in parametric_plot.KINDS
        for split in ("train", "test")
        for alpha in alphas
    )
    pairs = (MinimumPair("a", "b", 0),)
    return parametric_plot.ParametricPlot(pairs, rows.assign(**columns), (16, 300), 0, of)


def footnotes(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def test_the_second_panel_is_the_primary_metric_of_the_task() -> None:
    mse = Metric("mse", "", "lower")
    figure = parametric_figure(one_pair(mse, accuracy=np.nan, metric=np.tile([0.5, 0.4, 0.3, 0.2, 0.1], 4)))
    assert [panel.get_ylabel() for panel in figure.axes] == ["loss", "", "MSE", ""]
    assert np.asarray(figure.axes[2].lines[0].get_ydata()).tolist() == [0.5, 0.4, 0.3, 0.2, 0.1]
    f1 = Metric("f1", "points", "higher")
    figure = parametric_figure(one_pair(f1, accuracy=0.9, metric=0.25))
    assert figure.axes[2].get_ylabel() == "F1 [%]"
    assert np.asarray(figure.axes[2].lines[0].get_ydata()).tolist() == [25.0] * 5


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (Metric("nats", "nats per token", "lower"), "The primary metric is the loss."),
        (Metric("mse", "", "lower"), "profiles.parquet has no values of MSE"),
    ],
)
def test_without_values_of_the_metric_there_is_one_panel_and_a_line(metric: Metric, said: str) -> None:
    figure = parametric_figure(one_pair(metric, accuracy=0.5, metric=np.nan))
    assert len(figure.axes) == 2
    assert said in footnotes(figure)


def test_a_file_from_before_the_metric_was_kept_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    rows, _, _ = ends_of(folders["plain"])
    points = [between(rows, alpha) for alpha in (0.0, 1.0)]
    before = profiles(folders["plain"], points)
    for table in ("trials", "epochs", "measures"):
        (tmp_path / f"{table}.parquet").write_bytes((folders["plain"] / f"{table}.parquet").read_bytes())
    (tmp_path / "trials").mkdir()
    kept = pq.read_table(folders["plain"] / "profiles.parquet")
    pq.write_table(kept.drop_columns("metric"), tmp_path / "profiles.parquet")
    found = profiles(tmp_path, points)
    assert found["accuracy"].tolist() == before["accuracy"].tolist()
    assert found["metric"].isna().all()


def test_the_scripts_on_kept_weights(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = folders["batch_norm"]
    assert parametric_plot_script.main([str(folder), "--alpha-range", "-0.5", "1.5", "--points", "5"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("Along the line between the minima")
    assert landscape.main([str(folder), "--points", "5", "--directions", "2"]) == 0
    assert "Along 2 random directions" in capsys.readouterr().out
    names = {path.name for path in (folder / "figures").iterdir()}
    drawn = ("parametric_plot", "landscape_lines", "landscape_contours", "landscape_surfaces")
    assert names == {*(f"{name}.{kind}" for name in drawn for kind in ("png", "svg", "pdf"))} | {
        "parametric_plot.csv",
        "landscape.csv",
    }
    table = pd.read_csv(folder / "figures" / "parametric_plot.csv").set_index("trial_id")
    kept = pq.read_table(folder / "profiles.parquet").to_pandas()
    centre = kept[(kept["kind"] == "linear") & (kept["alpha"] == 0) & (kept["split"] == "train")]
    recalibrated = centre[centre["batch_norm"] == "recalibrated"].set_index("trial_id")["loss"]
    assert table["loss_sb"].to_dict() == pytest.approx(recalibrated[table.index].to_dict())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--alpha-range", "0.5", "0.5"], "`alpha-range` must go from a number to a larger one, got 0.5 to 0.5"),
        (["--points", "1"], "`points` must be at least 2, got 1"),
        (["--pair", "a", "b"], "got a, which is not among its trials"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], wrong: list[str], said: str
) -> None:
    before = sorted(folders["plain"].rglob("*"))
    assert parametric_plot_script.main([str(folders["plain"]), *wrong]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(folders["plain"].rglob("*")) == before
