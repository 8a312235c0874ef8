"""The table of variants of F1 on digits of page 1, from the results kept in docs/paper/data."""

from collections.abc import Iterator

import numpy as np
from kept import head, kept_sweep, line, with_ends

from analysis.data.load import BOX_STRONG, MAX_EIG, comparable
from analysis.stats.means import paired_difference
from analysis.stats.wording import three_digits

AS_IN_THE_TABLES = 0.006
VARIANTS = {  # what differs from the tables above; the folder in docs/paper/data, and the learning rate
    "nothing": ("f1_digits_rates", AS_IN_THE_TABLES),
    "learning rate 0.002": ("f1_digits_rates", 0.002),
    "learning rate 0.02": ("f1_digits_rates", 0.02),
    "trained statistics of batch norm": ("f1_digits_running", AS_IN_THE_TABLES),
    "to a loss of 0.01": ("f1_digits_loss_0.01", AS_IN_THE_TABLES),
    "300 epochs": ("f1_digits_epochs_300", AS_IN_THE_TABLES),
}


def variants_table() -> Iterator[str]:
    yield from head(
        "what differs | seeds | train loss SB | LB | test SB − LB [points] | box sharpness LB / SB | "
        "largest eigenvalue LB / SB"
    )
    for name, (folder, rate) in VARIANTS.items():
        trials = comparable(kept_sweep(folder))
        trials = trials[trials["learning_rate"] == rate]
        sizes = sorted(trials["batch_size"].unique())
        small, large = (trials[trials["batch_size"] == size] for size in sizes)
        losses = [three_digits(float(np.exp(np.log(end["train_loss"]).mean()))) for end in (small, large)]
        accuracy = paired_difference(small, large, "test_accuracy")
        ratios = [paired_difference(large, small, one.column, scale="log") for one in (BOX_STRONG, MAX_EIG)]
        assert accuracy is not None
        yield line(
            name,
            accuracy.replicates,
            *losses,
            with_ends(accuracy.times(100), "{:.2f}".format),
            *("–" if ratio is None else with_ends(ratio, three_digits) for ratio in ratios),
        )
