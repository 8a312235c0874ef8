"""What the names of columns say: which are metrics, hyperparameters, seeds, and names of runs."""

import re

# fmt: off
LOWER = (
    "loss", "error", "perplexity", "entropy", "nll", "nats", "mse", "rmse", "mae", "mape", "bpb", "bits", "ppl",
    "brier",
)
HIGHER = ("acc", "accuracy", "auc", "f1", "map", "precision", "recall", "r2", "bleu", "reward")
HISTORY = ("step", "epoch", "iteration", "iter", "global_step")
SEEDS = ("seed", "random_seed", "random_state", "rng_seed", "manual_seed", "global_seed")
WANDB = (  # columns of W&B's runs table beside the configuration and the summary
    "Name", "State", "Notes", "User", "Tags", "Created", "Updated", "Runtime", "Duration", "Start Time", "End Time",
    "Sweep", "ID", "Hostname", "Host", "Group", "Job Type", "Project", "Entity", "Command", "Commit", "Git Commit",
    "Git State", "Git Repository", "Github", "Logs", "OS", "Python", "Python Version", "GPU Type", "GPU Count",
    "CPU Count", "Directory", "Run Path", "W&B CLI Version",
)
RUN_NAMES = (
    "id", "run_id", "run_name", "exp_name", "experiment_name", "trial_id", "host", "hostname", "user", "timestamp",
    "start_time", "end_time", "output_dir", "logging_dir", "log_dir", "logdir", "save_dir", "run_dir", "checkpoint_dir",
    "checkpoint_path",
)
_ALSO_SETTINGS = {"bits", "entropy", "map", "precision", "recall", "r2"}  # such as `precision` 16
_TIMES = {"second", "seconds", "runtime", "duration", "elapsed", "timestamp", "flos"}
_HELD_OUT = {"val", "valid", "validation", "test", "eval", "dev"}
_OF_A_CURVE = {
    "min", "max", "mean", "avg", "last", "best", "final", "std", "value", "step", "epoch", "rate", "top1", "top5",
}
_HYPERPARAMETERS = {
    "lr", "learning", "decay", "momentum", "beta", "betas", "beta1", "beta2", "eps", "epsilon", "warmup", "dropout",
    "smoothing", "clip", "clipping", "gamma", "alpha", "lambda", "rho", "tau", "temperature", "width", "depth",
    "layers", "hidden", "dim", "heads", "scale", "coef", "coefficient", "weight", "wd", "ratio", "factor", "fraction",
    "probability", "prob", "power", "damping", "size", "rate", "strength", "noise", "penalty", "regularization", "l1",
    "l2", "init", "target", "goal", "threshold", "margin", "interval", "every", "frequency", "patience",
}
# fmt: on


def last_part(name: object) -> str:
    """`batch_size` of `data.batch_size`, in lower case."""
    return re.split(r"[/.]", str(name))[-1].lower()


def is_result(name: str) -> bool:
    """Whether a column is named like a metric, a time, or a position in a history."""
    if last_part(name) in HISTORY:
        return True
    words = _words(name)
    if {*words} <= _OF_A_CURVE:
        return bool({*words} & {*HISTORY})  # best_epoch
    while words[-1] in _OF_A_CURVE:
        words.pop()
    if {*words} & _HYPERPARAMETERS:
        return False
    metrics = {*LOWER, *HIGHER}
    ends_so = {words[-1], words[-1].rstrip("0123456789")} & (metrics - _ALSO_SETTINGS | _TIMES)  # acc1
    return bool(ends_so or ({*words} & _HELD_OUT and {*words} & metrics))


def is_hyperparameter(name: str) -> bool:
    """Whether a column is named like a hyperparameter."""
    return not is_result(name) and bool({*_words(name)} & _HYPERPARAMETERS)


def _words(name: str) -> list[str]:
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(name))
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]
