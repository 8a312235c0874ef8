"""What happens when the worker of a trial dies, or its machine is lost.

Tune starts the trial again, up to WORKER_DEATHS_ALLOWED times, and it goes on from its checkpoint
(trainables.tune.tune_trial, `parallel_trial` beside it for several workers). A machine that is lost does not count
(trainables.tune.ray_compat). A trial that has no record in the end gets one here, with the reason; one that was
trained and died while it was measured keeps its training (trainables.records.unmeasured). A driver that dies leaves all
of it to `--resume`.
"""

from collections.abc import Iterable

from sweeps.monitoring.progress import Progress
from trainables.config import TrialConfig
from trainables.records.record_files import record_files
from trainables.records.resume import finished
from trainables.records.tables import read_tables, record_of, write_record
from trainables.records.unmeasured import remove_unmeasured, take_unmeasured
from trainables.storage.folders import AnyPath

WORKER_DEATHS_ALLOWED = 3  # of one trial


def write_failures(folder: AnyPath, configs: Iterable[TrialConfig], progress: Progress) -> None:
    """Leaves the records of trials of this run that could not do so themselves, such as those whose worker died.

    A trial that an earlier run has trained keeps its rows, with the reason why nothing was added to them.
    """
    recorded = {file.stem for file in record_files(folder)}
    left = [config for config in configs if config.trial_id not in recorded]
    if left:
        from trainables.measures.extension import Extension  # they bring PyTorch
        from trainables.records.provenance import failed_record

        tables = read_tables(folder)
        known = finished(tables)
        for config in left:
            key = config.trial_id
            reason = progress.errors.get(key, "the worker died and no reason is known")
            record = take_unmeasured(folder, key, reason)
            if record is None and key in known:
                record = Extension(record_of(tables, key), config).failed(reason)
            write_record(folder, record or failed_record(config, reason))
            remove_unmeasured(folder, key)
