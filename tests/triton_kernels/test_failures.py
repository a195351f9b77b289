"""What Triton raises while it builds, loads or launches a kernel is a reason, and the next backend answers."""

import copy
import logging
import math
from subprocess import CalledProcessError
from types import SimpleNamespace

import pytest
import torch
import triton
from triton.errors import TritonError
from triton.runtime.errors import OutOfResources
from triton.runtime.interpreter import InterpretedFunction

from kerneldna_ops import backends, explain_backends, use_backend
from kerneldna_ops.backends import _winners
from kerneldna_ops.backends import triton as backend
from kerneldna_ops.call import BackwardCall, Call
from kerneldna_ops.functional import conv2d
from kerneldna_ops.nn import SqueezeExcite, _fused_gate, _gate_kernels_triton
from support import gates
from support.cases import build, grad_output, named

pytestmark = pytest.mark.usefixtures("threads", "interpreted", "nothing_known")

CASE = named("kernel_3x3_padding_1x1")
CALL = build(CASE, torch.float32)
BACKWARD = BackwardCall.of(grad_output(CASE, torch.float32), *CALL, [True] * 6)

REASONS = {
    "no compiler": RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
    "no Python.h": CalledProcessError(1, ["gcc", "main.c", "-I/usr/include/python3.12"]),
    "read-only cache": PermissionError(13, "Permission denied", "/home/somebody/.triton"),
    "cache without execution": ImportError("cuda_utils.so: failed to map segment from shared object"),
    "no driver library": AssertionError("libcuda.so cannot found!\nPlease make sure GPU is set up"),
    "no ldconfig": FileNotFoundError(2, "No such file or directory", "/sbin/ldconfig"),
    "failing pass": RuntimeError("PassManager::run failed"),
    "too many resources": OutOfResources(262144, 232448, "shared memory"),
    "compiler": TritonError("at 3:1:\n  x = tl.load(p)\ncannot be compiled"),
    "foreign machine code": RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
}
NEVER_HIDDEN = {
    "out of memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "device error": torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    "older device error": RuntimeError("CUDA error: unspecified launch failure"),
    "device error of Triton": RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    "address error of Triton": RuntimeError(
        "Triton Error [CUDA]: operation not supported on global/shared address space"
    ),
    "out of memory of Triton": RuntimeError("Triton Error [CUDA]: out of memory"),
    "mistake of ours": TypeError("dynamic_func() missing 1 required positional argument: 'stride_gn'"),
    "interruption": KeyboardInterrupt(),
}


@pytest.fixture
def nothing_known(monkeypatch):
    """Triton before composite, and nothing found out yet."""
    monkeypatch.setattr(backends, "AUTOMATIC", ("triton", "composite"))
    monkeypatch.setattr(backends, "_AUTOMATIC_SQUEEZE_EXCITE", ("triton", "composite"))
    monkeypatch.setattr(_winners, "winner_of", lambda call: None)
    monkeypatch.setattr(backends, "_refused", {})
    monkeypatch.setattr(backends, "_warnings", {})
    monkeypatch.setattr(backend, "_smaller", {})
    monkeypatch.setattr(_gate_kernels_triton, "_built", set())


@pytest.fixture
def launched(monkeypatch):
    """A function that has Triton raise an error where it launches a kernel of that name, or any; and the names of the
    kernels that were launched."""

    def fail(error, kernel=None):
        def run(self, *args, **kwargs):
            names.append(self.fn.__name__)
            if kernel in (None, self.fn.__name__):
                raise error
            return original(self, *args, **kwargs)

        monkeypatch.setattr(InterpretedFunction, "run", run)
        return names

    names = []
    original = InterpretedFunction.run
    return fail


@pytest.fixture
def warned(caplog):
    """A function that lists the warnings."""
    caplog.set_level(logging.WARNING, "kerneldna_ops")
    return lambda: caplog.messages


def conv():
    return [backends.conv(CALL)]


def conv_backward():
    return backends.conv_backward(BACKWARD)


GATE = gates.arguments((3, 12, 4, 3), torch.float32)


def gate():
    return [backends.squeeze_excite(*GATE)]


FUNCTIONS = {"conv": conv, "conv_backward": conv_backward, "squeeze_excite": gate}
every_function = pytest.mark.parametrize("function", FUNCTIONS)
every_reason = pytest.mark.parametrize("error", REASONS.values(), ids=REASONS)
every_other_error = pytest.mark.parametrize("error", NEVER_HIDDEN.values(), ids=NEVER_HIDDEN)


