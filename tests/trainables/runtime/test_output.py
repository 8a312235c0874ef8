"""Standard output in any encoding, and when it cannot be written any more: as commands meet it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PRINTING = """
import sys
from trainables.runtime.output import reliable_output
with reliable_output("program", goes_on={goes_on}) as output:
    for number in range(20000):
        print("loses 1.5 \u2212 0.5 \u00b1 0.1 \u2192 \u65e5 \\udcff", number)
    print("went on", file=sys.stderr)
sys.exit(output.status)
"""
SIGNS = "loses 1.5 \u2212 0.5 \u00b1 0.1 \u2192 \u65e5 \\udcff"
PLAIN = r"loses 1.5 - 0.5 +/- 0.1 -> \u65e5 \udcff"


def run(command: str, code: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "CODE": code}
    shell = f'set -o pipefail; "{sys.executable}" -c "$CODE" {command}'
    return subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, encoding=encoding, timeout=120, check=False,
        env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_signs_that_the_encoding_lacks(encoding: str) -> None:
    result = run("", PRINTING.format(goes_on=True).replace("20000", "1"), encoding)
    assert (result.returncode, result.stderr) == (0, "went on\n")
    signs = {"ascii": PLAIN, "cp1252": PLAIN.replace("+/-", "\u00b1"), "utf-8": SIGNS}
    assert result.stdout == f"{signs[encoding]} 0\n"


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_reader_that_has_read_enough(goes_on: bool) -> None:
    result = run("| head -1", PRINTING.format(goes_on=goes_on))
    assert (result.returncode, result.stderr) == (0, "went on\n" if goes_on else "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("goes_on", [True, False])
def test_an_output_without_space(goes_on: bool) -> None:
    result = run("> /dev/full", PRINTING.format(goes_on=goes_on))
    told = "program: error: standard output: [Errno 28] No space left on device\n"
    assert (result.returncode, result.stderr) == (1, "went on\n" * goes_on + told)


def test_no_output_at_all() -> None:
    result = run(">&-", PRINTING.format(goes_on=True))
    assert (result.returncode, result.stderr) == (0, "went on\n")


def test_whoever_keeps_it_may_ask_about_it_when_it_is_closed() -> None:
    """As colorama does at exit, where something has closed the output that it was imported with."""
    code = """
import sys
from trainables.runtime.output import reliable_output
with reliable_output("program", goes_on=True):
    kept = sys.stderr
sys.stderr.close()
print(kept.isatty())
"""
    assert run("", code).stdout == "False\n"
