"""What is to be known of one CUDA GPU, in eight minutes and without Ray: docs/gpu.md says what and how.

    python benchmarks/gpu.py --data-dir DATA [--dataset cifar10] [--part correctness training ...] [--output DIR]
    python benchmarks/gpu.py --smoke          # the same on the CPU with tiny sizes, two minutes

The parts run one after another, each in a process of its own that is ended when its time is over. Rows are kept as they
come, in OUTPUT/PART.jsonl, messages in OUTPUT/PART.log, and after every part in OUTPUT/gpu.json and OUTPUT/gpu.md. A
part that is done is not run again unless --part names it; `science` goes on where it was. The exit status is 0, 1 where
a check failed or a part broke, and 2 where it could not start.
"""

import argparse
import contextlib
import datetime
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE), str(HERE.parent)]

import torch  # noqa: E402
from gpu_parts import Row, Setting  # noqa: E402

from trainables.runtime.errors import UserError, one_line  # noqa: E402
from trainables.runtime.parser import Parser  # noqa: E402

PARTS = {  # the module, and its share of the time
    "correctness": ("correctness", 0.16),
    "training": ("speed", 0.24),
    "measures": ("measuring", 0.12),
    "packing": ("packing", 0.18),
    "science": ("science", 0.30),
}
MINUTES = 8.0
OLDEST_TORCH = (2, 11)
LEAST_MEMORY = 12  # GiB that are free on the GPU; C2 at batch 5000 takes more, and says so


def main() -> int:
    """Runs the parts that are asked for and not done yet."""
    options = parser().parse_args()
    if options.worker:
        return work(options)
    try:
        check(options)
    except UserError as error:
        refuse(str(error))
    options.output.mkdir(parents=True, exist_ok=True)
    known = read(options.output / "gpu.json")
    if known.get("about", {}).get("smoke") not in (None, options.smoke):
        refuse(f"argument --output: {options.output} holds results {'without' if options.smoke else 'with'} --smoke")
    parts = known.get("parts", {})
    chosen = options.part or [name for name in PARTS if parts.get(name, {}).get("status") != "complete"]
    for name in chosen:
        seconds = options.minutes * 60 * PARTS[name][1] / sum(PARTS[one][1] for one in chosen)
        print(f"== {name}, at most {seconds:.0f} s", flush=True)
        parts[name] = {**run_part(name, seconds, options), "about": about(options)}
        print(
            f"   {parts[name]['status']}, {len(parts[name]['rows'])} rows, {parts[name]['seconds']:.0f} s", flush=True
        )
        ordered = {part: parts[part] for part in PARTS if part in parts}
        results = {"benchmark": "gpu", "about": about(options), "parts": ordered}
        (options.output / "gpu.json").write_text(json.dumps(results, indent=1))
        (options.output / "gpu.md").write_text(markdown(results))
    print(options.output / "gpu.md")
    wrong = [name for name in chosen if parts[name]["status"] == "broken"]
    failed = [row["check"] for name in chosen for row in parts[name]["rows"] if row.get("passed") is False]
    for line in (*(f"part broken: {name}" for name in wrong), *(f"check failed: {check}" for check in failed)):
        print(line)
    return 1 if wrong or failed else 0


def parser() -> argparse.ArgumentParser:
    found = Parser(prog="gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--part", nargs="+", choices=tuple(PARTS), help="run these, even if done (default: all that are not)")
    add("--smoke", action="store_true", help="tiny sizes on the CPU: shows that everything runs, measures nothing")
    add("--minutes", type=float, default=MINUTES, help="for all parts that are run (default: %(default)s)")
    add("--dataset", help="of science, such as cifar10 or parquet (default: cifar10; with --smoke made-up images)")
    add("--data-dir", type=Path, default=Path("data"), help="where its files are (default: %(default)s)")
    add("--output", type=Path, default=Path("gpu_results"), help="(default: %(default)s)")
    add("--worker", nargs=2, metavar=("PART", "END"), help=argparse.SUPPRESS)
    return found


def check(options: argparse.Namespace) -> None:
    """Raises UserError where the parts cannot run here."""
    options.dataset = options.dataset or ("patterns" if options.smoke else "cifar10")
    version = tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        raise UserError(f"torch must be {'.'.join(map(str, OLDEST_TORCH))} or newer, got {torch.__version__}")
    if not options.minutes > 0:
        raise UserError(f"argument --minutes: must be above 0, got {options.minutes}")
    if not options.smoke:
        if torch.version.cuda is None:
            raise UserError(f"torch must be built for CUDA, got {torch.__version__}; --smoke tries all on the CPU")
        try:
            torch.cuda.init()
            free, _ = torch.cuda.mem_get_info()
        except (RuntimeError, AssertionError) as error:  # no GPU, or a driver older than this torch
            raise UserError(f"one CUDA GPU is needed, got: {one_line(error)}; --smoke tries all on the CPU") from error
        if free < LEAST_MEMORY * 2**30:
            raise UserError(f"{LEAST_MEMORY} GiB of the GPU's memory must be free, got {free / 2**30:.1f} GiB")
    if "science" in (options.part or PARTS):
        try:
            from gpu_parts.science import source_of

            source_of(options)
        except UserError as error:
            raise UserError(f"{one_line(error)}; or leave science out with --part") from error


