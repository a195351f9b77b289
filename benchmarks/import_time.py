"""What `import kerneldna_ops` costs beyond `import torch`, in fresh processes. Target: under 50 ms.

python -m benchmarks.import_time"""

import subprocess
import sys

from kerneldna_ops.measure.time import Spread

from .process import environment

PROCESSES = 11
PROBE = """
import time, torch
start = time.perf_counter()
import kerneldna_ops
print(time.perf_counter() - start)
"""


def main() -> None:
    milliseconds = []
    for _ in range(PROCESSES):
        probe = [sys.executable, "-c", PROBE]
        answer = subprocess.run(probe, env=environment({}), capture_output=True, text=True, check=True)
        milliseconds.append(float(answer.stdout) * 1e3)
    print(f"import kerneldna_ops beyond import torch: {Spread.of(milliseconds):.1f} ms, {PROCESSES} processes")


if __name__ == "__main__":
    main()
