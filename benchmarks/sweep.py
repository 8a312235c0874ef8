"""A whole sweep beside what a good user of plain Ray Tune would write in an afternoon: same trials, epochs and cores.

    python benchmarks/sweep.py [--seeds 0 1 2] [--epochs 30 | --target-loss 0.001] [--json FILE]

Digits, batch sizes 16 to 300, three learning rates, three seeds: 45 trials for a fixed number of epochs, or to a
training loss as in the default sweep, on all training examples after each epoch. The plain alternative is a function
trainable with a TensorDataset and a DataLoader in the worker's own process (the fastest setting for data in memory;
worker processes make it slower), `tune.report` after each epoch, Tune's default settings, box sharpness by
`scipy.optimize.minimize` with bounds and ten iterations of L-BFGS-B for the paper's two boxes, and the largest
eigenvalue by SciPy's eigsh to 1e-3. Ours measures the same two boxes twice, by `paper` and by `strong`.

Reports seconds of the whole command, with Ray's start and, ours, report and figures, which the plain one does not have;
of ours also the seconds until its answer stands on the terminal; trials a minute; and the share of the cores' time,
from the first trial's start to the last one's end, that went into training and measures. Both are whole processes, one
after the other, once their libraries have been read from the disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH_SIZES = (16, 32, 64, 128, 300)
LEARNING_RATES = (0.001, 0.003, 0.01)
LIBRARIES = "matplotlib.figure, pandas, ray.tune, scipy.optimize, scipy.stats, sklearn.datasets, torch"
PROJECT = Path(__file__).resolve().parents[1]


def plain_trial(config: dict[str, Any]) -> None:
    """One trial as the tutorials write it."""
    import numpy as np
    import torch
    from ray import tune
    from scipy.optimize import Bounds, minimize
    from scipy.sparse.linalg import LinearOperator, eigsh
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.nn.utils import parameters_to_vector, vector_to_parameters
    from torch.utils.data import DataLoader, TensorDataset

    started = time.time()
    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(config["seed"]).permutation(len(labels))
    inputs = torch.from_numpy(images[order].astype(np.float32) / 16)
    targets = torch.from_numpy(labels[order])
    train = TensorDataset(inputs[:300], targets[:300])
    loader = DataLoader(train, batch_size=config["batch_size"], shuffle=True)
    test = TensorDataset(inputs[300:], targets[300:])
    test_loader = DataLoader(test, batch_size=1024)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])

    def accuracy() -> float:
        with torch.no_grad():
            hits = sum(int((model(batch).argmax(1) == label).sum()) for batch, label in test_loader)
        return hits / len(test)

    for epoch in range(config["epochs"]):
        for batch, label in loader:
            optimizer.zero_grad()
            criterion(model(batch), label).backward()
            optimizer.step()
        if config["target_loss"] is not None:
            with torch.no_grad():
                if criterion(model(inputs[:300]), targets[:300]).item() <= config["target_loss"]:
                    break
        if epoch + 1 < config["epochs"]:
            tune.report({"epoch": epoch, "test_accuracy": accuracy()})

    model.double()
    whole, whole_labels = inputs[:300].double(), targets[:300]
    center = parameters_to_vector(model.parameters()).detach()

    def value_and_gradient(point: Any) -> tuple[float, Any]:
        vector_to_parameters(torch.from_numpy(point), model.parameters())
        model.zero_grad()
        loss = criterion(model(whole), whole_labels)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return -loss.item(), -gradient.numpy()

    sharpness = {}
    for epsilon in (1e-3, 5e-4):
        at = center.numpy()
        radius = epsilon * (np.abs(at) + 1)
        found = minimize(
            value_and_gradient,
            at,
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(at - radius, at + radius),
            options={"maxiter": 10},
        )
        base = -value_and_gradient(at)[0]
        sharpness[f"box_sharpness_{epsilon}"] = 100 * (-found.fun - base) / (1 + base)
    vector_to_parameters(center, model.parameters())
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(criterion(model(whole), whole_labels), parameters, create_graph=True)
    flat = torch.cat([gradient.flatten() for gradient in gradients])

    def product(vector: Any) -> Any:
        direction = torch.from_numpy(np.asarray(vector).ravel())
        found = torch.autograd.grad(flat @ direction, parameters, retain_graph=True)
        return torch.cat([part.flatten() for part in found]).numpy()

    operator = LinearOperator((len(flat), len(flat)), matvec=product, dtype=np.float64)
    largest = eigsh(operator, k=1, which="LA", tol=1e-3, return_eigenvectors=False)[0]
    model.float()
    tune.report(
        {
            "epoch": epoch,
            "test_accuracy": accuracy(),
            "hessian_max_eig": float(largest),
            **sharpness,
            "started": started,
            "seconds": time.time() - started,
        }
    )


def run_plain(seeds: list[int], epochs: int, target_loss: float | None, folder: Path) -> dict[str, float]:
    """The plain sweep in this process; prints its figures as JSON."""
    begun = time.time()
    import ray
    from ray import tune

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    results = tune.Tuner(
        plain_trial,
        param_space={
            "batch_size": tune.grid_search(list(BATCH_SIZES)),
            "learning_rate": tune.grid_search(list(LEARNING_RATES)),
            "seed": tune.grid_search(seeds),
            "epochs": epochs,
            "target_loss": target_loss,
        },
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    ).fit()
    rows = [result.metrics for result in results]
    ray.shutdown()
    first = min(row["started"] for row in rows)
    return {
        "trials": len(rows),
        "busy_seconds": sum(row["seconds"] for row in rows),
        "startup_seconds": first - begun,
        "trial_seconds": max(row["started"] + row["seconds"] for row in rows) - first,
        "test_accuracy": sum(row["test_accuracy"] for row in rows) / len(rows),
    }


def run_ours(seeds: list[int], epochs: int, target_loss: float | None, folder: Path) -> dict[str, float]:
    """`batch_grid.py` as a user runs it, report and figures included."""
    command = [sys.executable, "sweeps/batch_grid.py", "--results", str(folder), "--name", "ours", "--no-dashboard"]
    command += ["--batch-sizes", *map(str, BATCH_SIZES), "--learning-rates", *map(str, LEARNING_RATES)]
    command += ["--warmup-epochs", "0", "--switch-epochs", "none", "--epochs", str(epochs), "--seeds", *map(str, seeds)]
    command += [] if target_loss is None else ["--target-loss", str(target_loss)]
    begun = answered = time.time()
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as sweep:
        for _ in sweep.stdout or ():
            answered = time.time()
    if sweep.returncode:
        raise SystemExit(f"the sweep ended with status {sweep.returncode}")
    seconds = time.time() - begun
    import pandas as pd

    trials = pd.read_parquet(folder / "ours" / "trials.parquet")
    busy = trials["train_seconds"] + trials["sharpness_seconds"]
    ended = pd.to_datetime(trials["finished_at"]).map(lambda moment: moment.timestamp())  # whole seconds
    first = float((ended - busy).min())
    return {
        "seconds": seconds,
        "seconds_to_answer": answered - begun,
        "trials": len(trials),
        "busy_seconds": float(busy.sum()),
        "startup_seconds": first - begun,
        "trial_seconds": float(ended.max()) - first,
        "test_accuracy": float(trials["test_accuracy"].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="(default: 30, with a target loss at most 1000)")
    parser.add_argument("--target-loss", type=float, help="end each trial there")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--only", choices=("plain", "ours"), help="run one side in this process and print its JSON")
    options = parser.parse_args()
    epochs = options.epochs or (30 if options.target_loss is None else 1000)
    if options.only:
        with tempfile.TemporaryDirectory() as folder:
            run = run_plain if options.only == "plain" else run_ours
            print(json.dumps(run(options.seeds, epochs, options.target_loss, Path(folder))))
        return
    subprocess.run([sys.executable, "-c", f"import {LIBRARIES}"], check=True, stderr=subprocess.DEVNULL)
    figures: dict[str, Any] = {}
    cores = len(os.sched_getaffinity(0))
    for side in ("ours", "plain"):
        command = [sys.executable, __file__, "--only", side, "--epochs", str(epochs)]
        command += [] if options.target_loss is None else ["--target-loss", str(options.target_loss)]
        begun = time.perf_counter()
        done = subprocess.run(
            [*command, "--seeds", *map(str, options.seeds)], check=True, capture_output=True, text=True
        )
        seconds = time.perf_counter() - begun
        found = json.loads(done.stdout.strip().splitlines()[-1])
        found = {"seconds": seconds, **found}  # ours is a process of its own, and knows its time
        found["trials_per_minute"] = 60 * found["trials"] / found["seconds"]
        found["busy_share"] = found["busy_seconds"] / cores / found["trial_seconds"]
        figures[side] = found
        print(f"{side:>5}: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()), flush=True)
    figures["ratio"] = figures["ours"]["trials_per_minute"] / figures["plain"]["trials_per_minute"]
    figures["ratio_to_answer"] = figures["plain"]["seconds"] / figures["ours"]["seconds_to_answer"]
    print(
        f"ours runs {figures['ratio']:.1f} times the trials a minute on {cores} cores, "
        f"{figures['ratio_to_answer']:.1f} times up to its answer"
    )
    if options.json:
        options.json.write_text(json.dumps({"benchmark": "sweep", "cores": cores, **figures}, indent=1))


if __name__ == "__main__":
    main()
