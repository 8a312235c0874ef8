"""From the options of throughput.py to its lines and figure."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from analysis.charts.style import save
from analysis.charts.time_to_result import time_to_result_figure
from analysis.data.load import Sweep, load_sweep
from analysis.data.runs import read_results
from analysis.questions.data_parallel import (
    Link,
    WorkerModel,
    check_lines,
    data_parallel_steps,
    fit_model,
    goal_lines,
    gradient_bytes_of_rows,
    model_error_line,
    step_lines,
)
from analysis.questions.steps_to_result import default_goal, steps_to_result
from analysis.questions.time_to_result import (
    TimeToResult,
    lines,
    throughput_lines,
    throughput_of_passes,
    throughput_of_rows,
    time_to_result,
)
from analysis.stats.means import Mean
from analysis.stats.wording import in_words
from sweeps.cli.throughput_options import BATCH_SIZES, SECONDS
from trainables.runtime.errors import UserError


@dataclass(frozen=True)
class _Measured:
    """Examples per second by batch size; the gradient's size in bytes; the model of several workers, where
    it is measured."""

    throughput: Mapping[int, Mean]
    gradient_bytes: float
    model: WorkerModel | None = None


def run_throughput(options: argparse.Namespace) -> list[object]:
    """The lines of the answer. Raises UserError for what cannot be measured, or goals that no batch size reaches."""
    _refuse_without_effect(options)
    if options.sweep is None:
        measured = _measured(options, None)
        return [*throughput_lines(measured.throughput), *_several_devices(options, measured)]
    sweep = load_sweep(options.sweep)
    measured = _measured(options, sweep) if options.measure else _of_rows(options, sweep)
    where = "measured here" if options.measure else f"of the sweep's trials, {_device(sweep)}"
    runs = read_results(sweep, options.metric or "test_loss", options.direction)
    goals, metric = dict.fromkeys(options.goal or [default_goal(runs)]), in_words(runs.metric)
    found = [time_to_result(steps_to_result(runs, goal), measured.throughput) for goal in goals]
    figure = time_to_result_figure(found, runs.metric, options.price_per_hour)
    return [
        *throughput_lines(measured.throughput, where),
        *(line for one in found for line in lines(one, metric, options.price_per_hour)),
        *_several_devices(options, measured, found, metric),
        *save(figure, sweep.folder, "time_to_result"),
    ]


def _several_devices(
    options: argparse.Namespace, measured: _Measured, found: Sequence[TimeToResult] = (), metric: str = ""
) -> Iterator[str]:
    model = measured.model
    if model is not None:
        yield from check_lines(model)
    if options.devices is None:
        return
    link = model.link if model else Link(options.latency, options.bandwidth)
    overhead = model.overhead if model else options.overhead or 0.0
    throughput, size = measured.throughput, measured.gradient_bytes
    steps = data_parallel_steps(throughput, size, link, [*throughput], options.devices, overhead)
    yield from step_lines(steps, size, link)
    for one in found:
        yield from goal_lines(steps, one, metric, options.price_per_hour)
    if model is None:
        yield model_error_line(None)


def _refuse_without_effect(options: argparse.Namespace) -> None:
    measures = options.sweep is None or options.measure
    for name in ("goal", "metric", "direction", "price_per_hour"):
        if getattr(options, name) is not None and options.sweep is None:
            raise UserError(f"`--{name.replace('_', '-')}` has no effect without --sweep")
    for name in ("batch_sizes", "seconds", "device", "measure_workers"):
        if getattr(options, name) is not None and not measures:
            option = name.replace("_", "-")
            raise UserError(f"`--{option}` has no effect with --sweep unless --measure is given")
    for name in ("bandwidth", "latency", "overhead"):
        given = getattr(options, name) is not None
        if given and options.measure_workers is not None:
            raise UserError(f"`--{name}` has no effect with --measure-workers, which measures it")
        if given and options.devices is None:
            raise UserError(f"`--{name}` has no effect without --devices")
        if options.devices is not None and options.measure_workers is None and not given and name != "overhead":
            raise UserError(f"`--devices` needs --{name} (or --measure-workers to measure it here)")


def _of_rows(options: argparse.Namespace, sweep: Sweep) -> _Measured:
    size = 0.0 if options.devices is None else gradient_bytes_of_rows(sweep)
    return _Measured(throughput_of_rows(sweep), size)


def _measured(options: argparse.Namespace, sweep: Sweep | None) -> _Measured:
    """What is measured here, at the batch sizes of the options, or else of the sweep.

    Raises UserError where the network that the options name is not the sweep's.
    """
    import torch

    from sweeps.plan.grid import expand
    from sweeps.plan.throughput import measure_throughput
    from sweeps.plan.worker_throughput import measure_workers
    from sweeps.studies.study import grid_of, source_of

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("`--device` must be cpu where PyTorch sees no GPU, got cuda")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.measure_workers is not None and device.type != "cpu":
        raise UserError("`--measure-workers` runs on CPUs; add --device cpu, or give --bandwidth and --latency")
    torch.set_num_threads(options.threads)
    source = source_of(options, options.dataset)
    if options.batch_sizes is None:
        options.batch_sizes = BATCH_SIZES if sweep is None else sorted(map(int, sweep.trials["batch_size"].unique()))
    workers = sorted(set(options.measure_workers or []))
    if workers and workers[-1] > min(options.batch_sizes):
        least = min(options.batch_sizes)
        raise UserError(f"`--measure-workers` must be no more than the smallest batch ({least}), got {workers[-1]}")
    configs = expand(grid_of(options), source)
    for name in ("dataset", "model", "model_options", "optimizer") if sweep is not None else ():
        own, theirs = getattr(configs[0], name), set(sweep.trials[name].dropna()) if sweep is not None else set()
        if theirs and own not in theirs:
            option = name.replace("_", "-")
            raise UserError(f"`--{option}` must be that of the sweep, {' or '.join(sorted(theirs))}, got {own}")
    seconds = options.seconds or SECONDS
    found = measure_throughput(configs, source, device, seconds)
    throughput, size = throughput_of_passes(found.passes), found.gradient_bytes
    if not workers:
        return _Measured(throughput, size)
    times = measure_workers(configs, source, workers, size, seconds, options.threads)
    return _Measured(throughput, size, fit_model(times.steps, times.all_reduces, size))


def _device(sweep: Sweep) -> str:
    return " and ".join(sorted(sweep.trials["device"].dropna().astype(str).unique())) or "unknown device"
