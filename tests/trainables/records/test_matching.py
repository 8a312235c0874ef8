"""One definition of "matched": what the tables compare a trial with is what the analysis compares it with."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from analysis.data.load import comparable, load_sweep, number_of
from trainables.config import MEASURING, TrialConfig
from trainables.records.matching import MATCHED, REPLICATE, SAME_STUDY
from trainables.records.tables import Record, compact, write_record
from trainables.remedies import REMEDIES

ACCURACY = {16: 0.9, 64: 0.8, 300: 0.7}
DIFFERENCES: list[dict[str, Any]] = [
    {"measures": "hessian_trace"},
    {"measure_examples": 50},
    {"measure_dtype": "float32"},
    {"measure_batch_norm": "batch"},
    {"measure_every": 2},
    {"measure_share": 0.5},
    {"learning_rate": 0.02},
    {"warmup_epochs": 1.0},
    {"precision": "bfloat16"},
    {"target_loss": 0.1},
    {"epochs": 9},
    {"split_seed": 1},
    {"seed": 1},
    {"validation_size": 50},
    {"model": "f1"},
    {"test_size": 100},
]


OF_THE_SMALL = [{"measures": "hessian_trace"}, {"learning_rate": 0.02}, {"seed": 1}, {"test_size": 100}]


@pytest.mark.parametrize(
    ("difference", "of_the_large_batch"),
    [(difference, True) for difference in DIFFERENCES] + [(difference, False) for difference in OF_THE_SMALL],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_tables_and_analysis_have_the_same_reference(
    make_config: Any, tmp_path: Path, difference: dict[str, Any], of_the_large_batch: bool
) -> None:
    """For the trials of either batch size that differ in one field from a plain sweep of two seeds."""
    configs: list[TrialConfig] = [
        make_config(batch_size=size, seed=seed) for size, seed in itertools.product(ACCURACY, (0, 3))
    ]
    changed = [index for index, config in enumerate(configs) if (config.batch_size > 16) == of_the_large_batch]
    for index in changed:
        configs[index] = make_config(
            **{"batch_size": configs[index].batch_size, "seed": configs[index].seed} | difference
        )
    (tmp_path / "trials").mkdir()
    for config in configs:
        row = {
            "trial_id": config.trial_id,
            "status": "completed",
            **vars(config),
            "test_accuracy": ACCURACY[config.batch_size] + 0.01 * config.seed,
            "flags": [],
        }
        write_record(tmp_path, Record(row, [], []))
    compact(tmp_path)
    frame = comparable(load_sweep(tmp_path))
    study = number_of(frame, SAME_STUDY)
    for index, row in frame.iterrows():
        matched = (frame["setting"] == row["setting"]) & (study == study[index])
        matched &= frame["split_seed"] == row["split_seed"]
        references = frame[matched & frame["is_reference"]]["test_accuracy"]
        gap = references.mean() - row["test_accuracy"]
        assert row["large_batch_gap"] == pytest.approx(gap, abs=1e-12, nan_ok=True)
    name = next(iter(difference))
    apart = frame.groupby("batch_size")["setting"].first().nunique() > 1
    assert apart == (name not in {*MEASURING, *REPLICATE, "validation_size"})


def test_every_field_has_a_place() -> None:
    """A field added later is matched, unless it is a remedy or says what is measured."""
    fields = set(TrialConfig.__dataclass_fields__)
    free = {name for name in fields if name.startswith("switch_")} | {"batch_size", "validation_size"}
    assert set(MATCHED) - {"numbers_version"} == fields - free - {*REPLICATE, *REMEDIES, *MEASURING}
    assert "validation_size" in SAME_STUDY
