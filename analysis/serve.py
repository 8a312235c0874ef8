"""Serve the report of a sweep as a live page, while the sweep runs and afterwards.

    python analysis/serve.py results/NAME             http://127.0.0.1:8321
    python analysis/serve.py results/NAME --port 0    any free port

Implementation: analysis/reporting/live.py.
"""

import argparse
import contextlib
import sys
import threading

from analysis.cli.command import add_metric, run_with_options
from analysis.reporting.live import PORT, serving


def show(options: argparse.Namespace) -> list[object]:
    """Serves until Ctrl-C."""
    with (
        serving(options.results, options.port, metric=options.metric, margin=options.margin) as server,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(f"{server.address} shows {options.results}; Ctrl-C ends it", flush=True)
        threading.Event().wait()
    return []


def main(arguments: list[str]) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--port", type=int, default=PORT, help=f"port on 127.0.0.1, 0 for any free one (default: {PORT})"
        )
        add_metric(parser, has_margin=True)

    return run_with_options(show, arguments, __doc__, add)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
