"""Part 2: examples per second of training, by benchmarks/training.py's loops, and their share of the matrix rate.

At batch 256 and 5000 first: the plain loop, ours and ours with CUDA graphs, in float32 (TF32 convolutions) and
bfloat16; then torch.compile where its compilation fits the time left; then the other batch sizes. Here updates of any
batch size are recorded, trials record those of small ones alone. A figure is the median of ROUNDS after one to warm up.
What does not fit the memory has a note and no figure.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator

from training import NETWORKS, examples_per_second, loops, matrix_rate, operations_per_example

from gpu_parts import Row, Setting
from trainables.runtime.memory import free_memory, is_out_of_memory
from trainables.training import recording
from trainables.training.cuda_graph import cuda_graph

TITLE = "Training: examples per second"
LOOPS = ("plain", "ours", "ours, CUDA graphs", "compiled")
COLUMNS = ("network", "batch_size", "precision", *LOOPS, "best_of_plain", "of_matrix_rate", "note")
NOTE = (
    "Examples per second. `best of plain`: the fastest of ours over the plain loop in float32; `of matrix rate`: its "
    "operations over those of a product of large matrices in that time."
)

BATCH_SIZES = (256, 5000, 64, 1000)  # in this order
COMPILED = {256: "float32", 5000: "bfloat16"}
ROUNDS = 3
SECONDS = 0.1  # of a round
COMPILATION = 45.0  # seconds that one must have left


def run(setting: Setting) -> Iterator[Row]:
    device = setting.device
    recording.LARGEST_BATCH = max(BATCH_SIZES)
    networks = ("mlp",) if setting.smoke else tuple(NETWORKS)
    sizes = (16,) if setting.smoke else BATCH_SIZES
    precisions = ("float32", "bfloat16")
    rates = {
        precision: matrix_rate(device, precision, *((128, 0.01) if setting.smoke else ())) for precision in precisions
    }
    for precision, rate in rates.items():
        note = f"{rate / 1e12:.4g} TFLOP/s"
        yield {"network": "matrix product", "precision": precision, "operations_per_second": rate, "note": note}
    operations = {network: operations_per_example(network) for network in networks}
    plain: dict[tuple[str, int], float] = {}

    def rows(network: str, size: int, precision: str, compiled: bool) -> Iterator[Row]:
        for loop, speed, note in speeds(network, size, precision, compiled, setting):
            if loop == "plain" and speed:
                plain[network, size] = speed
            base = plain.get((network, size))
            yield {
                "network": network,
                "batch_size": size,
                "precision": precision,
                "loop": loop,
                "examples_per_second": speed,
                "of_plain": speed / base if speed and base else None,
                "of_matrix_rate": speed * operations[network] / rates[precision] if speed else None,
                "note": note,
            }

    for chosen in (sizes[:2], sizes[2:]):
        for size, network, precision in itertools.product(chosen, networks, precisions):
            yield from rows(network, size, precision, compiled=False)
        compiled = [size for size in chosen if setting.smoke or size in COMPILED]
        for size, network in itertools.product(compiled, networks):
            if setting.smoke or setting.left > COMPILATION:
                yield from rows(network, size, COMPILED.get(size, "float32"), compiled=True)


def speeds(
    network: str, size: int, precision: str, compiled: bool, setting: Setting
) -> Iterator[tuple[str, float | None, str]]:
    """Each loop's name, its speed or None, and why it has none."""
    names = ["compiled"] if compiled else ["ours", *(["plain"] if precision == "float32" else []), "ours, CUDA graphs"]
    for name in sorted(names, key=lambda name: name != "plain"):
        free_memory()
        try:
            yield name, *speed(network, size, precision, name, setting)
        except (RuntimeError, MemoryError) as error:
            yield name, None, "out of memory" if is_out_of_memory(error) else str(error).splitlines()[0][:200]


def speed(network: str, size: int, precision: str, name: str, setting: Setting) -> tuple[float, str]:
    """The median speed, and for recorded updates whether they were."""
    device = setting.device
    record = cuda_graph if name == "ours, CUDA graphs" and device.type == "cuda" else None
    backend = ("eager" if setting.smoke else "inductor") if name == "compiled" else None
    contestants, training = loops(network, size, device, precision, record, backend)
    run_once: Callable[[], int] = contestants[name.split(",")[0]]
    seconds = 0.01 if setting.smoke else SECONDS
    while record is not None and training.step < recording.UPDATES_BEFORE:
        run_once()
    rounds = [examples_per_second(run_once, device, seconds) for _ in range(ROUNDS + 1)][1:]
    note = ("recorded" if size in training.recorded else "not recorded") if record is not None else ""
    return statistics.median(rounds), note


def table(rows: list[Row]) -> list[Row]:
    """A line for each network, batch size and precision."""
    found: dict[tuple[str, int, str], Row] = {}
    for row in rows:
        if "loop" in row:
            key = row["network"], row["batch_size"], row["precision"]
            line = found.setdefault(key, dict(zip(("network", "batch_size", "precision"), key, strict=True)))
            line[row["loop"]] = row["examples_per_second"]
            if row["loop"].startswith("ours") and (row["of_matrix_rate"] or 0) > line.get("of_matrix_rate", 0.0):
                line |= {"best_of_plain": row["of_plain"], "of_matrix_rate": row["of_matrix_rate"]}
            if row["note"] and row["note"] != "recorded":
                line["note"] = row["note"]
    order = list(NETWORKS)
    return [found[key] for key in sorted(found, key=lambda key: (order.index(key[0]), key[2] != "float32", key[1]))]


def summary(rows: list[Row]) -> str:
    return "; ".join(
        f"large matrices in {'TF32' if row['precision'] == 'float32' else row['precision']}: {row['note']}"
        for row in rows
        if row["network"] == "matrix product"
    )
