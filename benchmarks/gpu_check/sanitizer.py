"""What compute-sanitizer, where it is on the PATH, says of a few calls of the library's CUDA kernels.

python -m benchmarks.gpu_check.sanitizer   # those calls, for the tool to look at
"""

import os
import shutil
import subprocess
import sys

from . import checkout

# Each with the sentence that it ends with where all is well.
TOOLS = {
    "memcheck": "ERROR SUMMARY: 0 errors",
    "racecheck": "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
    "synccheck": "ERROR SUMMARY: 0 errors",
}
GOOD = "nothing wrong"


def run(seconds: float) -> dict[str, str]:
    """Tool -> GOOD, why it was not done, or what it found. They share the time."""
    if shutil.which("compute-sanitizer") is None:
        return {"all": "not done: compute-sanitizer is not on the PATH"}
    return {tool: _run(tool, seconds / len(TOOLS)) for tool in TOOLS}


def _run(tool: str, seconds: float) -> str:
    # In memory of its own, not between other tensors, a tensor has an end that the tool knows of.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = ["compute-sanitizer", "--tool", tool, sys.executable, "-m", "benchmarks.gpu_check.sanitizer"]
    try:
        ran = subprocess.run(
            command,
            cwd=checkout.ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=max(1, seconds),
        )
    except subprocess.TimeoutExpired:
        return "not done: too slow"
    return verdict(tool, ran.returncode, ran.stdout)


def verdict(tool: str, code: int, output: str) -> str:
    if code == 0 and TOOLS[tool] in output:
        return GOOD
    found = [line for line in output.splitlines() if line.startswith("=========") and line.strip("= ")]
    if "SUMMARY" not in output:
        return "not done: " + (output.strip()[-300:] or f"it ended with {code}")
    return "wrong: " + "; ".join(line.strip("= ") for line in found[1:4] + found[-1:])[:600]


def is_wrong(said: str) -> bool:
    return said.startswith("wrong")


def main() -> None:
    checkout.ready()
    import torch

    from kerneldna_ops.backends import cuda

    from .checks import CASES, on_device

    device = torch.device("cuda", 0)
    for dtype in (torch.bfloat16, torch.float32):
        for case in CASES[:5]:
            call, grad = on_device(case, dtype, device)
            cuda.conv(*call)
            cuda.conv_backward(grad, *call, [tensor is not None for tensor in call[:6]])
        for shape in ((3, 37, 7, 5), (2, 520, 5, 5), (70, 264, 9, 9)):
            channels, hidden = shape[1], shape[1] // 4
            gate = shape, (hidden, channels), (hidden,), (channels, hidden), (channels,)
            input, *others = (torch.randn(size, device=device).to(dtype) for size in gate)
            for layout in (torch.contiguous_format, torch.channels_last):
                cuda.squeeze_excite(input.contiguous(memory_format=layout), *others)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
