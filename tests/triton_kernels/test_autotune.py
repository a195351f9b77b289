"""The autotuner: what it measures, keeps and finds again, and that the choice follows; the times are made up."""

import functools
import json
import logging
import sys
import threading
from dataclasses import asdict

import pytest
import torch
from torch import nn

import kerneldna_ops
from kerneldna_ops import autotune, backends, use_backend, warmup
from kerneldna_ops.backends import _autotune, _tuned, _winners, composite, cuda, triton
from kerneldna_ops.call import BackwardCall
from kerneldna_ops.nn import ChildConv2d
from kerneldna_ops.triton_kernels.forward_choice import MOST_CANDIDATES
from support import truths
from support.cases import build, grad_output, named
from support.fake_device import FakeDevice

pytestmark = pytest.mark.usefixtures("threads", "interpreted")

CALL = build(named("kernel_3x3_padding_1x1"), torch.float32)
GRAD = grad_output(named("kernel_3x3_padding_1x1"), torch.float32)
BACKWARD = BackwardCall.of(GRAD, *CALL, [True] * 6)
conv, conv_backward = torch.ops.kerneldna.conv, torch.ops.kerneldna.conv_backward
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty folder for what is found."""
    monkeypatch.setenv("KERNELDNA_CACHE", str(tmp_path))
    _tuned.table.cache_clear()
    yield tmp_path
    _tuned.table.cache_clear()


@pytest.fixture
def times(monkeypatch):
    """A function that sets what the candidates take, composite first, in milliseconds; an exception is raised."""

    def set_times(*values):
        remaining = list(values)

        def measure(run, device):
            run()
            value = remaining.pop(0) if remaining else 9.0
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr(_autotune, "measure", measure)

    set_times()
    return set_times


@pytest.fixture
def options(monkeypatch):
    """The options of the calls that Triton's kernels ran, in order."""
    ran = []
    original = triton._prepared

    def prepared(first, options):
        answer = original(first, options)
        return lambda call: ran.append(options) or answer(call)

    monkeypatch.setattr(triton, "_prepared", prepared)
    return ran


def tuned(function="conv"):
    return _tuned.find(CALL if function == "conv" else BACKWARD)


def test_the_fastest_way_is_kept_and_runs_from_then_on(times, options):
    times(5.0, 4.0, 2.0, 3.0)
    second = triton.candidates(CALL)[1]
    with use_backend("triton"):
        with autotune():
            conv(*CALL)
        assert tuned().backend == "triton"
        assert tuned().options == second
        options.clear()
        conv(*CALL)
    assert options == [second]


def test_composite_stays_a_candidate(times):
    times(1.0, 4.0, 2.0)
    with use_backend("triton"), autotune():
        conv(*CALL)
    assert tuned().backend == "composite"
    assert tuned().options == triton.candidates(CALL)[1]
    assert len(tuned().milliseconds) == 1 + len(triton.candidates(CALL)) <= 1 + MOST_CANDIDATES


def test_the_automatic_choice_on_a_gpu_follows(times, monkeypatch):
    times(1.0)
    with use_backend("triton"), autotune():
        conv(*CALL)
    on_a_gpu = CALL._replace(input=_Elsewhere())
    known = {"conv": tuned()}
    monkeypatch.setattr(_tuned, "find", lambda call: known.get(call.function))
    assert _winners.winner_of(on_a_gpu).backend == "composite"
    # Spatial attention per sample is the kernels' unless measured, which this function was not.
    assert _winners.winner_of(BACKWARD._replace(forward=on_a_gpu)) is None


class _Elsewhere:
    """As much of an input on a GPU as the choice looks at."""

    device = torch.device("cuda", 0)
    dtype, shape = CALL.input.dtype, CALL.input.shape

    def __getattr__(self, name):
        return getattr(CALL.input, name)


def test_the_backward_is_tuned_for_itself(times, options):
    times(5.0, 4.0, 3.0)
    with use_backend("triton"), autotune():
        grads = conv_backward(GRAD, *CALL, [True] * 6)
    assert tuned() is None
    assert tuned("conv_backward").backend == "triton"
    assert all(grad.isfinite().all() for grad in grads)


def test_nothing_is_measured_unless_asked(times, options):
    with use_backend("triton"):
        conv(*CALL)
    assert len(options) == 1
    assert tuned() is None


@pytest.mark.parametrize("name", ["mixed_3x3", "given_3x3", "shared_bias_per_sample"])
def test_what_no_fused_backend_takes_is_not_measured(times, name):
    times(RuntimeError("measured"))
    call = build(named(name), torch.float32)
    with autotune():
        torch.testing.assert_close(backends.conv(call), conv(*call))
    assert _tuned.find(call) is None


def test_a_known_shape_class_is_not_measured_again(times, options):
    with use_backend("triton"), autotune():
        conv(*CALL)
        options.clear()
        conv(*CALL)
        assert len(options) == 1
        conv(*CALL._replace(input=CALL.input[:, :, 1:]))
        assert len(options) > 2