def run_part(name: str, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """The part's rows and how it ended, from a process that is killed when its time is over."""
    file = options.output / f"{name}.jsonl"
    file.unlink(missing_ok=True)
    started, reason = time.monotonic(), ""
    command = [sys.executable, __file__, "--worker", name, str(started + seconds), "--output", str(options.output)]
    command += ["--dataset", options.dataset, "--data-dir", str(options.data_dir)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    with (options.output / f"{name}.log").open("w+") as log:
        process = subprocess.Popen(
            [*command, *(["--smoke"] if options.smoke else [])],
            stderr=log,
            env=environment,
            start_new_session=True,  # what it starts itself ends with it
        )
        try:
            status = "broken" if process.wait(None if options.smoke else seconds) else "complete"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if status == "broken":
            log.seek(0)
            lines = log.read().strip().splitlines()
            reason = lines[-1] if lines else f"exit status {process.returncode}"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {"status": status, "reason": reason, "seconds": time.monotonic() - started, "rows": rows}


def work(options: argparse.Namespace) -> int:
    """What the process of one part does."""
    from trainables.runtime.process import prepare_process

    name, end = options.worker
    prepare_process(1 if options.smoke else os.cpu_count() or 1)
    device = torch.device("cpu" if options.smoke else "cuda:0")
    setting = Setting(
        device, float(end) - time.monotonic(), options.smoke, options.output, options.dataset, options.data_dir
    )
    module = importlib.import_module(f"gpu_parts.{PARTS[name][0]}")
    with (options.output / f"{name}.jsonl").open("w") as file:
        for row in module.run(setting):
            file.write(json.dumps(finite(row)) + "\n")
            file.flush()
    return 0


def finite(row: Row) -> Row:
    """`row` with null for numbers that are not finite, which JSON does not have."""
    return {name: None if isinstance(value, float) and value - value != 0 else value for name, value in row.items()}


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Where and when, as far as a reader needs it to repeat a figure."""
    has_gpu = not options.smoke
    driver = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if has_gpu else None
    return {
        "smoke": options.smoke,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gpu": torch.cuda.get_device_name(0) if has_gpu else "none: --smoke on the CPU",
        "driver": driver,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "commit": output_of("git", "rev-parse", "HEAD"),
    }


def output_of(*command: str) -> str | None:
    """What a command prints; None where it is not there, or prints nothing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=HERE).stdout.strip() or None
    except OSError:
        return None


def read(file: Path) -> dict[str, Any]:
    """The results of earlier runs; none where there are none."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        refuse(f"argument --output: {file} is no JSON; remove it, or name another folder")
    return found


def markdown(results: dict[str, Any]) -> str:
    """A table for every part."""
    about = ", ".join(f"{name} {value}" for name, value in results["about"].items() if name != "smoke")
    return "\n".join(["# One GPU", "", about, *sections(results["parts"])]) + "\n"


def sections(parts: dict[str, Any]) -> Iterator[str]:
    """Each part with its heading, what to know of it, and its table; correctness tells failures alone."""
    for name, part in parts.items():
        module = importlib.import_module(f"gpu_parts.{PARTS[name][0]}")
        ended = part["status"] + (f": {part['reason']}" if part["reason"] else "")
        yield from ("", f"## {module.TITLE}", "", f"{module.NOTE} ({ended}, {part['seconds']:.0f} s)", "")
        columns = module.COLUMNS
        rows = module.table(part["rows"]) if hasattr(module, "table") else part["rows"]
        if rows:
            yield "| " + " | ".join(column.replace("_", " ") for column in columns) + " |"
            yield "|" + "---|" * len(columns)
            yield from ("| " + " | ".join(cell(row.get(column)) for column in columns) + " |" for row in rows)
        if hasattr(module, "summary"):
            yield from ("", module.summary(part["rows"]))


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float) and 1000 <= abs(value) < 1e9:
        return f"{float(f'{value:.3g}'):.0f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")


def refuse(message: str) -> NoReturn:
    print(f"gpu.py: error: {one_line(message)}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
