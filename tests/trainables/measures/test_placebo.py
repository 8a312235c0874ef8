"""The placebo: measures see rescaled layers, and nothing else changes, to the last bit."""

from collections.abc import Callable

import pytest
import torch
from narrow import as_a
from torch import Tensor, nn

from trainables.check import check_trial
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.measures.placebo import rescaled_network
from trainables.runtime.errors import UserError
from trainables.trial import run_trial

Make = Callable[..., TrialConfig]
RESULTS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "epochs_done")


def test_it_changes_raw_sharpness_alone(make_config: Make, digits: Source) -> None:
    measures = "hessian_max_eig,relative_flatness"
    plain, placebo = (run_trial(make_config(measures=measures, rescaling=factor), digits) for factor in (None, 8.0))
    assert plain.trial["trial_id"] != placebo.trial["trial_id"]
    assert [plain.trial[name] for name in RESULTS] == [placebo.trial[name] for name in RESULTS]
    before, after = ({row["measure"]: row["value"] for row in record.measures} for record in (plain, placebo))
    assert after["hessian_max_eig"] > 2 * before["hessian_max_eig"]
    assert after["relative_flatness"] == pytest.approx(before["relative_flatness"], rel=0.02)  # its trace: to 2 %


def test_the_outputs_are_the_same_to_the_last_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))
    inputs = torch.randn(50, 5)
    rescaled = as_a(nn.Sequential, rescaled_network(model, 16.0, inputs))
    assert torch.equal(model(inputs), rescaled(inputs))
    assert torch.equal(as_a(Tensor, rescaled[0].weight), 16 * as_a(Tensor, model[0].weight))
    assert torch.equal(as_a(Tensor, rescaled[4].weight), as_a(Tensor, model[4].weight) / 16)


def test_bad_input_is_refused_in_one_line(make_config: Make, digits: Source) -> None:
    for factor in (3.0, 1.0, 0.0, -2.0):
        with pytest.raises(UserError, match="`rescaling` must be a power of two other than 1"):
            make_config(rescaling=factor)
    tanh = make_config(rescaling=8.0, model_options='{"activation": "tanh", "widths": [16]}')
    with pytest.raises(UserError, match="`--rescalings` must be none for this network"):
        check_trial(tanh, digits)
