"""pytest -p support.pretended_card --collect-only: what is collected on a machine with an NVIDIA card."""

import torch

from support import devices

_explained = devices.explained


def explained(name, dtype=torch.float16, allow_tf32=False):
    if name != "cuda":
        return _explained(name, dtype, allow_tf32)
    without = {"cpu", "cuda_host"} | ({"triton", "cuda"} if dtype is torch.float64 else set())
    return {backend: (backend not in without, "pretended") for backend in devices.backends.NAMES}


torch.cuda.is_available = lambda: True
torch.cuda.get_device_name = lambda device: "no card at all"
devices.explained = explained
