"""The flags of the column `flags` of trials.parquet. Tables of earlier versions hold them too, so they never change."""

DIVERGED = "diverged"
MISSED_METRIC = "missed target metric"
MISSED_LOSS = "missed target loss"
LOW_TRAIN_ACCURACY = "train accuracy below 99.9 %"
ENDED_BY_TEST_SET = "its test set decides when its training ends"
ENDED_BEFORE_SWITCH = "ended before its switch"
PAPER_FAR_BELOW_STRONG = "paper method far below strong"
NOT_CONVERGED = "a measure did not converge"
FAILED_MEASURE = "a measure failed"
IN_FLOAT32 = "measured in float32, as the model cannot compute in float64"

OFF_TARGET = frozenset({MISSED_LOSS, MISSED_METRIC, LOW_TRAIN_ACCURACY})
"""Trials with one of these have another training loss, so their sharpness is not comparable."""
OF_MEASURES = (PAPER_FAR_BELOW_STRONG, NOT_CONVERGED, IN_FLOAT32)
"""These are about how the trial was measured, and may change when it is measured further."""
