"""The trials of sweeps/scaling_rules.py: a grid of learning rates at every batch size, then the settings to judge.

Tuning trials hold out validation examples and never see the test set. The settings that they choose, and those that
the rules carry from the smallest batch size, are then trained with other seeds and judged on the test set. Where a
dataset is one pool of examples (digits), the test set is taken from it first, once for all.
"""

import argparse
import dataclasses
from typing import Any

from sweeps.plan.grid import expand
from sweeps.plan.users_optimizer import with_checked_optimizer
from sweeps.studies.study import check_factors, grid_of, require_margin, resuming, run_study, source_of
from sweeps.tuning.campaign import with_test_set
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.scaling_rules import SCALING_RULES
from trainables.storage.folders import AnyPath


def run_scaling_rules(options: argparse.Namespace) -> int:
    """Runs what `sweeps.cli.scaling_options.parse` has read; returns the exit status."""
    from analysis.data.load import load_sweep
    from analysis.questions.scaling_rules import choices, to_judge
    from analysis.reporting.scaling_rules import report

    source = with_test_set(source_of(options, options.dataset), options.test_size)
    require_margin(source.task, options.margin)
    trials = tuning_trials(options, source)
    judges: list[TrialConfig] = []

    def choose(folder: AnyPath, console: Any) -> None:
        judges.extend(judging_trials(options, to_judge(choices(load_sweep(folder)))))

    def finish(folder: AnyPath, console: Any) -> None:
        console.print()
        for line in report(load_sweep(folder, margin=options.margin)):
            console.print(line, soft_wrap=True)

    status = run_study(trials, source, options, choose)
    if options.dry_run:
        rules = [rule for rule in SCALING_RULES if rule.applies(trials[0])]
        settings = 1 + (1 + len(rules)) * len(set(options.factors))
        print(f"then {settings * len(options.seeds)} trials at most that judge the settings: {_words(rules)}")
    if not judges or status not in (0, 1):
        return status
    return max(status, run_study([*trials, *judges], source, resuming(options), finish))


def tuning_trials(options: argparse.Namespace, source: Source) -> list[TrialConfig]:
    """The grid of every batch size with the tuning seeds. Raises UserError for a batch beyond the training set."""
    train_size, test_size = source.sizes(options.train_size, options.test_size, options.held_out)
    grid = grid_of(options, source)
    (base,) = grid.batch_sizes
    check_factors(options.factors, base, train_size)
    sizes = [base, *(factor * base for factor in options.factors)]
    shared = {"seeds": options.tuning_seeds, "train_size": train_size, "test_size": test_size}
    return expand(dataclasses.replace(grid, batch_sizes=sizes, **shared), source)


def judging_trials(options: argparse.Namespace, settings: list[TrialConfig]) -> list[TrialConfig]:
    """Each setting with each of the judging seeds; duplicates are merged."""
    trials = [
        dataclasses.replace(setting, seed=seed, split_seed=None if setting.split_seed is None else seed)
        for seed in options.seeds
        for setting in settings
    ]
    return list({trial.trial_id: trial for trial in map(with_checked_optimizer, trials)}.values())


def _words(rules: Any) -> str:
    return ", ".join(["retuned", *(rule.words for rule in rules)])
