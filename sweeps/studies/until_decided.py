"""`--until-decided`: replicates are added until every batch size is free or not free, or the cap is reached.

A group-sequential design with spending of O'Brien and Fleming's type (analysis/stats/group_sequential.py). The looks,
the cap, the seeds and the margin are written to sequential.json before the first trial starts; `--resume` takes them
from there. After each look the batch sizes that are undecided get more replicates, together with the smallest, which
they are paired with by seed. Only plain trials are added: remedies and switches keep the replicates of the first look.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from functools import partial

from rich.console import Console

from analysis.data.load import load_sweep
from analysis.data.sequential_design import FILE, SequentialDesign, read_design
from analysis.questions.sequential import verdicts, verdicts_sentence
from analysis.stats.group_sequential import planned_looks
from sweeps.plan.grid import Grid, expand
from sweeps.studies.study import Ending, grid_of, report_and_answer, require_margin, resuming, run_study, source_of
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.matching import NO_REMEDY
from trainables.records.record_files import record_files
from trainables.remedies import base_remedies, remedy_of
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath, is_there, write_atomically

TIMES_THE_FIRST = 3  # the cap, where none is given


def run_until_decided(options: argparse.Namespace) -> int:
    """Runs what `sweeps.cli.options.parse` has read, look by look; returns the exit status.

    Raises UserError for what cannot run, such as another plan than the one that the folder has fixed.
    """
    source = source_of(options, options.dataset)
    grid = grid_of(options, source)
    folder = (options.results / options.name).expanduser().absolute()
    design, status = design_of(options, folder), 0
    require_margin(source.task, design.margin)
    first = trials_until(grid, source, design)
    plain = _plain(first)
    sizes = sorted({config.batch_size for config in first if config.trial_id in plain})
    if len(sizes) < 2:
        raise UserError("`--batch-sizes` must be two or more, each also without a remedy, for --until-decided")
    since = time.monotonic()
    while True:
        ended = is_ended(design, sizes)
        finish = report_and_answer if ended else partial(_take_look, design, sizes)
        begin = partial(_begin, design)
        configs = trials_until(grid, source, design)
        status = max(status, run_study(configs, source, options, finish, begin=begin, since=since))
        if ended or options.dry_run or status > 1:
            return status
        before, design = design, read_design(folder) or design
        if is_ended(design, sizes) or design.taken == before.taken:  # the second: no look, as nothing can be compared
            return status
        options = resuming(options)


def design_of(options: argparse.Namespace, folder: AnyPath) -> SequentialDesign:
    """The design that `folder` has fixed, or the one that the options ask for. Raises UserError where they differ, and
    where the folder holds results that were looked at without a design."""
    seeds, cap = list(options.seeds), options.max_replicates
    fixed = read_design(folder)
    if fixed is not None and options.resume:
        asked: dict[str, tuple[object, object]] = {"seeds": (tuple(seeds), fixed.seeds[: fixed.looks[0]])}
        asked |= {"max-replicates": (cap, fixed.cap)} if cap is not None else {}
        asked |= {"margin": (options.margin, fixed.margin)} if options.margin is not None else {}
        for name, (now, before) in asked.items():
            if now != before:
                raise UserError(f"`--{name}` was fixed before the first look of this sweep; take another --name")
        return fixed
    if options.split_seeds is not None:
        raise UserError("`--split-seeds` cannot be used with --until-decided: every seed has a split of its own")
    if options.held_out is not None:
        raise UserError("`--validation-size` cannot be used with --until-decided, which compares on the test set")
    if len(set(seeds)) != len(seeds) or len(seeds) < 2:
        raise UserError(f"`--seeds` must be two or more different ones with --until-decided, got {_listed(seeds)}")
    cap = TIMES_THE_FIRST * len(seeds) if cap is None else cap
    if cap <= len(seeds):
        raise UserError(f"`--max-replicates` must be more than the {len(seeds)} --seeds, got {cap}")
    if options.resume and fixed is None and (is_there(folder / "trials.parquet") or record_files(folder)):
        raise UserError(
            f"{folder} has results that were seen before any look was planned; take another --name, and other --seeds"
        )
    further = range(max(seeds) + 1, max(seeds) + 1 + cap - len(seeds))
    return SequentialDesign(options.margin, (*seeds, *further), planned_looks(len(seeds), cap))


def trials_until(grid: Grid, source: Source, design: SequentialDesign) -> list[TrialConfig]:
    """The trials that the next look needs: the whole grid for the first replicates, after that the plain trials of the
    undecided batch sizes and of the smallest, which they are compared with."""
    following = min(design.taken, len(design.looks) - 1)
    configs = expand(dataclasses.replace(grid, seeds=design.seeds[: design.looks[following]]), source)
    limits = {
        size: design.looks[design.look_of(size) - 1 if size in design.decided else following]
        for size in {config.batch_size for config in configs}
    }
    smallest = min(limits)
    limits[smallest] = max((limit for size, limit in limits.items() if size != smallest), default=0)
    place, plain = {seed: number for number, seed in enumerate(design.seeds)}, _plain(configs)
    return [
        config
        for config in configs
        if place[config.seed] < (limits[config.batch_size] if config.trial_id in plain else design.looks[0])
    ]


def is_ended(design: SequentialDesign, sizes: Sequence[int]) -> bool:
    """Whether the cap is reached, or every batch size above the smallest is decided."""
    return design.taken == len(design.looks) or set(sizes[1:]) <= set(design.decided)


def _begin(design: SequentialDesign, folder: AnyPath, console: Console) -> None:
    """Fixes the design in `folder`, which this process holds, and says what comes next."""
    if not is_there(folder / FILE):
        write_atomically(folder / FILE, design.as_json().encode())
    if design.taken == 0:
        console.print(f"{design.note} Fixed in {FILE}.", soft_wrap=True)


def _take_look(design: SequentialDesign, sizes: Sequence[int], folder: AnyPath, console: Console) -> Ending | None:
    """Judges every batch size that is undecided; returns the ending where the sweep has ended."""
    looked = dataclasses.replace(design, taken=design.taken + 1)
    sweep = dataclasses.replace(load_sweep(folder, margin=design.margin), sequential=looked)
    found = verdicts(sweep)
    new = {size: looked.taken for size in sizes[1:] if size not in looked.decided and found[size] != "undecided"}
    looked = dataclasses.replace(looked, decided={**looked.decided, **new})
    write_atomically(folder / FILE, looked.as_json().encode())
    if is_ended(looked, sizes):
        return report_and_answer(folder, console)
    console.print(verdicts_sentence(sweep), soft_wrap=True)
    return None


def _plain(configs: Sequence[TrialConfig]) -> set[str]:
    """The IDs of the trials without a switch and without a remedy beyond what all of `configs` have."""
    base = base_remedies([vars(config) for config in configs])
    return {
        config.trial_id
        for config in configs
        if config.switch_epoch is None and remedy_of(vars(config), base) == NO_REMEDY
    }


def _listed(values: Sequence[int]) -> str:
    return " ".join(str(value) for value in values)
