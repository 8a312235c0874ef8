"""Event files for TensorBoard from a results folder alone, while the sweep runs or after it.

    python analysis/tensorboard.py results/NAME && tensorboard --logdir results/NAME/tensorboard

Implementation: analysis/reporting/event_files.py.
"""

import sys

from analysis.cli.command import run
from analysis.reporting.event_files import write_events

if __name__ == "__main__":
    sys.exit(run(write_events, sys.argv[1:], __doc__))
