"""The options of throughput.py: what to measure, the goal, and the link between devices."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence

from sweeps.cli.arguments import add_batch_sizes, add_data, integer, number
from sweeps.cli.options import add_training, with_stopping
from sweeps.cli.options import parse as options_of_the_grid
from trainables.runtime.parser import Parser
from trainables.storage import folders

SECONDS = 3.0
BATCH_SIZES = [16, 64, 300]

OFTEN = (
    "--sweep", "--goal", "--price-per-hour", "--measure", "--devices", "--bandwidth", "--latency", "--batch-sizes",
    "--dataset", "--model",
)  # fmt: skip

EXAMPLES = """\
examples:
  python sweeps/throughput.py --batch-sizes 16 64 300
      examples a second on this device, for the MLP on digits
  python sweeps/throughput.py --sweep results/NAME --goal 0.3 --price-per-hour 2.5
      time and cost to a test loss of 0.3, with the throughput of the sweep's own trials
  python sweeps/throughput.py --sweep results/NAME --measure --device cuda
      the same with the throughput of this device
  python sweeps/throughput.py --sweep results/NAME --devices 1 2 4 8 --bandwidth 10GB/s --latency 20us
      the time on several devices, by a model of their communication
  python sweeps/throughput.py --batch-sizes 64 300 --measure-workers 2 4
      that model against processes on this machine, with a link fitted to them
"""

BANDWIDTHS = {"GB/s": 1e9, "MB/s": 1e6, "Gbit/s": 1e9 / 8, "Mbit/s": 1e6 / 8}
LATENCIES = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "ns": 1e-9}
_OF_WHOLE_TRIALS = ("epochs", "budget", "target_loss", "target_metric", "evaluate_every", "schedule")
REFUSED = dict.fromkeys(_OF_WHOLE_TRIALS, "updates are timed, not whole trials")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `throughput.py`; exits with status 2 and one line where they are wrong."""
    parser = Parser(
        prog="throughput.py",
        description="Measure examples per second at each batch size, and find the batch size that reaches a goal "
        "fastest and cheapest.",
        epilog=EXAMPLES,
        often=OFTEN,
        refused=REFUSED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    goal = parser.add_argument_group("time and cost to a goal")
    goal.add_argument("--sweep", type=folders.argument, metavar="DIR", help="results folder with the steps to the goal")
    goal.add_argument(
        "--goal",
        nargs="+",
        type=number(),
        metavar="X",
        help="goals (default: the best value that every batch size reaches)",
    )
    goal.add_argument("--metric", metavar="NAME", help="the metric of the goal (default: test_loss)")
    goal.add_argument(
        "--direction",
        choices=("lower", "higher"),
        help="whether lower or higher is better (default: from the name of the metric)",
    )
    goal.add_argument(
        "--price-per-hour", type=number(above=0), metavar="X", help="price of one device for an hour, in any currency"
    )
    goal.add_argument(
        "--measure",
        action="store_true",
        help="with --sweep: measure throughput on this device instead of using the sweep's trials",
    )
    several = parser.add_argument_group("several devices that share every batch (docs/planning.md)")
    several.add_argument("--devices", nargs="+", type=integer(1), metavar="N", help="numbers of devices")
    several.add_argument(
        "--bandwidth",
        type=_quantity(BANDWIDTHS),
        metavar="X",
        help="bandwidth of the link between devices, such as 10GB/s",
    )
    several.add_argument(
        "--latency", type=_quantity(LATENCIES), metavar="X", help="latency of one message, such as 20us"
    )
    several.add_argument(
        "--overhead",
        type=_quantity(LATENCIES),
        metavar="X",
        help="extra time of each step on several devices, beyond computing and communication, such as 2ms (default: 0; "
        "--measure-workers measures it)",
    )
    several.add_argument(
        "--measure-workers",
        nargs="+",
        type=integer(2),
        metavar="N",
        help="instead, fit bandwidth, latency and overhead to N CPU processes on this machine, and compare the model "
        "with training",
    )
    here = parser.add_argument_group("what is measured (without --sweep, or with --measure)")
    add_batch_sizes(here, shown=f"those of --sweep, or {' '.join(map(str, BATCH_SIZES))}")
    here.add_argument(
        "--seconds",
        type=number(above=0),
        metavar="X",
        help=f"seconds of training at each batch size (default: {SECONDS:g})",
    )
    here.add_argument(
        "--device", choices=("cpu", "cuda"), help="device to measure on (default: cuda where there is a GPU)"
    )
    here.add_argument(
        "--threads",
        type=integer(1),
        default=1,
        metavar="N",
        help="CPU threads, as --cpus-per-trial (default: %(default)s)",
    )
    add_data(parser, dataset="digits")
    add_training(parser)
    own = vars(parser.parse_args([]))
    fixed = {"learning_rates": [0.001], "warmup_epochs": [0.0], "switch_epochs": [None], "seeds": [0], "measures": []}
    others = vars(options_of_the_grid([])) | fixed  # required by a trial, without meaning here
    parser.set_defaults(**{name: value for name, value in others.items() if name not in own})
    return with_stopping(parser.parse_args(arguments))


def _quantity(units: Mapping[str, float]) -> Callable[[str], float]:
    """A reader of a number above 0 with one of `units`."""

    def read(text: str) -> float:
        for unit in sorted(units, key=len, reverse=True):
            if text.endswith(unit):
                value = number(above=0)(text.removesuffix(unit)) * units[unit]
                if 0 < value < math.inf:
                    return value
        first, *others = units
        raise argparse.ArgumentTypeError(f"must be a number with {first} or {', '.join(others)}, got {text}")

    return read
