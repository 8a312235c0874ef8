"""Show the progress of a sweep that runs elsewhere: in another terminal, in the background, or on a cluster.

    python sweeps/status.py results/NAME            once
    python sweeps/status.py results/NAME --watch    refresh until the sweep is finished or Ctrl-C

Implementation: sweeps/monitoring/status.py.
"""

import sys

from sweeps.cli.arguments import run_command
from sweeps.monitoring.consoles import literal_console
from sweeps.monitoring.status import show
from trainables.runtime.parser import Parser
from trainables.storage.folders import argument


def main(arguments: list[str]) -> int:
    parser = Parser(prog="status.py", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("results", type=argument, help="the folder of a sweep, such as results/batch_grid")
    parser.add_argument("--watch", action="store_true", help="refresh until the sweep is finished or Ctrl-C")
    options = parser.parse_args(arguments)
    console = literal_console()
    return run_command("status.py", lambda: show(options.results, watch=options.watch, console=console), goes_on=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
