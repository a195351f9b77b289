import pytest
import torch

from support.sharing_networks import build


@pytest.fixture(autouse=True)
def _one_thread(threads):
    pass


@pytest.fixture
def net():
    return build()


@pytest.fixture
def images():
    return torch.randn(4, 3, 12, 10)
