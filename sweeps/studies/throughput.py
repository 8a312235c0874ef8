"""From the options of throughput.py to its lines and figure."""

import argparse
from collections.abc import Mapping

from analysis.charts.style import save
from analysis.charts.time_to_result import time_to_result_figure
from analysis.data.load import Sweep, load_sweep
from analysis.data.runs import read_results
from analysis.questions.steps_to_result import default_goal, steps_to_result
from analysis.questions.time_to_result import (
    lines,
    throughput_lines,
    throughput_of_passes,
    throughput_of_rows,
    time_to_result,
)
from analysis.stats.means import Mean
from sweeps.cli.throughput_options import BATCH_SIZES, SECONDS
from trainables.runtime.errors import UserError


def run_throughput(options: argparse.Namespace) -> list[object]:
    """The lines of the answer. Raises UserError for what cannot be measured, or goals that no batch size reaches."""
    _refuse_without_effect(options)
    if options.sweep is None:
        return [*throughput_lines(_measured(options, None))]
    sweep = load_sweep(options.sweep)
    throughput = _measured(options, sweep) if options.measure else throughput_of_rows(sweep)
    where = "measured here" if options.measure else f"of the sweep's trials, {_device(sweep)}"
    runs = read_results(sweep, options.metric or "test_loss", options.direction)
    found = [time_to_result(steps_to_result(runs, goal), throughput) for goal in options.goal or [default_goal(runs)]]
    figure = time_to_result_figure(found, runs.metric, options.price_per_hour)
    return [
        *throughput_lines(throughput, where),
        *(line for one in found for line in lines(one, runs.metric, options.price_per_hour)),
        *save(figure, sweep.folder, "time_to_result"),
    ]


def _refuse_without_effect(options: argparse.Namespace) -> None:
    measures = options.sweep is None or options.measure
    for name in ("goal", "metric", "direction", "price_per_hour"):
        if getattr(options, name) is not None and options.sweep is None:
            raise UserError(f"`--{name.replace('_', '-')}` has no effect without --sweep")
    for name in ("batch_sizes", "seconds", "device"):
        if getattr(options, name) is not None and not measures:
            raise UserError(f"`--{name.replace('_', '-')}` has no effect with --sweep unless --measure is given")


def _measured(options: argparse.Namespace, sweep: Sweep | None) -> Mapping[int, Mean]:
    """Examples a second here, at the batch sizes of the options, or else of the sweep.

    Raises UserError where the network that the options name is not the sweep's.
    """
    import torch

    from sweeps.plan.grid import expand
    from sweeps.plan.throughput import measure_throughput
    from sweeps.studies.study import grid_of, source_of

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("`--device` must be cpu where PyTorch sees no GPU, got cuda")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_num_threads(options.threads)
    source = source_of(options, options.dataset)
    if options.batch_sizes is None:
        options.batch_sizes = BATCH_SIZES if sweep is None else sorted(map(int, sweep.trials["batch_size"].unique()))
    configs = expand(grid_of(options), source)
    for name in ("dataset", "model", "model_options", "optimizer") if sweep is not None else ():
        own, theirs = getattr(configs[0], name), set(sweep.trials[name].dropna()) if sweep is not None else set()
        if theirs and own not in theirs:
            option = name.replace("_", "-")
            raise UserError(f"`--{option}` must be that of the sweep, {' or '.join(sorted(theirs))}, got {own}")
    return throughput_of_passes(measure_throughput(configs, source, device, options.seconds or SECONDS))


def _device(sweep: Sweep) -> str:
    return " and ".join(sorted(sweep.trials["device"].dropna().astype(str).unique())) or "unknown device"
