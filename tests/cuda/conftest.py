"""What tests of the CUDA kernels share: host execution as it is by default, before and after each of them."""

import pytest
import torch

try:
    from host_execution import _cuda_host as host
except ModuleNotFoundError:
    host = None


@pytest.fixture(autouse=True)
def host_execution_by_default():
    def reset():
        if host is not None:
            host.set_schedule()
            host.set_copies("late")
            host.set_limits()
            host.clear_launches()

    reset()
    yield
    reset()


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=name_of)
def stored(request):
    """The dtypes that there are CUDA kernels for."""
    return request.param


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=name_of)
def half(request):
    return request.param