def test_candidates_that_fail_are_left_out(times, caplog):
    caplog.set_level(logging.INFO, "kerneldna_ops")
    times(5.0, RuntimeError("out of resource: shared memory"), 3.0)
    with use_backend("triton"), autotune():
        conv(*CALL)
    assert tuned().options == triton.candidates(CALL)[1]
    assert "left out: out of resource: shared memory" in caplog.text
    assert len(tuned().milliseconds) == len(triton.candidates(CALL))


def test_without_any_candidate_composite_answers(times):
    times(5.0, *[RuntimeError("no")] * MOST_CANDIDATES)
    with use_backend("triton"), autotune():
        conv(*CALL)
    assert (tuned().backend, tuned().options) == ("composite", {})


def test_where_nothing_ran_nothing_is_kept(times, cache):
    times(*[RuntimeError("out of memory")] * (1 + MOST_CANDIDATES))
    with use_backend("triton"), autotune():
        conv(*CALL)
    assert tuned() is None
    assert not list(cache.iterdir())


@pytest.fixture
def with_cuda(monkeypatch):
    """The CUDA backend takes calls, and has composite answer."""
    monkeypatch.setattr(cuda, "can_run", lambda *args: (True, "for this test"))
    monkeypatch.setattr(cuda, "conv", composite.conv)


def test_every_fused_backend_is_a_candidate(times, with_cuda):
    times(5.0, *[4.0] * len(triton.candidates(CALL)), 3.0)
    with use_backend("triton"), autotune():
        conv(*CALL)
    assert tuned().backend == "cuda"
    assert tuned().options == triton.candidates(CALL)[0]
    assert tuned().milliseconds["cuda"] == 3.0


def test_without_triton_the_others_are_measured(times, with_cuda, monkeypatch, cache):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(triton, "can_run", lambda *args: (False, "Triton cannot be imported"))
    times(5.0, 3.0)
    with autotune():
        backends.select(CALL)
    assert tuned() == _tuned.Entry("cuda", {}, {"composite": 5.0, "cuda": 3.0})
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["triton"] == "none"


def test_another_process_finds_what_was_tuned(times, cache):
    with use_backend("triton"), autotune():
        conv(*CALL)
    before = tuned()
    _tuned.table.cache_clear()
    assert tuned() == before
    (file,) = cache.iterdir()
    about = json.loads(file.read_text())
    assert {"device", "driver", "triton", "cuda", "torch"} < about.keys()


def test_what_other_processes_wrote_meanwhile_stays(cache):
    entry = _tuned.Entry("triton", {}, {"triton": 1.0})
    ours, theirs = (_tuned.Table("a GPU", "13000", "3.9.0") for _ in range(2))
    ours.add("conv", "a", entry)
    theirs.add("conv", "b", entry)
    again = _tuned.Table("a GPU", "13000", "3.9.0")
    assert again.find("conv", "a") == again.find("conv", "b") == entry
    assert _tuned.Table("a GPU", "12000", "3.9.0").find("conv", "a") is None
    assert _tuned.Table("another", "13000", "3.9.0").find("conv", "a") is None


def test_a_shipped_table_counts_less_than_what_was_found_here(monkeypatch, tmp_path):
    assert _tuned._SHIPPED.parent.is_dir()
    shipped, found = (_tuned.Entry(backend, {}, {}) for backend in ("composite", "triton"))
    rows = {"conv": {"a": asdict(shipped), "b": asdict(shipped)}, "conv_backward": {}}
    monkeypatch.setattr(_tuned, "_SHIPPED", tmp_path)
    (tmp_path / "NVIDIA_H200.json").write_text(json.dumps({"shapes": rows}))
    _tuned.Table("NVIDIA H200", "13000", "3.9.0").add("conv", "b", found)
    again = _tuned.Table("NVIDIA H200", "13000", "3.9.0")
    assert (again.find("conv", "a"), again.find("conv", "b")) == (shipped, found)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"shapes": {"conv": {"a": {"no": "entry"}}, "conv_backward": {}}}'])
def test_a_spoilt_file_is_written_anew(cache, caplog, text):
    entry = _tuned.Entry("triton", {}, {})
    first = _tuned.Table("a GPU", "13000", "3.9.0")
    first.file.write_text(text)
    table = _tuned.Table("a GPU", "13000", "3.9.0")
    assert "is no table of tuned shapes" in caplog.text
    table.add("conv", "a", entry)
    assert _tuned.Table("a GPU", "13000", "3.9.0").find("conv", "a") == entry


