"""Tables 2 to 4 of Keskar et al. 2017: accuracy, and box sharpness in full space and in subspaces, SB against LB.

The table that it prints, and leaves in figures/keskar_tables.csv, has the paper's number, ours, and whether the
paper's conclusions hold: LB generalizes worse, LB is sharper. About two minutes on two cores.

At the small scale the networks are the MLP without batch norm that is known to show the effect on digits, and F1 and
C1 with all of their layers at a fraction of their width. 10 % of 300 images is 30, hardly more than a small batch, so
what is kept is the paper's ratio of LB to SB, about 20: 16 and the whole set, which leaves LB no noise at all.

The paper trains "until the loss stops improving", which leaves the end of a run to the eye. Here the small scale
trains to one loss, 0.001 on the whole training set, clean and in eval mode, and the paper's scale for 100 epochs, the
number of its Figure 4: there the final losses of SB and LB may differ many times, and with them the sharpness
(--target-loss).

Batch norm is measured as in the paper's code, with the statistics of batches of 5000; accuracy is that of the trained
statistics. The distribution of Table 4's random matrix is given nowhere: there are two, columns of unit length and
Gaussian ones, whose values differ by orders of magnitude.
"""

import argparse
from typing import TYPE_CHECKING, Any

from sweeps.studies.two_batches import OF_SCALE, SMALL_WIDTHS, TwoBatches
from trainables.config import DEFAULT_MEASURES
from trainables.runtime.errors import UserError
from trainables.runtime.parser import Parser
from trainables.storage.folders import AnyPath

if TYPE_CHECKING:
    from trainables.config import TrialConfig

NAME = "keskar_tables"
SUBSPACES = ("box_sharpness_unit_subspace", "box_sharpness_gaussian_subspace")
PAPER_DATASETS = {
    "f1": "mnist", "f2": "timit", "c1": "cifar10", "c2": "cifar10", "c3": "cifar100", "c4": "cifar100",
}  # fmt: skip
SMALL_OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"widths": SMALL_WIDTHS},
    "f1": {"width": 64},
    "f2": {"width": 64},
    "c1": {"width": 8},
    "c2": {"width": 4},
    "c3": {"width": 8},
    "c4": {"width": 4},
}
NETWORKS = {"small": ("mlp", "f1", "c1"), "paper": tuple(PAPER_DATASETS)}


def add_options(parser: Parser) -> None:
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=tuple(SMALL_OPTIONS),
        metavar="NAME",
        help=f"{', '.join(SMALL_OPTIONS)} (default: {' '.join(NETWORKS['small'])}; the paper's scale: all of its six, "
        "each on its own dataset unless --dataset is given)",
    )


def run_tables(options: argparse.Namespace) -> int:
    """All trials into one results folder, one run for each dataset, then the table; returns the exit status.

    Raises UserError for what cannot run, before anything is written.
    """
    from sweeps.studies.study import run_study, source_of

    if options.model and options.networks:
        raise UserError("`--networks` has no effect with --model; leave out one of them")
    by_dataset: dict[str, list[str]] = {}
    for network in dict.fromkeys([options.model] if options.model else options.networks or NETWORKS[options.scale]):
        by_dataset.setdefault(_dataset(options, network), []).append(network)
    if options.model_options and sum(map(len, by_dataset.values())) > 1:
        raise UserError("`--model-options` must be for one network, got several; --networks chooses one")
    runs = []
    for name, networks in by_dataset.items():
        source = source_of(options, name, *by_dataset)
        trials = [trial for network in networks for trial in tables_trials(TwoBatches(options, source), network)]
        runs.append((trials, source))
    status = 0
    for rank, (trials, source) in enumerate(runs, 1):
        status = max(status, run_study(trials, source, options, _finish if rank == len(runs) else _go_on))
        if status == 130:
            break
        options = argparse.Namespace(**{**vars(options), "resume": True})  # by now the folder is this study's own
    return status


def tables_trials(study: TwoBatches, network: str) -> "list[TrialConfig]":
    """SB and LB of one network, with what Tables 3 and 4 need."""
    options = study.options
    return study.trials(
        study.small,
        study.large,
        model=network,
        model_options=(SMALL_OPTIONS.get(network, {}) if options.scale == "small" else {})
        | dict(options.model_options),
        measures=(*DEFAULT_MEASURES, *SUBSPACES),
        measure_batch_norm="batch",
    )


def _dataset(options: argparse.Namespace, network: str) -> str:
    if options.dataset != OF_SCALE:
        return str(options.dataset)
    if options.scale == "small":
        return "digits"
    if network not in PAPER_DATASETS:
        raise UserError(f"`--networks` must be among {', '.join(PAPER_DATASETS)} with --scale paper, got {network}")
    return PAPER_DATASETS[network]


def _finish(folder: AnyPath, console: Any) -> None:
    from analysis.data.load import load_sweep
    from analysis.paper.keskar_tables import write_keskar_tables

    console.print()
    for line in write_keskar_tables(load_sweep(folder)):
        console.print(line, soft_wrap=True)


def _go_on(folder: AnyPath, console: Any) -> None:
    """Nothing to write yet: other datasets of the same study follow."""
