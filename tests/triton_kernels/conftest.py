"""The kernels are interpreted in every test process (see tests/conftest.py); here the backend takes them, too."""

import pytest


@pytest.fixture
def interpreted(monkeypatch):
    """The backend takes tensors of the CPU."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
