"""The tables of page 1 and its figure, from the results kept in docs/paper/data: the networks at several sizes."""

from collections.abc import Callable, Iterator
from functools import cache, partial

import pandas as pd
from kept import head, kept_sweep, line, with_ends
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from variants_of_f1 import variants_table

from analysis.data.load import Sweep, comparable
from analysis.paper.keskar2017 import accuracy
from analysis.paper.keskar_tables import SHOWN_EPSILON, effect_text, keskar_tables, verdict_text
from analysis.stats.means import paired_difference
from analysis.stats.wording import three_digits

RUNS = {  # the folder in docs/paper/data, and how the tables name it
    "tables_paper_size": "MNIST, 60 000 images, 100 epochs",
    "tables_equal_loss": "MNIST, 60 000 images, equal loss",
    "tables_c1_equal_loss": "CIFAR-10, 50 000 images, equal loss, one seed",
    "tables_small": "digits, 300 images, equal loss",
}
WIDEST = 1e9  # an interval of a ratio beyond this is not worth its digits
NETWORKS = ("MLP", "F1", "C1")
SPACES = {"full": "full", "gaussian subspace of 100": "Gaussian subspace", "unit subspace of 100": "unit subspace"}


@cache
def all_tables() -> pd.DataFrame:
    """The rows of keskar_tables for every kept sweep; `run` says which."""
    found = [keskar_tables(kept_sweep(folder)).assign(run=run) for folder, run in RUNS.items()]
    table = pd.concat(found, ignore_index=True)
    return table.assign(network=table["network"].str.upper())


def accuracy_table() -> Iterator[str]:
    """Table 2 as Markdown: for each network the paper's row, then ours."""
    table = all_tables()
    yield from head("network | run | train SB | train LB | test SB | test LB | test SB − LB | LB generalizes worse?")
    for network in NETWORKS:
        if network in accuracy().index:
            small, large = (accuracy().loc[(network, end)] for end in ("SB", "LB"))
            cells = [
                _spread(end[f"{kind}_accuracy"], end[f"{kind}_std"])
                for kind in ("train", "test")
                for end in (small, large)
            ]
            difference = small["test_accuracy"] - large["test_accuracy"]
            yield line(network, "Keskar et al. 2017", *cells, f"{difference:.2f}", "yes")
        for run, rows in _runs(table[table["network"] == network]):
            train, test = (rows[rows["quantity"] == f"{kind} accuracy"].iloc[0] for kind in ("train", "test"))
            cells = [_spread(row[end], row[f"{end}_std"]) for row in (train, test) for end in ("SB", "LB")]
            yield line(
                network,
                run,
                *cells,
                effect_text(test["effect"], test["effect_low"], test["effect_high"], "{:.2f}".format),
                verdict_text(test),
            )


def sharpness_table() -> Iterator[str]:
    """Tables 3 and 4 as Markdown, at SHOWN_EPSILON; the paper's values stand beside ours of the same method."""
    table = all_tables()
    yield from head("network | run | space | method | paper SB | paper LB | LB / SB | SB | LB | LB / SB | LB sharper?")
    boxes = table[(table["quantity"] == "box sharpness") & (table["epsilon"] == SHOWN_EPSILON)]
    for network in NETWORKS:
        for run, rows in _runs(boxes[boxes["network"] == network]):
            for space, name in SPACES.items():
                for method in ("paper", "strong"):
                    found = rows[(rows["space"] == space) & (rows["method"] == method)]
                    for _, row in found.iterrows():
                        published = ["", "", ""]
                        if method == "paper" and pd.notna(row["paper_SB"]):
                            ratio = f"{row['paper_effect']:.0f}"
                            published = [f"{row['paper_SB']:g}", f"{row['paper_LB']:g}", ratio]
                        ours = [three_digits(row["SB"]), three_digits(row["LB"]), _ratio(row)]
                        yield line(network, run, name, method, *published, *ours, verdict_text(row))


def losses_table() -> Iterator[str]:
    """The final training loss of each batch size of each run, on which sharpness depends, and the top eigenvalue."""
    yield from head("network | run | epochs SB | epochs LB | train loss SB | LB | largest eigenvalue SB | LB | LB / SB")
    for folder, run in RUNS.items():
        trials = comparable(kept_sweep(folder))
        for network in NETWORKS:
            ours = trials[trials["model"].str.upper() == network]
            if ours.empty:
                continue
            sizes = ours["batch_size"].min(), ours["batch_size"].max()
            ends = [ours[ours["batch_size"] == size] for size in sizes]
            epochs = [f"{end['epochs_done'].mean():.0f}" for end in ends]
            losses = [f"{end['train_loss'].mean():.2g}" for end in ends]
            eigenvalues = [three_digits(end["hessian_max_eig"].mean()) for end in ends]
            ratio = paired_difference(ends[1], ends[0], "hessian_max_eig", scale="log")
            assert ratio is not None
            shown = with_ends(ratio, three_digits)
            yield line(network, run, *epochs, *losses, *eigenvalues, shown)


