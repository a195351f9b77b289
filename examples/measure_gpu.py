"""What this machine's GPU makes of one layer: static cuDNN, composed operations, and the fused kernels that can run.

python examples/measure_gpu.py [CHANNELS] [SIDE] [BATCH]"""

import statistics
import sys

import torch
import torch.nn.functional as F

from kerneldna_ops import explain_backends
from kerneldna_ops.functional import conv2d

if not torch.cuda.is_available():
    sys.exit("measure_gpu: torch.cuda.is_available() is False here: this needs an NVIDIA GPU and a CUDA build of torch")

given = [int(text) for text in sys.argv[1:4]]
channels, side, batch = given + [256, 14, 128][len(given) :]
like = {"device": "cuda", "dtype": torch.bfloat16}
x = torch.randn(batch, channels, side, side, **like).contiguous(memory_format=torch.channels_last)
weight = torch.randn(channels, channels, 3, 3, **like).contiguous(memory_format=torch.channels_last)
attentions = {
    "channel_attention": torch.rand(batch, channels, **like),
    "filter_attention": torch.rand(batch, channels, **like),
    "spatial_attention": torch.rand(batch, 3, 3, **like),
}

forms = {"static F.conv2d": lambda: F.conv2d(x, weight, padding=1)}
for backend, (runs, reason) in explain_backends(x, weight, **attentions, padding=1).items():
    print(f"{backend}: {reason}")
    if runs and backend != "reference":
        forms[backend] = lambda backend=backend: conv2d(x, weight, **attentions, padding=1, backend=backend)

milliseconds: dict[str, list[float]] = {name: [] for name in forms}
with torch.no_grad():
    for repeat in range(12):  # in turns; the first ones compile and choose algorithms
        for name, form in forms.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(
                10_000_000
            )  # the queue is full before the clock starts: the device's time, not the host's
            start.record()
            for _ in range(10):
                form()
            end.record()
            end.synchronize()
            if repeat > 1:
                milliseconds[name].append(start.elapsed_time(end) / 10)
static = statistics.median(milliseconds["static F.conv2d"])
print(f"\n{torch.cuda.get_device_name()}, {channels} channels, {side}x{side}, batch {batch}, bfloat16, 3x3:")
for name, found in milliseconds.items():
    print(f"{name:16} {statistics.median(found):8.4f} ms, {statistics.median(found) / static:5.2f} of static")
