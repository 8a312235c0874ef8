"""The counter-example, computed: one function, two networks, another sharpness (Dinh et al. 2017, arXiv 1703.04933).

In a ReLU network one layer's weights and bias times a and the next layer's weights over a give the same function for
any a > 0, so the same predictions, accuracy and gap. A measure of sharpness in the weights' own units takes any value
as a varies; measures that scale with the weights do not change. So sharpness alone cannot be the cause of
generalization, whatever the correlation. At most it is associated with the cause, among networks that were trained
alike.

trainables.measures.rescaled_network computes it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from analysis.data.load import Sweep
from analysis.stats.wording import plain_number
from trainables.runtime.errors import UserError
from trainables.runtime.importing import importing_alike
from trainables.runtime.own_process import ending
from trainables.storage.folders import AnyPath


@dataclass(frozen=True)
class Rescaled:
    """A measure of the network, of the rescaled one that computes the same, and after / before."""

    measure: str
    before: float
    after: float
    ratio: float


@dataclass(frozen=True)
class Rescaling:
    """The measures before and after; `network`: which one. `function_error`: the largest change of an output, as a
    share of the largest output. `accuracy`: on the examples measured, before and after."""

    network: str
    factor: float
    function_error: float
    accuracy: Sequence[float]
    rows: tuple[Rescaled, ...]


def begin_rescaling(sweep: Sweep) -> None:
    """Starts the computation in a process of its own, beside what the caller does until it asks for `rescaling`."""
    _process(_folder(sweep))


def rescaling(sweep: Sweep) -> Rescaling:
    """The counter-example on a network of the sweep, or on a small one; about three seconds.

    Raises UserError where the process that computes it fails, such as for lack of memory.
    """
    return _rescaling(_folder(sweep))


def _folder(sweep: Sweep) -> AnyPath | None:
    """None where no weights were kept: then the network is the same for all sweeps."""
    return sweep.folder if (sweep.folder / "weights").is_dir() else None


@lru_cache(maxsize=4)
def _process(folder: AnyPath | None) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603, arguments of our own
        [sys.executable, "-P", "-m", "trainables.measures.rescaled_network", *([str(folder)] if folder else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=importing_alike(),
    )


@lru_cache(maxsize=4)
def _rescaling(folder: AnyPath | None) -> Rescaling:
    process = _process(folder)
    found, errors = process.communicate()
    if process.returncode:
        _process.cache_clear()
        last = (errors.strip().splitlines() or ["nothing said"])[-1]
        raise UserError(f"the rescaled network could not be computed ({ending(process.returncode)}: {last})")
    content = json.loads(found)
    rows = tuple(Rescaled(*row) for row in content.pop("rows"))
    return Rescaling(rows=rows, **content)


def rescaling_sentence(found: Rescaling) -> str:
    """The counter-example in words."""
    changes = ", ".join(f"{row.measure} times {plain_number(row.ratio)}" for row in found.rows)
    error = found.function_error
    same = f"outputs change by {error:.0e} of the largest" if error else "to the last bit"
    return (
        f"{found.network}: one layer times {found.factor:g} and the next over {found.factor:g} leave every prediction "
        f"as it is ({same}), but change {changes}."
    )
