"""The kernels of this process are interpreted, which is decided when they are defined; no other test has to know."""

import importlib
import pkgutil

import pytest

import kerneldna_ops.triton_kernels as kernels


@pytest.fixture
def interpreted(monkeypatch):
    """The backend takes tensors of the CPU."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")


with pytest.MonkeyPatch.context() as environment:
    environment.setenv("TRITON_INTERPRET", "1")
    # Triton imports it at the first descriptor, and it wants the variable as it was when Triton was imported.
    importlib.import_module("triton.experimental.gluon")
    for module in pkgutil.iter_modules(kernels.__path__):
        importlib.import_module(f"{kernels.__name__}.{module.name}")
