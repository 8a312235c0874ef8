"""Write event files for TensorBoard from a results folder, while the sweep runs or afterwards.

    python analysis/tensorboard.py results/NAME && tensorboard --logdir results/NAME/tensorboard

Implementation: analysis/reporting/event_files.py.
"""

import sys

from analysis.cli.command import run
from analysis.reporting.event_files import write_events

if __name__ == "__main__":
    sys.exit(run(write_events, sys.argv[1:], __doc__))
