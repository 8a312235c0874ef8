"""From the options of throughput.py to its lines and figure."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from analysis.charts.style import save
from analysis.charts.time_to_result import time_to_result_figure
from analysis.data.batch_unit import BatchUnit
from analysis.data.load import Sweep, load_sweep
from analysis.questions.data_parallel import (
    Link,
    WorkerModel,
    check_lines,
    data_parallel_steps,
    fit_model,
    goal_lines,
    gradient_bytes_of_rows,
    left_out_lines,
    model_error_line,
    step_lines,
)
from analysis.questions.sweep_parts import Part, SweepParts, sweep_parts
from analysis.questions.time_to_result import (
    Throughput,
    TimeToResult,
    lines,
    throughput_lines,
    throughput_of_passes,
    throughput_of_rows,
    times_to_goals,
)
from analysis.stats.wording import exact_number, in_words
from sweeps.cli.throughput_options import BATCH_SIZES, SECONDS
from trainables.runtime.errors import UserError


@dataclass(frozen=True)
class _Measured:
    """Examples per second by part of the sweep and batch size; what they are told in; the gradient's size in bytes; the
    model of several workers, where it is measured."""

    throughput: Mapping[str, Throughput]
    unit: BatchUnit
    gradient_bytes: float
    model: WorkerModel | None = None


def run_throughput(options: argparse.Namespace) -> list[object]:
    """The lines of the answer. Raises UserError for what cannot be measured, or goals that no batch size reaches."""
    _refuse_without_effect(options)
    if options.sweep is None:
        measured = _measured(options, None)
        return [*throughput_lines(measured.throughput, unit=measured.unit), *_several_devices(options, measured)]
    sweep = load_sweep(options.sweep)
    whole = sweep_parts(sweep, options.goal, options.metric, options.direction)
    measured = _measured(options, whole) if options.measure else _of_rows(options, sweep, whole)
    where = "measured here" if options.measure else f"of the sweep's trials, {_device(sweep)}"
    found, missed = times_to_goals(whole, measured.throughput)
    if not found:
        raise UserError(
            f"`--optimizer` {' and '.join(measured.throughput)} reaches none of the goals at any batch size"
        )
    never = ", ".join(map(exact_number, missed))
    metric, unit = in_words(whole.metric), measured.unit
    figure = time_to_result_figure(found, whole.metric, options.price_per_hour, unit=unit)
    return [
        *throughput_lines(measured.throughput, where, unit=unit),
        *(line for one in found for line in lines(one, metric, options.price_per_hour, unit=unit)),
        *([f"{metric} {never}: no batch size reaches it in every replicate."] if never else []),
        *_several_devices(options, measured, found, metric),
        *save(figure, sweep.folder, "time_to_result"),
    ]


def _several_devices(
    options: argparse.Namespace, measured: _Measured, found: Sequence[TimeToResult] = (), metric: str = ""
) -> Iterator[str]:
    model, unit = measured.model, measured.unit
    if model is not None:
        yield from check_lines(model, unit=unit)
    if options.devices is None:
        return
    link = model.link if model else Link(options.latency, options.bandwidth)
    overhead = model.overhead if model else options.overhead or 0.0
    for part, throughput in measured.throughput.items():
        if not throughput:
            continue
        steps = data_parallel_steps(throughput, measured.gradient_bytes, link, [*throughput], options.devices, overhead)
        yield from step_lines(steps, measured.gradient_bytes, link, part, unit=unit)
        yield from left_out_lines(throughput, options.devices, unit=unit)
        for one in found:
            yield from goal_lines(steps, one, metric, options.price_per_hour, part=part, unit=unit)
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


def _of_rows(options: argparse.Namespace, sweep: Sweep, whole: SweepParts) -> _Measured:
    size = 0.0 if options.devices is None else gradient_bytes_of_rows(sweep)
    return _Measured(throughput_of_rows(sweep, whole.parts), sweep.batch_unit, size)


def _measured(options: argparse.Namespace, whole: SweepParts | None) -> _Measured:
    """What is measured here, at the batch sizes of the options, or else of the sweep, for the parts that it holds for.

    Raises UserError where the network and optimizer that the options name are not the sweep's.
    """
    import torch

    from sweeps.plan.grid import expand
    from sweeps.plan.throughput import measure_throughput
    from sweeps.plan.units import tokens_of_example
    from sweeps.plan.worker_throughput import measure_workers
    from sweeps.studies.study import grid_of, source_of

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("`--device` must be cpu where PyTorch sees no GPU, got cuda")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.measure_workers is not None and device.type != "cpu":
        raise UserError("`--measure-workers` runs on CPUs; add --device cpu, or give --bandwidth and --latency")
    if len(names := [name for name, _ in options.optimizer]) > 1:
        raise UserError(f"`--optimizer` must be one, whose throughput is measured, got {' '.join(names)}")
    torch.set_num_threads(options.threads)
    source = source_of(options, options.dataset)
    if options.batch_sizes is None:
        options.batch_sizes = BATCH_SIZES if whole is None else _batch_sizes(whole.parts)
    grid, workers = grid_of(options, source), sorted(set(options.measure_workers or []))
    if workers and workers[-1] > (least := min(grid.batch_sizes)):
        raise UserError(f"`--measure-workers` must be no more than the smallest batch ({least}), got {workers[-1]}")
    configs = expand(grid, source)
    parts = [""] if whole is None else [part.name for part in _parts_of(whole.parts, vars(configs[0]))]
    seconds = options.seconds or SECONDS
    found = measure_throughput(configs, source, device, seconds)
    unit = BatchUnit(tokens_of_example(source))
    throughput, size = dict.fromkeys(parts, throughput_of_passes(found.passes)), found.gradient_bytes
    if not workers:
        return _Measured(throughput, unit, size)
    times = measure_workers(configs, source, workers, size, seconds, options.threads)
    return _Measured(throughput, unit, size, fit_model(times.steps, times.all_reduces, size))


def _batch_sizes(parts: Sequence[Part]) -> list[int]:
    return sorted({int(size) for part in parts for size in part.trials["batch_size"]})


def _parts_of(parts: Sequence[Part], config: Mapping[str, object]) -> list[Part]:
    """Those with the network and optimizer of `config`."""
    names = ("dataset", "model", "model_options", "optimizer", "optimizer_options")
    for name in names:
        own, theirs = config[name], {str(value) for part in parts for value in part.trials[name].dropna()}
        if theirs and own not in theirs:
            option = name.replace("_", "-")
            raise UserError(f"`--{option}` must be that of the sweep, {' or '.join(sorted(theirs))}, got {own}")
    found = [part for part in parts if part.holds({name: config[name] for name in names})]
    if not found:
        said = " or ".join(part.name for part in parts)
        raise UserError(f"`--model` and --optimizer must be those of one part of the sweep without a remedy ({said})")
    return found


def _device(sweep: Sweep) -> str:
    return " and ".join(sorted(sweep.trials["device"].dropna().astype(str).unique())) or "unknown device"