def stopping_table() -> Iterator[str]:
    """What F1's test accuracy says at other moments of the same runs at the paper's size: when is there a gap?"""
    yield from head("F1 on MNIST, stopped | epochs SB | epochs LB | test SB | test LB | test SB − LB")
    sweep = kept_sweep("tables_paper_size")
    trials = comparable(sweep)
    sizes = sorted(trials["batch_size"].unique())
    paper = [accuracy().loc[("F1", end), "train_accuracy"] / 100 for end in ("SB", "LB")]
    rules: dict[str, list[Callable[[pd.DataFrame], pd.Series]]] = {
        f"at the paper's train accuracy ({100 * paper[0]:.2f} and {100 * paper[1]:.2f} %)": [
            partial(_is_accurate, least) for least in paper
        ],
        "at a train loss of 0.01": [lambda epochs: epochs["train_loss"] <= 0.01] * 2,
        "at a train loss of 0.002": [lambda epochs: epochs["train_loss"] <= 0.002] * 2,
        "after 100 epochs": [lambda epochs: epochs["epoch"] == 100] * 2,
        "at the highest test accuracy": [lambda epochs: epochs["test_accuracy"] == epochs["test_accuracy"].max()] * 2,
    }
    for name, ends in rules.items():
        small, large = (
            _first(sweep, trials[trials["batch_size"] == size], rule) for size, rule in zip(sizes, ends, strict=True)
        )
        mean = paired_difference(small, large, "value")
        assert mean is not None
        cells = [_spread(end["value"].mean(), end["value"].std(ddof=1)) for end in (small, large)]
        epochs = [f"{end['at'].mean():.0f}" for end in (small, large)]
        yield line(name, *epochs, *cells, with_ends(mean, "{:.2f}".format))


def _spread(mean: float, deviation: float) -> str:
    """Mean ± standard deviation; one seed has none."""
    return f"{mean:.2f}" + ("" if pd.isna(deviation) else f" ± {deviation:.2f}")


def _is_accurate(least: float, epochs: pd.DataFrame) -> pd.Series:
    return epochs["train_accuracy"] >= least


def _first(sweep: Sweep, trials: pd.DataFrame, rule: Callable[[pd.DataFrame], pd.Series]) -> pd.DataFrame:
    """`trials` with the test accuracy [%] of the first epoch that fulfils `rule`, and that epoch; without others."""
    by_trial = sweep.epochs.groupby("trial_id")
    found = {}
    for trial_id in trials["trial_id"]:
        epochs = by_trial.get_group(trial_id)
        fulfilled = epochs[rule(epochs)]
        if len(fulfilled):
            found[trial_id] = fulfilled.iloc[0]
    trials = trials[trials["trial_id"].isin(list(found))]
    return trials.assign(
        value=[100 * found[trial_id]["test_accuracy"] for trial_id in trials["trial_id"]],
        at=[found[trial_id]["epoch"] for trial_id in trials["trial_id"]],
    )


def f1_figure() -> Figure:
    """Train loss and test accuracy of F1 at the paper's size against epochs, a line for each trial."""
    sweep = kept_sweep("tables_paper_size")
    epochs = sweep.epochs.merge(sweep.trials[["trial_id", "batch_size"]], on="trial_id", suffixes=("", "_of_trial"))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for rank, (size, rows) in enumerate(epochs.groupby("batch_size_of_trial")):
        for number, (_, trial) in enumerate(rows.groupby("trial_id")):
            style = {"color": f"C{rank}", "alpha": 0.8, "linewidth": 0.9}
            label = f"batch {size}" if number == 0 else None
            left.plot(trial["epoch"], trial["train_loss"], label=label, **style)
            right.plot(trial["epoch"], 100 * trial["test_accuracy"], label=label, **style)
    left.set_yscale("log")
    _axis(left, "train loss [nats per example]")
    _axis(right, "test accuracy [%]")
    right.set_ylim(96.5, 99.0)
    return figure


def _axis(axes: Axes, label: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="best")


def _runs(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for run in RUNS.values():
        rows = table[table["run"] == run]
        if len(rows):
            yield run, rows


def _ratio(row: pd.Series) -> str:
    if row["effect_high"] / row["effect_low"] > WIDEST:
        return f"{three_digits(row['effect'])} [undetermined]"
    return effect_text(row["effect"], row["effect_low"], row["effect_high"], three_digits)


PARTS: dict[str, dict[str, Callable[[], Iterator[str]]]] = {
    "1-tables.md": {
        "accuracy": accuracy_table,
        "sharpness": sharpness_table,
        "losses": losses_table,
        "stopping": stopping_table,
        "variants": variants_table,
    }
}


def figures() -> Iterator[tuple[str, Figure]]:
    """The figures of this page, by their names in docs/figures."""
    yield "f1_mnist_epochs", f1_figure()
