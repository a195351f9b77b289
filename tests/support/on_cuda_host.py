"""pytest -p support.on_cuda_host: every call of the ops runs the CUDA kernels' source, in tests that name no backend.

A file of its own, because it is a plugin of pytest's.
"""

import host_execution  # noqa: F401

from kerneldna_ops import use_backend


def pytest_sessionstart():
    use_backend("cuda_host").__enter__()
