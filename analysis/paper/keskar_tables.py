"""Tables 2 to 4 of Keskar et al. 2017 beside ours: the paper's number, ours, and whether its conclusion holds.

For each network and dataset of the sweep: SB is its smallest batch size, LB its largest, plain completed trials. Ours
are means and standard deviations over seeds, as in the paper. The two conclusions are tested on differences paired
inside replicates (a seed with its data split): LB generalizes worse, by the difference of test accuracies, and LB is
sharper, by the ratio of sharpnesses, whose logarithms are averaged. A conclusion `holds` or is `reversed` where the 95
% interval leaves out no difference, else `not significant`; its confidence is 1 minus the one-sided p-value of the
paired t-test, so that 50 % is a coin. The rows are not independent, and not corrected for being many.

Numbers of one network on different data, or of different methods and subspaces, do not compare: only what is ordered.
The whole table is figures/keskar_tables.csv; on the terminal stand test accuracy and the sharpness at epsilon 1e-3.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from analysis.cli.text_table import text_table
from analysis.data.load import Measure, Sweep, comparable, measures_of, number_of
from analysis.paper.keskar2017 import NETWORKS, accuracy, sharpness
from analysis.stats.means import Mean, paired_difference
from analysis.stats.wording import in_words, three_digits
from trainables.records.matching import SAME_STUDY
from trainables.runtime.errors import UserError
from trainables.storage.folders import write_atomically

BOX = "box_sharpness"
ENDS = ("SB", "LB")
SHOWN_EPSILON = 1e-3
COLUMNS = (
    "network", "data", "quantity", "space", "method", "epsilon",
    "paper_SB", "paper_SB_std", "paper_LB", "paper_LB_std", "SB", "SB_std", "LB", "LB_std",
    "effect", "effect_low", "effect_high", "paper_effect", "conclusion", "verdict", "confidence",
    "batch_size_SB", "batch_size_LB", "replicates", "off_target",
)  # fmt: skip


def keskar_tables(sweep: Sweep) -> pd.DataFrame:
    """A row for each network, quantity, space, method and epsilon, with COLUMNS; accuracies and sharpness in percent.

    `effect`: SB - LB in percentage points for accuracies, LB / SB for sharpness, with its 95 % interval. Raises
    UserError where no network has completed trials at two batch sizes.
    """
    frame = comparable(sweep)
    plain = frame[frame["is_plain"]]
    boxes = [measure for measure in measures_of(sweep) if measure.measure.startswith(BOX)]
    boxes.sort(key=lambda measure: (measure.space != "full", measure.space, measure.method, -(measure.epsilon or 0)))
    rows = []
    for _, group in plain.groupby(number_of(plain, SAME_STUDY)):
        sizes = group["batch_size"].min(), group["batch_size"].max()
        if sizes[0] == sizes[1]:
            continue
        ends = [group[group["batch_size"] == size] for size in sizes]
        first = group.iloc[0]
        about = {
            "network": first["model"].upper() if first["model"].upper() in NETWORKS else first["model"],
            "data": f"{first['dataset']} {first['train_size']}",
            "batch_size_SB": sizes[0],
            "batch_size_LB": sizes[1],
            "off_target": int(sum(end["off_target"].sum() for end in ends)),
        }
        rows += [about | _accuracy(ends, about["network"], name) for name in ("train_accuracy", "test_accuracy")]
        rows += [about | _sharpness(ends, about["network"], measure) for measure in boxes]
    if not rows:
        raise UserError(
            "`results` must hold completed trials without a switch or a remedy of one network at two batch sizes, "
            f"got {len(plain)} such trials of {plain['batch_size'].nunique()} batch sizes in {sweep.folder}"
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _accuracy(ends: list[pd.DataFrame], network: str, column: str) -> dict[str, Any]:
    published, name = accuracy(), column.split("_")[0]
    paper = {
        key: (published.loc[(network, key), column], published.loc[(network, key), f"{name}_std"])
        for key in ENDS
        if network in NETWORKS
    }
    found = _row([100 * end[column] for end in ends], paper) | {"quantity": in_words(column)}
    if paper:
        found["paper_effect"] = paper["SB"][0] - paper["LB"][0]
    small, large = (end.assign(value=100 * end[column]) for end in ends)
    mean = paired_difference(small, large, "value")
    return found | _effect(mean, lambda value: value, "LB generalizes worse" if name == "test" else None)


def _sharpness(ends: list[pd.DataFrame], network: str, measure: Measure) -> dict[str, Any]:
    published = sharpness()
    space = "full" if measure.space == "full" else "subspace100"
    keys = {key: (network, key, space, measure.epsilon) for key in ENDS}
    paper = {
        key: tuple(published.loc[place, ["sharpness", "std"]])
        for key, place in keys.items()
        if place in published.index and (space == "full" or measure.space.endswith(" 100"))
    }
    values = [end[measure.column].astype("float64") for end in ends]
    found = _row(values, paper) | {
        "quantity": "box sharpness",
        "space": measure.space,
        "method": measure.method,
        "epsilon": measure.epsilon,
    }
    if paper:
        found["paper_effect"] = paper["LB"][0] / paper["SB"][0]
    if all(value.isna().all() for value in values):
        return found | {"conclusion": "LB is sharper", "verdict": "not measured"}
    logs = [end.assign(value=np.log(value.where(value > 0))) for end, value in zip(ends, values, strict=True)]
    return found | _effect(
        paired_difference(logs[1], logs[0], "value"), lambda value: float(np.exp(value)), "LB is sharper"
    )


def _row(values: list[Any], paper: dict[str, tuple[float, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, column in zip(ENDS, values, strict=True):
        found |= {key: column.mean(), f"{key}_std": column.std(ddof=1)}
    for key, (mean, std) in paper.items():
        found |= {f"paper_{key}": mean, f"paper_{key}_std": std}
    return found


def _effect(mean: Mean | None, back: Any, conclusion: str | None) -> dict[str, Any]:
    """What the paired differences, in the direction of the conclusion, allow to be said of it."""
    if mean is None:
        return {"conclusion": conclusion, "verdict": conclusion and "no pairs"}
    found = {"effect": back(mean.value), "replicates": mean.replicates, "conclusion": conclusion}
    if mean.interval is None:
        return found | {"verdict": conclusion and ("one replicate" if mean.replicates == 1 else "no spread")}
    low, high = mean.interval.low, mean.interval.high
    found |= {"effect_low": back(low), "effect_high": back(high)}
    if conclusion is None or mean.p_value is None:
        return found
    verdict = "holds" if low > 0 else "reversed" if high < 0 else "not significant"
    return found | {"verdict": verdict, "confidence": 1 - mean.p_value / 2 if mean.value > 0 else mean.p_value / 2}


def table_lines(table: pd.DataFrame) -> list[str]:
    """The table as text, and a sentence for each conclusion."""
    tests = table[table["quantity"] == "test accuracy"]
    boxes = table[(table["quantity"] == "box sharpness") & (table["epsilon"] == SHOWN_EPSILON)]
    lines = ["Test accuracy [%] (Table 2)"]
    lines += text_table(
        [("network", "data", "paper SB", "LB", "SB - LB", "ours SB", "LB", "SB - LB", "LB worse")]
        + [
            (
                row.network,
                row.data,
                *_published(row, "{:.2f}", row.paper_effect, "{:.2f}"),
                f"{row.SB:.2f}{_plus_minus(row.SB_std, '{:.2f}')}",
                f"{row.LB:.2f}{_plus_minus(row.LB_std, '{:.2f}')}",
                _with_ends(row, "{:.2f}".format),
                verdict_text(row),
            )
            for row in tests.itertuples()
        ]
    )
    lines += ["", f"Box sharpness [%], epsilon {SHOWN_EPSILON:g} (Tables 3 and 4)"]
    lines += text_table(
        [("network", "space", "method", "paper SB", "LB", "LB/SB", "ours SB", "LB", "LB/SB", "LB sharper")]
        + [
            (
                row.network,
                row.space,
                row.method,
                *_published(row, "{:g}", row.paper_effect, "{:.3g}"),
                *("–" if pd.isna(value) else three_digits(value) for value in (row.SB, row.LB)),
                _with_ends(row, "{:.3g}".format),
                verdict_text(row),
            )
            for row in boxes.itertuples()
        ]
    )
    lines.append("")
    for rows, conclusion in ((tests, "LB generalizes worse"), (boxes[boxes["space"] == "full"], "LB is sharper")):
        rows = rows[(rows["method"] == "strong") | rows["method"].isna()]
        where = ", full space, epsilon 1e-3, strong" if conclusion == "LB is sharper" else ""
        said = [f"{row.network} on {row.data}: {verdict_text(row)}" for row in rows.itertuples()]
        lines.append(f"{conclusion}{where}: {'; '.join(said)}.")
    off = table.drop_duplicates(["network", "data"])
    missed = [f"{row.off_target} of {row.network} on {row.data}" for row in off.itertuples() if row.off_target]
    if missed:
        lines.append(
            f"Off target (missed the target loss; without one, train accuracy below 99.9 %): {', '.join(missed)}."
        )
    sizes = [f"{row.network} {row.batch_size_SB} and {row.batch_size_LB}" for row in off.itertuples()]
    lines.append(
        f"SB and LB: {', '.join(sizes)}. Ours: mean, ± standard deviation over seeds; differences and (geometric) "
        "ratios are paired inside seeds, with 95 % t-intervals; in brackets behind a verdict its one-sided confidence."
    )
    return lines


def _published(row: Any, form: str, effect: float, effect_form: str) -> tuple[str, str, str]:
    if pd.isna(row.paper_SB):
        return ("–",) * 3
    return form.format(row.paper_SB), form.format(row.paper_LB), effect_form.format(effect)


def _plus_minus(value: float, form: str) -> str:
    return "" if pd.isna(value) else f" ± {form.format(value)}"


def _with_ends(row: Any, shown: Callable[[float], str]) -> str:
    return "–" if pd.isna(row.effect) else effect_text(row.effect, row.effect_low, row.effect_high, shown)


def effect_text(value: float, low: float | None, high: float | None, shown: Callable[[float], str]) -> str:
    """Such as `0.67 [−0.33, 1.67]`, each number as `shown` writes it; without ends where they are missing."""
    ends = "" if low is None or high is None or pd.isna(low) else f" [{shown(low)}, {shown(high)}]"
    return f"{shown(value)}{ends}".replace("-", "−")


def verdict_text(row: Any) -> str:
    """The verdict of a row of `keskar_tables`, with its one-sided confidence: `holds (99.6 %)`."""
    if pd.isna(row.confidence):
        return str(row.verdict)
    shown = f"{100 * row.confidence:.1f} %" if row.confidence < 0.999 else "> 99.9 %"
    return f"{row.verdict} ({shown})"


def write_keskar_tables(sweep: Sweep) -> list[str]:
    """Writes figures/keskar_tables.csv; returns the table as lines, and where it is."""
    table = keskar_tables(sweep)
    path = sweep.folder / "figures" / "keskar_tables.csv"
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, table.to_csv(index=False).encode())
    except OSError as error:
        raise UserError(f"`results` must be a folder that can be written, got {path} ({error.strerror})") from error
    return [*table_lines(table), str(path)]
