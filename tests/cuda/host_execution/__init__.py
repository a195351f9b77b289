"""With tests/cuda on the path, `import host_execution` registers the backend cuda_host: the CUDA kernels' own source,
run on CPU tensors after `make host-kernels`. Any script can be pointed at it then, by use_backend("cuda_host").

Its module in C++, host_execution._cuda_host, is found in build/cuda_host, or where KERNELDNA_TESTED_HOST_KERNELS says.
"""

import os
from pathlib import Path

from kerneldna_ops import backends

_BUILT = Path(__file__).resolve().parents[3] / "build" / "cuda_host"
__path__.append(os.environ.get("KERNELDNA_TESTED_HOST_KERNELS", str(_BUILT)))

from . import cuda_host  # noqa: E402

backends.register("cuda_host", cuda_host)
