"""`python host_kernels.py CHECKS ARGUMENTS`: pytest with these arguments, and the CUDA kernels built for the CPU with
GCC's -fsanitize=CHECKS, address,undefined or thread, in them. What they find ends the process or fails it."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPILER = os.environ.get("CXX", "c++")
OPTIONS = {
    # A test asks for more memory than there is.
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "ignore_noninstrumented_modules=1",
    "OMP_NUM_THREADS": "1",
}


def path_of(library: str) -> str:
    command = [COMPILER, f"-print-file-name={library}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def without_randomness() -> list[str]:
    """ThreadSanitizer cannot run where memory is laid out too much at random. Not every container lets one choose."""
    command = ["setarch", platform.machine(), "--addr-no-randomize"]
    may = shutil.which("setarch") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if may else []


def main() -> None:
    checks, *arguments = sys.argv[1:]
    folder = Path("build/sanitized", checks.replace(",", "_"))  # relative, so that ninja knows its commands again
    build = [sys.executable, "tests/cuda/build_host_kernels.py", "--sanitize", checks, "--folder", folder]
    subprocess.run(build, cwd=ROOT, check=True)

    runtime = "libtsan.so" if checks == "thread" else "libasan.so"
    environment = os.environ | OPTIONS
    # libstdc++ too: Python does not link it, and AddressSanitizer looks for its exceptions at start.
    environment["LD_PRELOAD"] = f"{path_of(runtime)} {path_of('libstdc++.so')}"
    environment["KERNELDNA_TESTED_HOST_KERNELS"] = str(ROOT / folder)
    # Reports go where they are seen even if the process ends.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:faulthandler", "-p", "no:cacheprovider", "--capture=sys"]
    if checks == "thread":
        command = [*without_randomness(), *command]
    os.chdir(ROOT)
    os.execvpe(command[0], [*command, *arguments], environment)


if __name__ == "__main__":
    main()
