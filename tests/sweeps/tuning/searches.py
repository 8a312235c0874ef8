"""Whole searches to goals in this process, for tests of what they find."""

from pathlib import Path

from sweeps.tuning.campaign import Campaign, Plan
from sweeps.tuning.optuna_study import open_storage
from sweeps.tuning.run import begin, write_tuning
from sweeps.tuning.steps_to_result import GoalCampaign
from sweeps.tuning.under_tune import outcome_of
from trainables.data import Source
from trainables.records.tables import compact, write_record
from trainables.trial import run_trial


def run_search(plan: Plan, source: Source, folder: Path) -> Campaign:
    """Trains every trial that the search asks for, one after another, and leaves its tables in `folder`."""
    campaign = begin(plan, open_storage("sqlite://"), "x", {}, False, GoalCampaign)
    (folder / "trials").mkdir()
    while (config := campaign.next()) is not None:
        record = run_trial(config, source)
        write_record(folder, record)
        assert plan.goals is not None
        campaign.end(plan.goals.noted(outcome_of(record.trial), record.epochs))
    compact(folder)
    write_tuning(folder, campaign)
    return campaign
