"""The options of batch_grid.py on the number of replicates: planned from a pilot, or added until there is an answer."""

import argparse

from sweeps.cli.arguments import integer, number
from trainables.runtime.errors import UserError
from trainables.runtime.parser import Parser
from trainables.storage import folders

POWER = 0.8


def add_planning(parser: Parser) -> None:
    """Adds `--plan` and `--until-decided`, and what they need."""
    group = parser.add_argument_group("how many replicates (docs/planning.md)")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--plan",
        action="store_true",
        help="train nothing; compute from a pilot how many replicates each batch size needs and how long they take",
    )
    which.add_argument(
        "--until-decided",
        action="store_true",
        help="add replicates to undecided batch sizes until each is free or not free; the looks are planned in "
        "advance, and intervals hold over all of them",
    )
    group.add_argument(
        "--pilot",
        type=folders.argument,
        metavar="DIR",
        help="with --plan: the results folder of the pilot (default: the folder of --name)",
    )
    group.add_argument(
        "--power",
        type=number(above=0),
        metavar="X",
        help=f"with --plan: the probability of an answer (default: {POWER:g})",
    )
    group.add_argument(
        "--margin",
        type=number(above=0),
        metavar="X",
        help="with either: how much a batch size may lose and still count as free, in the metric's unit (default: 0.5 "
        "percentage points, 0.01 nats per token; no default for other metrics)",
    )
    group.add_argument(
        "--max-replicates",
        type=integer(2),
        metavar="N",
        help="with --until-decided: the maximum number of replicates (default: three times the number of --seeds)",
    )


def check_planning(options: argparse.Namespace) -> None:
    """Raises UserError for an option that has no effect beside the others, and for a power that no plan has."""
    either = options.plan or options.until_decided
    rules = [
        ("pilot", options.plan, "--plan"),
        ("power", options.plan, "--plan"),
        ("margin", either, "--plan or --until-decided (reports have a --margin of their own)"),
        ("max_replicates", options.until_decided, "--until-decided"),
    ]
    for name, has_effect, needed in rules:
        if getattr(options, name) is not None and not has_effect:
            raise UserError(f"`--{name.replace('_', '-')} {getattr(options, name)}` has no effect without {needed}")
    for name in ("resume", "dry_run"):
        if options.plan and getattr(options, name):
            raise UserError(f"`--{name.replace('_', '-')}` has no effect with --plan, which trains nothing")
    if options.power is not None and not 0.05 <= options.power <= 0.99:
        raise UserError(f"`--power` must be between 0.05 and 0.99, got {options.power:g}")
