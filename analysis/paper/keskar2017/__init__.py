"""The numbers of Keskar et al. 2017 (arXiv 1609.04836): Table 2 and Tables 3 and 4, as CSV files beside this.

Means and standard deviations over 5 random starts, in percent. SB is batch size 256, LB 10 % of the training set.
Table 3 (`space` full) is Metric 2.1 with A the identity, Table 4 (`space` subspace100) with a random matrix of 100
columns, whose distribution and scale the paper does not state. F1, LB, in Table 4 hardly moves when epsilon halves,
unlike every other row: no number to aim at.
"""

from functools import cache
from pathlib import Path

import pandas as pd

NETWORKS = ("F1", "F2", "C1", "C2", "C3", "C4")
REGIMES = ("SB", "LB")
SPACES = ("full", "subspace100")


@cache
def accuracy() -> pd.DataFrame:
    """Table 2, indexed by network and regime: train_accuracy, train_std, test_accuracy, test_std, in percent."""
    table = pd.read_csv(Path(__file__).with_name("accuracy.csv"))
    shorter = {name: name.removesuffix("_percent") for name in table.columns}
    return table.rename(columns=shorter).set_index(["network", "regime"])


@cache
def sharpness() -> pd.DataFrame:
    """Tables 3 and 4, indexed by network, regime, space and epsilon: sharpness and std, in percent."""
    table = pd.read_csv(Path(__file__).with_name("sharpness.csv")).rename(columns={"sharpness_percent": "sharpness"})
    return table.set_index(["network", "regime", "space", "epsilon"])
