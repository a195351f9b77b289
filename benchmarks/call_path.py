"""The files of ours that a forward call passes through, on the CPU and with Triton's kernels interpreted.

    python -m benchmarks.call_path

Of Python, those whose functions run, as the call comes to them: in the first call of its shape, where
a backend is chosen and a plan made, and in the next one. C++ cannot be watched from here: its files are named by hand.
"""

import os
import sys
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]
OURS = tuple(f"{ROOT / folder}{os.sep}" for folder in ("kerneldna_ops", "triton_kernels"))
# From the op to the kernel, and the headers of the kernel that the call below runs.
CPP = {
    "C++ to the kernel": (
        "cpu/conv.cpp",
        "conv_call.cpp",
        "checks.cpp",
        "selection.cpp",
        "cpu/host.cpp",
        "cpu/plan.cpp",
    ),
    "the kernel": tuple(
        f"cpu/kernels/{name}.h"
        for name in ("gemm_nchw", "im2col", "shared_rows", "microkernel", "taps", "scratch", "simd")
    ),
}


def files_of_a_call(backend: str | None, batch: int) -> list[str]:
    import torch

    from kerneldna_ops.functional import conv2d

    input, weight = torch.ones(batch, 16, 5, 6), torch.ones(24, 16, 3, 3)
    attentions = {
        "channel_attention": torch.ones(batch, 16),
        "filter_attention": torch.ones(batch, 24),
        "spatial_attention": torch.ones(batch, 3, 3),
    }
    found: dict[str, None] = {}

    def note(frame: FrameType, event: str, arg: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(OURS):
            found[os.path.relpath(file, ROOT)] = None
        elif frame.f_globals.get("__name__") == "namedtuple_Call":  # made by a function that is in no file
            found["kerneldna_ops/call.py"] = None

    sys.setprofile(note)
    try:
        conv2d(input, weight, **attentions, padding=1, backend=backend)
    finally:
        sys.setprofile(None)
    return list(found)


def main() -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
    found = {}
    for name, backend in (("CPU", None), ("Triton", "triton")):
        files_of_a_call(backend, batch=1)  # imports what it needs
        for which in ("first call", "next call"):
            found[f"{name}, {which}"] = files_of_a_call(backend, batch=2)
    found |= {f"CPU, {part}": [f"csrc/{file}" for file in files] for part, files in CPP.items()}
    for title, files in found.items():
        print(f"{title}: {len(files)}", *files, sep="\n    ")


if __name__ == "__main__":
    main()
