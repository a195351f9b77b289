"""The same call gives the same bits: from run to run, on any number of threads, and whoever else is calling."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kerneldna_ops import backends
from kerneldna_ops.call import TENSORS
from kerneldna_ops.functional import conv2d
from support.cases import LARGE, MIXED_LARGE, REPRESENTATIVE, build, grad_output, named
from support.devices import CARDS, skip_unless_it_runs
from support.truths import by_autograd

pytestmark = pytest.mark.usefixtures("deterministic_mode")

CASES = [*LARGE, *MIXED_LARGE, named("kernel_3x2_stride_2x1_padding_1x0_dilation_2x1"), named("one_of_everything")]


def everything(case, dtype, device, backend):
    """The output and all gradients."""
    outputs, call = [], build(case, dtype, device)
    skip_unless_it_runs(backend, call)

    def conv(call):
        outputs.append(conv2d(**call._asdict(), backend=backend))
        return outputs[0]

    gradients = by_autograd(conv, call, grad_output(case, dtype, device))
    found = zip(("output", *TENSORS), (outputs[0].detach(), *gradients), strict=True)
    return {name: value for name, value in found if value is not None}


def assert_same_bits(actual, expected):
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


# More cases of the library's own kernels are below: what gives the same bits on one, two and three threads.
@pytest.mark.on("cpu")
@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
def test_every_run_gives_the_same_bits(device, backend, case, threads):
    threads(2)
    assert_same_every_time(case, torch.float32, device, backend)


@pytest.mark.on(*CARDS)
@pytest.mark.parametrize("case", [*REPRESENTATIVE, named("pointwise_many_channels")], ids=str)
def test_every_run_on_a_card_gives_the_same_bits(device, backend, dtype, case):
    layout = "channels_last"
    assert_same_every_time(case.but(input_layout=layout, weight_layout=layout), dtype, device, backend)


def assert_same_every_time(case, *how):
    first = everything(case, *how)
    for _ in range(3):
        assert_same_bits(everything(case, *how), first)


# The other backends are made of PyTorch's own operators, which cut some sums by the number of threads.
@pytest.mark.without_backends("composite", "reference")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.on("cpu")
def test_any_number_of_threads_gives_the_same_bits(device, backend, dtype, layout, case, threads):
    case = case.but(input_layout=layout, weight_layout=layout, grad_layout=layout)
    alone = everything(case, dtype, device, backend)
    for number in (2, 3):
        threads(number)
        assert_same_bits(everything(case, dtype, device, backend), alone)


@pytest.mark.on("cpu", "cuda")  # Triton's interpreter keeps in one place for all threads which program it is in
def test_calls_at_the_same_time_do_not_disturb_each_other(device, backend, threads):
    threads(2)
    precision = torch.float16 if backend in ("cuda", "cuda_host") else torch.float32
    cases = REPRESENTATIVE if backend in ("composite", "reference") else CASES  # those are of PyTorch's own operators
    small = [case for case in cases if case.products < 5_000_000]
    small = [case for case in small if backends.module_of(backend).can_run(build(case, precision, device))[0]]
    alone = [everything(case, precision, device, backend) for case in small]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda case: everything(case, precision, device, backend), small * 4)
        for actual, expected in zip(together, alone * 4, strict=True):
            assert_same_bits(actual, expected)
