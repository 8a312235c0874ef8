"""The best setting of each batch size, and how sure its mean is where the same runs chose it.

The best of many settings is partly the luckiest. Of twelve settings that are equally good, with four replicates, the
t-interval of the best one's mean holds in 83 % instead of 95. With the variance s^2 (1 / n + 1 / (n - 1)) of
`mean_over_replicates(..., chosen=True)`, which is that of a choice by the other replicates, it holds in 94 %, and where
settings differ by a third of s or more in 98 % (tests/analysis/questions/test_best_setting.py).
"""

import numpy as np
import pandas as pd

CHOSEN = "is_chosen"


def at_best_setting(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """The rows of each batch size at the setting with the smallest mean of `by`; infinite: not at all.

    Settings with fewer replicates than others of their batch size are left out: of many that are tried once the
    luckiest would win. A batch size whose other settings are all infinite has no rows. The column `CHOSEN` says whether
    there was more than one to choose from.

    Args:
        frame: with `batch_size`, `setting` and `by`.
    """
    return pd.concat([_of_size(rows, by) for _, rows in frame.groupby("batch_size")])


def _of_size(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    groups = rows.groupby("setting")[by]
    means = groups.mean()[groups.size() == groups.size().max()]
    means = means[np.isfinite(means)]
    best = means.idxmin() if len(means) else None
    return rows[rows["setting"] == best].assign(**{CHOSEN: len(means) > 1})
