"""The tuner and warmup compile the kernels of all candidates at once, before the first is called."""

from support.outside_interpreter import run

COMPILED = """
import os, threading
import torch, triton
from triton.backends.compiler import GPUTarget

class Absent:  # what is asked of a driver to compile
    def get_current_target(self):
        return GPUTarget("cuda", 80, 32)
    def get_current_device(self):
        return 0
    def get_current_stream(self, device):
        return 0

triton.runtime.driver.set_active(Absent())
from kerneldna_ops import backends, use_backend
from kerneldna_ops.backends import _autotune
from kerneldna_ops.backends import triton as backend
from kerneldna_ops.call import Call
from kerneldna_ops.triton_kernels import ahead, conv_plan, launch
assert not launch.interpreted
os.environ["TRITON_INTERPRET"] = "1"  # the backend takes tensors of the CPU; its kernels are defined as for a GPU

first = backend.candidates
backend.candidates = lambda call: first(call)[:4]
shapes = (2, 32, 7, 6), (32, 32, 3, 3), (32,), (2, 32), (2, 32), (2, 3, 3)
call = Call(*(torch.randn(shape).half() for shape in shapes), padding=(1, 1))

threads, compile = set(), ahead._compile
def spy(*call):
    threads.add(threading.get_ident())
    return compile(*call)
ahead._compile = spy

def collected():
    steps = []
    with use_backend("triton"), _autotune.collect(on_compiled=lambda: steps.append(1)) as unknown:
        for _ in range(2):
            backends.select(call)
    assert [function for function, _ in unknown] == ["conv"]
    return len(steps)

found = []
for options in backend.candidates(call):
    with launch.recording() as launches:
        backend.run(call, options)
    found += launches
distinct = len(set(map(ahead.identity, found)))
kernels = {id(launch.kernel): launch.kernel for launch in found}.values()

def compiled():
    return sum(len(kernel.device_caches[0][0]) for kernel in kernels)

assert compiled() == 0
assert collected() == distinct == compiled() >= 4, (distinct, compiled())
assert len(threads) == min(os.cpu_count(), distinct)
for launch in found:  # as when they are called
    launch.kernel.warmup(grid=launch.grid, enable_fp_fusion=True, **launch.args, **launch.options)
assert compiled() == distinct
assert collected() == 0

# One that does not compile is left to its call.
failing = [launch._replace(options={"num_warps": 3}) for launch in found[:1]]
ahead.compile_all(failing, torch.device("cpu"), lambda: None)
"""


def test_all_candidates_are_compiled_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = run("-c", COMPILED)
    assert done.returncode == 0, done.stderr
