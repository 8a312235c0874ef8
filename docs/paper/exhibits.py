"""The tables of pages 4 to 8, from the results kept in docs/paper/data: 300 images of digits, and F1 on all of MNIST.

Every function yields the lines of one Markdown table. Intervals are 95 % t-intervals over replicates.
"""

from collections.abc import Callable, Iterator
from functools import partial

from kept import head, kept_sweep, line
from matplotlib.figure import Figure

from analysis.charts.switch_point import switch_point
from analysis.paper.comparison import Comparison, answered, points
from analysis.paper.evolution import at_shared_losses, evolution
from analysis.paper.optimization_issue import by_optimizer, optimizers_figure
from analysis.paper.paper_remedies import against_small, remedies_figure
from analysis.paper.resilience import resilience, resilience_figure
from analysis.paper.warm_start import warm_starts
from analysis.reporting.summary import plus_minus, with_interval

REMEDIES = {  # by their field
    "input_adversary": "adversarial inputs",
    "weight_adversary": "robust training (weights)",
    "proximal": "conservative (proximal)",
    "augmentation": "augmentation",
}
VARIANTS = {
    "activation gelu": "GELU",
    "activation tanh": "tanh",
    "batch_norm on": "batch norm",
    "dropout 0.3": "dropout 0.3",
    "optimizer adagrad": "Adagrad",
    "optimizer sgd": "SGD, momentum 0.9",
    "widths 128": "1 hidden layer of 128",
    "widths 128-128-128-128": "4 hidden layers of 128",
    "widths 256-256": "2 hidden layers of 256",
    "widths 32-32": "2 hidden layers of 32",
}


def warm_start_table(folder: str) -> Iterator[str]:
    sweep = kept_sweep(folder)
    found, (small, large) = warm_starts(sweep), sorted(sweep.trials["batch_size"].unique())
    columns = f"gain over batch {large} [points] | box sharpness [%] | ratio to batch {small}"
    yield from head(f"switch epoch | test accuracy [%] | gap to batch {small} [points] | {columns}")
    for row, gain in found:
        name = row.name.replace("(large batch)", f"(batch {large} alone)")
        name = name.replace("(small batch)", f"(batch {small} alone)")
        gained = "" if gain is None else points(row.metric, gain)
        ratio = "1" if row.is_reference else with_interval(row.ratio)
        yield line(_starred(name, row), *_accuracy(row), gained, with_interval(row.box_sharpness), ratio)


def evolution_table() -> Iterator[str]:
    found = at_shared_losses(kept_sweep("digits_evolution"))
    small, large = found.sizes
    yield from head(f"training loss | batch {small} [%] | batch {large} [%] | ratio {large} / {small}")
    for loss, *means, ratio in found.rows:
        yield line(f"{loss:g}", *map(with_interval, means), with_interval(ratio))


def remedies_table() -> Iterator[str]:
    found = against_small(kept_sweep("digits_remedies"))
    large, metric = found[0][0].batch_size, found[0][0].metric
    columns = "gain over plain [points] | box sharpness, ratio to batch 16 | ratio to plain"
    yield from head(f"batch {large} with | test accuracy [%] | gap to batch 16 [points] | {columns}")
    for row, remedy in found:
        name = "nothing" if remedy is None else REMEDIES[row.name.partition("=")[0]]
        gain = "" if remedy is None else points(metric, remedy.gain)
        flatter = "" if remedy is None else with_interval(remedy.box_sharpness_ratio)
        yield line(_starred(name, row), *_accuracy(row), gain, with_interval(row.ratio), flatter)


def optimizers_table() -> Iterator[str]:
    rows = by_optimizer(kept_sweep("digits_optimizers"))
    first = rows[0]
    gap = f"gap to {first.name} at {first.batch_size} [points]"
    yield from head(f"optimizer | batch | train loss | test accuracy [%] | {gap} | box sharpness [%] | ratio")
    for row in rows:
        loss = "–" if row.train_loss is None else f"{row.train_loss.value:.1e}".replace("e-0", "e-")
        ratio = "1" if row.is_reference else with_interval(row.ratio)
        about = _starred(row.name, row), row.batch_size, loss
        yield line(*about, *_accuracy(row), with_interval(row.box_sharpness), ratio)


def resilience_table() -> Iterator[str]:
    rows = resilience(kept_sweep("digits_resilience"))
    yield from head("variant | large-batch gap [points] | box sharpness, ratio 300 / 16 | less accurate | sharper")
    for row in rows:
        name = _starred(VARIANTS.get(row.name, row.name), row)
        verdicts = [answered(side) for side in (row.worse, row.sharper)]
        verdicts[0] = "no, more accurate" if row.worse is False else verdicts[0]
        yield line(name, points(row.metric, row.gap), with_interval(row.ratio), *verdicts)


PARTS: dict[str, dict[str, Callable[[], Iterator[str]]]] = {
    "4-warm-start.md": {
        "warm start": partial(warm_start_table, "digits_warm_start"),
        "f1": partial(warm_start_table, "f1_warm_start"),
    },
    "5-evolution.md": {"evolution": evolution_table},
    "6-remedies.md": {"remedies": remedies_table},
    "7-optimization.md": {"optimizers": optimizers_table},
    "8-resilience.md": {"resilience": resilience_table},
}


def figures() -> Iterator[tuple[str, Figure]]:
    """The figures of these pages, by their names in docs/figures."""
    yield "warm_start", switch_point(kept_sweep("digits_warm_start"))
    yield "warm_start_f1", switch_point(kept_sweep("f1_warm_start"))
    yield "evolution", evolution(kept_sweep("digits_evolution"))
    yield "paper_remedies", remedies_figure([row for row, _ in against_small(kept_sweep("digits_remedies"))])
    yield "optimization_issue", optimizers_figure(by_optimizer(kept_sweep("digits_optimizers")))
    yield "resilience", resilience_figure(resilience(kept_sweep("digits_resilience")))


def _accuracy(row: Comparison) -> tuple[str, str]:
    return plus_minus(row.metric, row.level), "reference" if row.is_reference else points(row.metric, row.gap)


def _starred(name: str, row: Comparison) -> str:
    return f"{name} *" if row.off_target else name
