"""The GPUs of each worker of a trial: those that were asked for, else one where a machine has one."""


def gpu_share(asked: float | None, gpus_of_a_machine: float) -> float:
    """Return `asked`, the value of --gpus-per-trial; where it is None, 1 on a machine with a GPU, else 0."""
    return float(gpus_of_a_machine >= 1) if asked is None else asked
