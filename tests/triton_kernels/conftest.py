"""The kernels are interpreted in every test process (see tests/conftest.py); here the backend takes them, too."""

import pytest

from support import devices


@pytest.fixture
def interpreted(monkeypatch):
    """The backend takes tensors of the CPU."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def allow_tf32():
    """Allowed as PyTorch allows it; the interpreter multiplies in float32 even so."""
    with devices.tf32(True):
        yield
