import pytest

from kerneldna_ops.training import logs

TENSORBOARD = logs._tensorboard


@pytest.fixture(scope="module", autouse=True)
def on_one_thread(one_thread):
    """Every module of this folder."""


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
