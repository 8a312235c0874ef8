"""The curves of a trial on the page: thinned, with all of the points that it has few of."""

import numpy as np
import pandas as pd

from analysis.data.metric import Metric
from analysis.reporting.page.lines import MOST_POINTS_OF_A_TRIAL, curves


def test_curves_keep_the_epochs_with_a_test_value() -> None:
    epochs = pd.DataFrame({"trial_id": "a", "epoch": range(1, 2001), "train_loss": 1 / np.arange(1, 2001)})
    tested = [1, 2, 3, 5, 8, 700, 1999, 2000]
    epochs["test_accuracy"] = epochs["epoch"].where(epochs["epoch"].isin(tested)) / 2000
    found = curves(epochs, ["a", "b"], Metric.of_row({}))
    (trial, missing), at = found["trials"], {name: place for place, name in enumerate(found["names"])}
    assert missing is None
    assert trial["epochs"] == 2000
    shown, values = trial["values"][at["epoch"]], trial["values"][at["test_accuracy"]]
    assert [epoch for epoch, value in zip(shown, values, strict=True) if value is not None] == tested
    assert len(shown) <= MOST_POINTS_OF_A_TRIAL + len(tested)
