"""The fixtures of the tests against other libraries; what they hold is made in networks.py."""

import pytest
from networks import Network, trained_network, with_an_outlier
from torch import Tensor


@pytest.fixture(scope="session")
def network() -> Network:
    return trained_network()


@pytest.fixture(scope="session")
def outlier() -> Tensor:
    return with_an_outlier()
