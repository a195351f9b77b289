"""The backends cuda and cuda_host: where they run and why not, what they are called with, when they are chosen."""

import sys

import pytest
import torch
from host_execution import cuda_host

from kerneldna_ops import backends, explain_backends, use_backend
from kerneldna_ops.backends import _tuned, cuda
from kerneldna_ops.call import BackwardCall
from kerneldna_ops.functional import conv2d
from support.cases import build, named

CALL = build(named("eights"), torch.float16)
STATIC_SPATIAL = CALL._replace(spatial_attention=CALL.spatial_attention[0])
GRID = "its kernels count to 2147483647"


class OnAGpu:
    """As much of a tensor on a GPU as the choice of a backend looks at."""

    device = torch.device("cuda", 0)

    def __init__(self, tensor):
        self._tensor = tensor

    def __getattr__(self, name):
        return getattr(self._tensor, name)


def on_a_gpu(call):
    return call._replace(input=OnAGpu(call.input))


def backward_of(call):
    return BackwardCall.of(None, *call, [True] * 6)


@pytest.fixture
def gpu(monkeypatch):
    """A build with CUDA kernels, a torch with CUDA, an H100 that nobody tuned anything on."""
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda op, key: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda, "_cuda_refusal", lambda device: "")
    cuda._refusal.cache_clear()
    monkeypatch.setattr(_tuned, "find", lambda call: None)
    monkeypatch.setattr(backends.module_of("triton"), "_toolchain_missing", lambda: "")
    yield
    cuda._refusal.cache_clear()


def test_runs_on_a_gpu(gpu):
    assert cuda.can_run(on_a_gpu(CALL)) == (True, "fused CUDA kernels")
    assert cuda.runs_on(OnAGpu(CALL.input)) == (True, "fused CUDA kernels")


def test_float64_is_for_composite(gpu):
    double = build(named("eights"), torch.float64)
    assert cuda.can_run(on_a_gpu(double)) == (False, "it has no kernel for float64")
    assert cuda.runs_on(OnAGpu(double.input)) == (False, "it has no kernel for float64")
    assert backends.select(on_a_gpu(double)) is backends.composite


def test_float32_is_taken_in_depthwise_convolutions(gpu):
    call = on_a_gpu(build(named("eights"), torch.float32))
    assert cuda.can_run(call) == (False, "its kernels for float32 are depthwise ones")
    assert cuda.can_run(on_a_gpu(build(named("eights_depthwise"), torch.float32)))[0]


@pytest.mark.parametrize(("name", "native"), [("eights", False), ("eights_depthwise", True)])
def test_gradients_of_what_is_not_depthwise_are_those_of_composite(gpu, monkeypatch, name, native):
    call = on_a_gpu(build(named(name), torch.float16))
    monkeypatch.setattr(cuda, "_native_conv_backward", lambda *args: "native")
    monkeypatch.setattr(cuda.composite, "conv_backward", lambda *args: "composite")
    assert cuda.conv_backward(backward_of(call)) == ("native" if native else "composite")
    assert cuda.candidates(backward_of(call)) == ([{}] if native else [])
    assert cuda.candidates(call) == [{}]


def test_a_library_without_cuda(gpu, monkeypatch):
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda op, key: key != "CUDA")
    assert cuda.can_run(on_a_gpu(CALL)) == (False, "the C++ library was built without CUDA")


