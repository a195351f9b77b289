"""`python gpu.py`: a sample of the tests on an NVIDIA card under NVIDIA's compute-sanitizer.

Of Triton's kernels each form of the forward and all of the backward, of the CUDA kernels the forms that the sizes of
the sample lead to, of both the squeeze-and-excitation.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
SAMPLE = ["op/test_forms.py", "op/test_squeeze_excite.py", "-m", "sanitizer_sample", "-k", "bfloat16 or tf32"]
# Each with the sentence that it ends with where all is well.
TOOLS = {
    "memcheck": "ERROR SUMMARY: 0 errors",
    "racecheck": "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
    "synccheck": "ERROR SUMMARY: 0 errors",
}
# In memory of its own, not between other tensors, a tensor has an end that the tool knows of.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def missing() -> str:
    """Why it cannot run here, or nothing."""
    import torch

    if shutil.which("compute-sanitizer") is None:
        return "compute-sanitizer is not on the PATH: it comes with NVIDIA's CUDA toolkit"
    return "" if torch.cuda.is_available() else "there is no NVIDIA card: torch.cuda.is_available() is False"


def verdict(tool: str, code: int, output: str) -> str:
    """What is wrong, or nothing."""
    if code == 0 and TOOLS[tool] in output:
        return ""
    if "SUMMARY" not in output:
        return f"{tool} did not run: " + (output.strip()[-300:] or f"it ended with {code}")
    if TOOLS[tool] in output:
        return f"{tool}: the tests failed"
    found = [line.strip("= ") for line in output.splitlines() if line.startswith("=========") and line.strip("= ")]
    return f"{tool}: " + "; ".join(dict.fromkeys([*found[1:4], found[-1]]))


def main() -> None:
    if reason := missing():
        sys.exit(f"sanitize-gpu: {reason}")
    wrong = []
    for tool in TOOLS:
        print(f"compute-sanitizer --tool {tool}", flush=True)
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", "cuda", *SAMPLE]
        command = ["compute-sanitizer", "--tool", tool, *pytest]
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        ran = subprocess.Popen(command, cwd=TESTS, env=os.environ | ENVIRONMENT, **both)
        output = ""
        for line in ran.stdout or ():
            print(line, end="", flush=True)
            output += line
        wrong += [said] if (said := verdict(tool, ran.wait(), output)) else []
    if wrong:
        sys.exit("\n".join(f"sanitize-gpu: {said}" for said in wrong))
    print("sanitize-gpu: nothing wrong")


if __name__ == "__main__":
    main()