@every_function
@every_reason
def test_the_next_backend_answers_and_one_warning_says_why(launched, warned, function, error):
    run = FUNCTIONS[function]
    with use_backend("composite"):
        expected = run()
    tried = launched(error)
    for _ in range(2):
        for actual, truth in zip(run(), expected, strict=True):
            torch.testing.assert_close(actual, truth)
    assert len(warned()) == 1
    assert f"triton does not run {function} of" in warned()[0]
    assert f"({type(error).__name__}: " in warned()[0]
    assert len(tried) == 1


@every_function
@every_reason
def test_the_explicit_choice_raises_the_reason(launched, warned, function, error):
    launched(error)
    with use_backend("triton"):
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"^backend 'triton' cannot run this call: Triton could not build"):
                FUNCTIONS[function]()
    assert not warned()


def test_one_warning_for_all_layers_of_a_network(launched, warned):
    launched(REASONS["read-only cache"])
    for padding in ((1, 1), (0, 0), (2, 2)):
        backends.conv(CALL._replace(padding=padding))
    conv_backward()
    gate()
    assert len(backends._refused) == 5
    assert len(warned()) == 1


@every_function
def test_what_an_explicit_choice_found_out_is_said_when_the_automatic_one_goes_by_it(launched, warned, function):
    launched(REASONS["failing pass"])
    with use_backend("triton"), pytest.raises(RuntimeError, match="cannot run this call"):
        FUNCTIONS[function]()
    for _ in range(2):
        FUNCTIONS[function]()
    assert len(warned()) == 1


@every_function
@every_other_error
def test_what_is_wrong_with_the_device_or_with_us_is_not_hidden(launched, warned, function, error):
    launched(error)
    with pytest.raises(type(error)) as raised:
        FUNCTIONS[function]()
    assert raised.value is error
    assert not warned()
    assert not backends._refused


def test_only_the_function_and_shape_class_that_failed_is_refused(launched):
    launched(REASONS["failing pass"])
    conv_backward()
    assert backends.can_run("triton", CALL)[0]
    assert not backends.can_run("triton", BACKWARD)[0]
    assert backends.can_run("triton", BACKWARD._replace(forward=CALL._replace(padding=(0, 0))))[0]
    conv()
    assert "failing pass" not in explain_backends(**CALL._asdict())["triton"][1]
    assert "PassManager::run failed" in explain_backends(**CALL._asdict())["triton"][1]


def test_the_reason_is_one_line_and_the_one_that_says_most(launched, warned):
    for name, says in {"compiler": "cannot be compiled", "no driver library": "libcuda.so cannot found!"}.items():
        launched(REASONS[name])
        backends._refused.clear()
        backends._warnings.clear()
        conv()
        assert warned()[-1].endswith(f"{type(REASONS[name]).__name__}: {says})")


def test_where_resources_are_short_smaller_tiles_are_tried(launched, warned, monkeypatch):
    """And found again without another attempt."""
    shapes = (4, 64, 9, 8), (64, 64, 1, 1), (64,), (4, 64), (4, 64), (4, 1, 1)
    call = Call(*(torch.randn(shape, dtype=torch.float16) for shape in shapes))
    expected = backends.conv(call)
    tried = []
    original = backend._prepared

    def prepared(first, options):
        def run(call):
            tried.append(options)
            if len(tried) < 3:
                launched(REASONS["too many resources"])
            else:
                launched(None, "no kernel of this name")
            return answer(call)

        answer = original(first, options)
        return run

    monkeypatch.setattr(backend, "_prepared", prepared)
    backends._plans.forget()
    for _ in range(2):
        torch.testing.assert_close(backends.conv(call), expected)
    first, *others = backend.candidates(call)
    assert tried[0] == {}
    assert len(tried) == 4
    assert tried[1] != tried[2] == tried[3]
    sizes = [w["num_stages"] * w["block_k"] * (w["block_m"] + w["block_n"]) for w in (first, tried[1], tried[2])]
    assert sizes == sorted(sizes, reverse=True)
    assert all(way in others for way in tried[1:])
    assert not warned()


# Squeeze-and-excitation in training


@pytest.fixture
def by_triton(monkeypatch):
    """The layer goes to Triton's kernels as it does on a GPU."""

    def kernels(input, fc1_weight, in_training):
        return _gate_kernels_triton if _gate_kernels_triton.run_on(input, fc1_weight) else None

    monkeypatch.setattr(_fused_gate, "_kernels", kernels)


def layer(momentum=0.1):
    se = SqueezeExcite(12, hidden=3)
    with torch.no_grad():
        for value in (se.bn.weight, se.bn.bias, se.bn.running_mean):
            value.normal_(0, 0.5)
        se.bn.num_batches_tracked += 3
    se.bn.momentum = momentum
    return se


