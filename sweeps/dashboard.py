"""Prometheus and Grafana for a running sweep: writes their files, and prints the commands that start them.

    python sweeps/dashboard.py

Implementation: sweeps/monitoring/grafana.py.
"""

import shlex
import shutil
import sys
from pathlib import Path

from sweeps.cli.arguments import integer, run_command
from trainables.runtime.parser import Parser


def main(arguments: list[str]) -> int:
    parser = Parser(prog="dashboard.py", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="the sweeps' --results (default: %(default)s)",
    )
    place.add_argument("--folder", type=Path, help="where to write the files (default: monitoring in --results)")
    parser.add_argument(
        "--prometheus-port",
        type=integer(1),
        default=9090,
        metavar="N",
        help="port of Prometheus (default: %(default)s)",
    )
    parser.add_argument(
        "--grafana-port", type=integer(1), default=3000, metavar="N", help="port of Grafana (default: %(default)s)"
    )
    options = parser.parse_args(arguments)

    def run() -> int:
        from sweeps.monitoring.grafana import UID, provision  # file locks, which Windows lacks

        for command in provision(
            options.folder or options.results / "monitoring", options.prometheus_port, options.grafana_port
        ):
            program = shlex.split(command)[0]
            print(command + ("" if shutil.which(program) else f"    # {program} is not installed here"))
        print(f"then open http://127.0.0.1:{options.grafana_port}/d/{UID}")
        return 0

    return run_command("dashboard.py", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
