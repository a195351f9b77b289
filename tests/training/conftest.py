import pytest
import torch

from kerneldna_ops.training import logs

TENSORBOARD = logs._tensorboard


@pytest.fixture(scope="module", autouse=True)
def on_one_thread():
    """Small work, and the same numbers every time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package", autouse=True)
def without_tensorboard():
    """Its import and its threads take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_tensorboard", lambda folder, first_step: None)
        yield


@pytest.fixture
def with_tensorboard(monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(logs, "_tensorboard", TENSORBOARD)