def trained(se, input):
    input = input.clone().requires_grad_()
    output = se(input)
    grads = torch.autograd.grad(
        (output * torch.linspace(-1, 2, output.numel()).view(output.shape)).sum(), [input, *se.parameters()]
    )
    return [output, *grads, *(buffer.clone() for buffer in se.buffers())]


FORWARD = ("pool_kernel", "features_kernel", "gate_kernel")
TRAINING = (*FORWARD, "features_backward_kernel", "gate_backward_kernel")


@pytest.mark.parametrize("momentum", [0.1, None], ids=str)
@pytest.mark.parametrize("kernel", TRAINING)
def test_training_goes_on_layer_by_layer_and_counts_a_batch_once(by_triton, launched, warned, kernel, momentum):
    ours, theirs, input = layer(momentum), None, torch.randn(5, 12, 4, 3)
    theirs = copy.deepcopy(ours)
    launched(REASONS["no Python.h"], kernel)
    for step in range(2):
        with use_backend("composite"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(_fused_gate, "_kernels", lambda *call: None)
            expected = trained(theirs, input + step)
        for actual, truth in zip(trained(ours, input + step), expected, strict=True):
            torch.testing.assert_close(actual, truth, rtol=1e-4, atol=1e-5)
        assert ours.bn.num_batches_tracked == 4 + step
    assert len(warned()) == 1
    assert "triton does not run squeeze_excite in training of float32" in warned()[0]


@pytest.mark.parametrize("kernel", TRAINING)
def test_training_with_an_explicit_choice_raises_the_reason(launched, warned, kernel):
    se, input = layer(), torch.randn(5, 12, 4, 3)
    before = [buffer.clone() for buffer in se.buffers()]
    launched(REASONS["no Python.h"], kernel)
    for _ in range(2):
        with (
            use_backend("triton"),
            pytest.raises(RuntimeError, match=r"^backend 'triton' cannot run this call: Triton"),
        ):
            se(input).sum().backward()
    if kernel in FORWARD:
        for buffer, value in zip(se.buffers(), before, strict=True):
            torch.testing.assert_close(buffer, value, rtol=0, atol=0)
    assert not [warning for warning in warned() if kernel in FORWARD]


@every_other_error
def test_training_hides_nothing_else(by_triton, launched, error):
    launched(error, "gate_kernel")
    with pytest.raises(type(error)) as raised:
        layer()(torch.randn(5, 12, 4, 3))
    assert raised.value is error


# The toolchain


class _OnAGpu:
    device = torch.device("cuda", 0)
    dtype = torch.float16


@pytest.fixture
def driver(monkeypatch):
    """A function that has Triton's driver raise an error when it is created, on a GPU; how often it was."""

    class Config:
        @property
        def active(self):
            attempts.append(error)
            if error is not None:
                raise error
            return SimpleNamespace(utils=None)

    def set_error(value):
        nonlocal error
        error = value
        return attempts

    attempts, error = [], None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(triton.runtime, "driver", Config())
    backend._toolchain_missing.cache_clear()
    yield set_error
    backend._toolchain_missing.cache_clear()


@every_reason
def test_without_a_toolchain_the_backend_is_missing_as_a_whole(driver, warned, error):
    attempts = driver(error)
    for _ in range(3):
        runs, reason = backend.runs_on(_OnAGpu())
        assert not runs
        assert reason.startswith(f"Triton cannot build kernels on this machine ({type(error).__name__}: ")
    assert len(attempts) == 1
    assert warned() == [f"triton is not used: {reason}"]


@every_other_error
def test_an_error_of_the_device_is_not_taken_for_a_missing_toolchain(driver, error):
    driver(error)
    with pytest.raises(type(error)):
        backend.runs_on(_OnAGpu())


def test_where_all_is_well_nobody_is_warned(driver, warned):
    assert backend.runs_on(_OnAGpu()) == (True, "fused Triton kernels")
    for run in FUNCTIONS.values():
        run()
    assert not warned()


def test_an_explicit_backend_of_a_layer_says_it_in_one_sentence(launched):
    launched(REASONS["too many resources"])
    sentence = (
        r"^backend 'triton' cannot run this call: Triton could not build its kernel \(OutOfResources: "
        r"out of resource: shared memory, Required: 262144, Hardware limit: 232448. "
    )
    with pytest.raises(RuntimeError, match=sentence):
        conv2d(**CALL._asdict(), backend="triton")
    assert math.isfinite(conv2d(**CALL._asdict()).sum())