def test_a_torch_without_cuda(gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert cuda.can_run(CALL) == (False, f"torch {torch.__version__} was built without CUDA")


def test_another_device(gpu):
    assert cuda.can_run(CALL) == (False, "input is on cpu, not on a CUDA device")


REFUSAL = "the library was built with CUDA 13.0, and the NVIDIA driver is for CUDA 12.8 at most"


def test_a_gpu_that_refuses_the_kernels(gpu, monkeypatch, caplog):
    """Whatever the library found out about it (test_device.py): others answer, and one warning says why."""
    monkeypatch.setattr(cuda, "_cuda_refusal", {0: REFUSAL}.__getitem__)
    call = on_a_gpu(CALL)
    assert cuda.can_run(call) == cuda.runs_on(call[0]) == (False, REFUSAL)
    monkeypatch.setattr(backends.module_of("triton"), "can_run", lambda *args: (False, "it is out of order"))
    assert backends.select(call) is backends.composite
    assert [record.getMessage() for record in caplog.records] == [f"cuda does not run on cuda:0: {REFUSAL}"]
    with use_backend("cuda"), pytest.raises(RuntimeError, match=f"^backend 'cuda' cannot run this call: {REFUSAL}$"):
        backends.select(call)


def test_an_old_gpu_is_nothing_to_be_warned_of(gpu, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    reason = "the GPU has compute capability 7.5, 8.0 is needed"
    monkeypatch.setattr(cuda, "_cuda_refusal", lambda device: reason)
    assert cuda.runs_on(on_a_gpu(CALL)[0]) == (False, reason)
    assert caplog.records == []


def test_here_the_reason_is_told():
    """Whatever this library and this torch were built with: a CPU tensor never runs on a GPU."""
    runs, reason = explain_backends(**CALL._asdict())["cuda"]
    assert not runs
    with pytest.raises(RuntimeError, match=r"^backend 'cuda' cannot run this call: ") as raised:
        conv2d(**CALL._asdict(), backend="cuda")
    assert str(raised.value).endswith(reason)


def large(input, weight, **geometry):
    """A call of sizes that nobody has the memory for."""
    absent = dict.fromkeys(("bias", "channel_attention", "filter_attention", "spatial_attention"))
    one = torch.empty(1, 1, 1, 1, dtype=torch.float16)
    tensors = {"input": one.expand(input), "weight": one.expand(weight), **absent}
    return CALL._replace(**{"padding": (0, 0), **tensors, **geometry})


# What else is refused: test_cuda_host_op.py
LARGE = {
    "weight": (large((1, 2**16, 1, 1), (2**16, 2**16, 1, 1)), f"4294967296 elements in the weight, {GRID}"),
    "few large filters": (large((1, 2**24, 3, 3), (8, 2**24, 3, 3)), f"9663676416 elements in the weight, {GRID}"),
    "sample of the input": (
        large((1, 2**16, 2**8, 2**8), (8, 2**16, 1, 1)),
        f"4294967296 elements in a sample, {GRID}",
    ),
    "sample of the output": (large((1, 8, 2**8, 2**8), (2**16, 8, 1, 1)), f"4294967296 elements in a sample, {GRID}"),
    "filters": (large((1, 8, 1, 1), (2**23, 8, 1, 1)), "groups times blocks of 64 filters is 131072, over 65535"),
    "stride": (
        large((1, 8, 3, 3), (8, 8, 1, 1), stride=(1, 2**40)),
        f"1099511627776 pixels of stride or dilation, {GRID}",
    ),
    "dilation": (
        large((1, 8, 3, 3), (8, 8, 1, 1), dilation=(2**31, 1)),
        f"2147483648 pixels of stride or dilation, {GRID}",
    ),
    "padding": (
        large((1, 8, 3, 3), (8, 8, 1, 1), padding=(2**30, 0), stride=(2**30, 1)),
        f"2147483651 pixels in a row or column of the padded input, {GRID}",
    ),
}


@pytest.mark.parametrize("which", LARGE)
def test_sizes_that_the_kernels_do_not_count(gpu, monkeypatch, which):
    call, reason = LARGE[which]
    assert cuda.can_run(on_a_gpu(call)) == (False, reason)
    monkeypatch.setattr(cuda_host, "_module_missing", lambda: "")
    assert cuda_host.can_run(call) == (False, reason)


def test_many_depthwise_channels_are_no_problem(gpu):
    assert cuda.can_run(on_a_gpu(large((1, 140_000, 3, 3), (140_000, 1, 3, 3), groups=140_000)))[0]


def test_a_batch_may_be_as_large_as_it_likes(gpu):
    assert cuda.can_run(on_a_gpu(large((2**20, 8, 2**7, 2**7), (8, 8, 3, 3))))[0]


# cuda_host


def test_a_module_that_is_not_built(monkeypatch):
    monkeypatch.setitem(sys.modules, "host_execution._cuda_host", None)
    cuda_host._module_missing.cache_clear()
    runs, reason = cuda_host.can_run(CALL)
    cuda_host._module_missing.cache_clear()
    assert not runs
    assert reason == "it is not built (`make host-kernels`)"


def test_a_module_that_does_not_load(monkeypatch):
    def refuse(name):
        raise ImportError("undefined symbol: torch")

    monkeypatch.setattr(cuda_host.importlib, "import_module", refuse)
    cuda_host._module_missing.cache_clear()
    runs, reason = cuda_host.can_run(CALL)
    cuda_host._module_missing.cache_clear()
    assert not runs
    assert "does not load (undefined symbol: torch); build it again" in reason


def test_it_runs_on_the_cpu_alone(monkeypatch):
    monkeypatch.setattr(cuda_host, "_module_missing", lambda: "")
    assert cuda_host.can_run(on_a_gpu(CALL)) == (False, "input is on cuda:0, not on the CPU")
    assert cuda_host.can_run(CALL) == (True, "the CUDA kernels' source, run on the CPU")


def test_it_is_never_chosen_automatically(monkeypatch):
    monkeypatch.setattr(cuda_host, "_module_missing", lambda: "")
    assert "cuda_host" not in backends.preference(CALL)
    assert list(explain_backends(**CALL._asdict()))[-1] == "cuda_host"


# The automatic choice on a GPU


def test_where_composite_is_cheap_it_comes_first_until_somebody_measures(gpu):
    assert next(iter(backends.preference(on_a_gpu(STATIC_SPATIAL)))) == "composite"


@pytest.mark.parametrize(
    ("without", "chosen"), [(set(), "triton"), ({"triton"}, "cuda"), ({"triton", "cuda"}, "composite")]
)
def test_else_the_first_fused_backend_that_can_run(gpu, monkeypatch, without, chosen):
    for name in without:
        monkeypatch.setattr(backends.module_of(name), "can_run", lambda *args: (False, "it is out of order"))
    call = on_a_gpu(CALL)
    assert backends.select(call) is backends.module_of(chosen)


def test_what_was_measured_comes_first(gpu, monkeypatch):
    entry = _tuned.Entry("cuda", {}, {})
    monkeypatch.setattr(_tuned, "find", lambda call: entry if call.function == "conv" else None)
    call = on_a_gpu(STATIC_SPATIAL)
    assert backends.select(call) is cuda
    assert backends.select(backward_of(call)) is backends.composite


GATE = (torch.ones(1, 2, 1, 1), torch.ones(1, 2), None, torch.ones(2, 1), None)


@pytest.mark.parametrize(
    ("without", "chosen"), [(set(), "cuda"), ({"cuda"}, "triton"), ({"cuda", "triton"}, "composite")]
)
def test_squeeze_excite_prefers_cpp(gpu, monkeypatch, without, chosen):
    ran = []
    for name in ("cuda", "triton", "composite"):
        monkeypatch.setattr(backends.module_of(name), "squeeze_excite", lambda *args, name=name: ran.append(name))
    for name in without:
        monkeypatch.setattr(backends.module_of(name), "runs_on", lambda input: (False, "it is out of order"))
    backends.squeeze_excite(OnAGpu(GATE[0]), *GATE[1:])
    assert ran == [chosen]