@pytest.mark.parametrize(
    "change",
    [
        {"input": CALL.input.repeat(2, 1, 1, 1)},
        {"input": CALL.input[:, :, :5]},
        {"input": CALL.input.contiguous(memory_format=torch.channels_last)},
        {"stride": (2, 1)},
        {"padding": (0, 1)},
        {"dilation": (1, 2)},
        {"channel_attention": None},
        {"channel_attention": CALL.channel_attention[0]},
        {"spatial_attention": CALL.spatial_attention[0]},
        {"filter_attention": None},
        {"weight": CALL.weight[:4]},
    ],
    ids=lambda change: " ".join(change),
)
def test_what_makes_another_shape_class(change):
    other = CALL._replace(**change)
    assert _tuned.key_of(other) != _tuned.key_of(CALL)


@pytest.fixture
def tf32():
    """A function that allows TF32 in convolutions or not."""
    before = torch.backends.cudnn.allow_tf32

    def allow(allowed):
        torch.backends.cudnn.allow_tf32 = allowed

    yield allow
    allow(before)


def test_half_precision_and_tf32_are_shape_classes_of_their_own(tf32):
    half = truths.map_tensors(torch.Tensor.half, CALL)
    tf32(False)
    ieee = _tuned.key_of(CALL)
    tf32(True)
    assert len({ieee, _tuned.key_of(CALL), _tuned.key_of(half)}) == 3


def test_batches_up_to_a_power_of_two_share_a_class():
    batches = [CALL._replace(input=torch.empty(n, 3, 6, 7)) for n in (5, 8, 9)]
    keys = [_tuned.key_of(call) for call in batches]
    assert keys[0] == keys[1] != keys[2]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.children_of_it = nn.ModuleList(ChildConv2d(self.second, spatial="dynamic", reduction=1) for _ in range(2))

    def forward(self, input):
        hidden = self.bn(self.second(self.first(input)))
        for child in self.children_of_it:
            hidden = child(hidden)
        return hidden


def test_warmup_tunes_each_shape_class_once(times):
    model = Network()
    input = torch.randn(2, 3, 4, 5)
    with use_backend("triton"):
        assert warmup(model, input) == 1
        assert warmup(model, input) == 0
        assert warmup(model, input, backward=True) == 1
        assert warmup(model, torch.randn(2, 3, 6, 5), backward=True) == 2


def test_warmup_sees_gradients_in_the_layout_of_the_output(monkeypatch):
    """That of a sum is one number, expanded: the kernels would be measured with a copy that no training has."""
    seen = []
    original = composite.conv_backward

    def conv_backward(backward):
        seen.append(backward.grad_output.stride())
        return original(backward)

    monkeypatch.setattr(composite, "conv_backward", conv_backward)
    layer = ChildConv2d(nn.Conv2d(3, 3, 3, padding=1), reduction=1)
    input = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    with use_backend("composite"):
        warmup(layer, input, backward=True)
    assert seen
    assert set(seen) == {input.stride()}


def test_warmup_leaves_the_model_as_it_was(times):
    model = Network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with use_backend("triton"):
        warmup(model, torch.randn(2, 3, 4, 5), backward=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_warmup_where_triton_does_not_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    assert warmup(Network(), torch.randn(2, 3, 4, 5), backward=True) == 0


def test_measuring_takes_the_median(monkeypatch):
    seconds = iter([0.5, 0.125, 0.25])
    monkeypatch.setattr(_autotune, "wall_sample", lambda run: (next(seconds), False))
    assert _autotune.measure(lambda: None, CPU) == 250.0


def test_on_a_gpu_the_kernels_are_ranked_and_not_their_launches(monkeypatch):
    """The faster a kernel, the longer the host takes to launch it."""
    device = FakeDevice()
    monkeypatch.setattr(torch, "cuda", device.cuda)
    ways = {0.004: 0.4, 0.02: 0.3, 0.1: 0.2}  # milliseconds on the device: on the host
    for kernel, launch in ways.items():
        run = functools.partial(device.launch, launch, kernel)
        assert _autotune.measure(run, torch.device("cuda", 0)) == pytest.approx(kernel)


def test_a_backward_on_a_thread_of_its_own_is_tuned_too(times):
    """As autograd runs it on a GPU."""
    leaves = [tensor.clone().requires_grad_() for tensor in CALL[:6]]
    with use_backend("triton"), autotune():
        output = conv(*leaves, *CALL[6:])
    thread = threading.Thread(target=output.sum().backward)
    thread.start()
    thread.join()
    assert tuned("conv_backward") is not None


def test_a_double_backward_on_a_thread_of_its_own_is_tuned_too(times):
    leaves = [tensor.clone().requires_grad_() for tensor in CALL[:2]]
    with use_backend("triton"), autotune():
        output = conv(*leaves, *CALL[2:])
        (first,) = torch.autograd.grad(output.sum(), leaves[:1], create_graph=True)
    _tuned.table(CPU)._entries["conv_backward"].clear()
    thread = threading.Thread(target=first.square().sum().backward)
    thread.start()
    thread.join()
    assert tuned("conv_backward") is not None


def test_the_names_are_public():
    assert {"autotune", "warmup"} <= set(kerneldna_ops.__all__)
    assert callable(kerneldna_ops.warmup)
    assert callable(kerneldna_ops.autotune)
