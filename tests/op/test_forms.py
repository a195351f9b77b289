"""Every form of the kernels of a card: right, the same bits a second time, nothing read that was not written.

Of Triton each form is asked for by its options; the CUDA kernels choose theirs by the sizes of the call.
"""

import functools
from dataclasses import asdict, replace

import pytest
import torch

from kerneldna_ops import backends
from kerneldna_ops.call import BackwardCall
from kerneldna_ops.triton_kernels import backward_choice, cost_model, forward_choice
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.conv_forward_tma import can_run
from kerneldna_ops.triton_kernels.problem import Problem
from support import truths
from support.cases import CARD, LAST, PATTERNS, SAMPLE, SUBSETS, Case, build, grad_output
from support.devices import CARDS, skip_unless_it_runs
from support.tolerance import assert_within, plain_dtype

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory", "threads"),
    pytest.mark.without_backends("cpu", "composite", "reference"),
]

ON_A_CARD = [
    *CARD,
    *(CARD[0].but(name=f"card_{name}", input=(3, 64, 8, 9), filters=136, **PATTERNS[name]) for name in PATTERNS),
]
# For the interpreter and the emulator, which take milliseconds for each operation of a program.
SMALL = [
    Case("small", (2, 8, 3, 3), 8, padding=(1, 1), input_layout="channels_last", weight_layout="channels_last"),
    Case("small_depthwise", (2, 8, 4, 3), 8, padding=(1, 1), groups=8),
]
IN_EIGHTS = [case.but(input=(2, 8, 3, 4), filters=16, **LAST) for case in SUBSETS]
SMALL_TILES = [Config("P", 32, 16, 16), Config("S", 16, 16, 16), Config("M", 16, 16, 16), Config("X", 4, 16, 16)]

on_a_card = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.sanitizer_sample] if case in CARD[:4] else []) for case in ON_A_CARD],
    ids=str,
)
on_the_stand_in = pytest.mark.parametrize("case", SMALL, ids=str)


@pytest.mark.on("cuda")
@on_a_card
def test_output(device, backend, dtype, case):
    check_output(device, backend, dtype, case)


@pytest.mark.on("cuda")
@on_a_card
def test_gradients(device, backend, dtype, case):
    check_gradients(device, backend, dtype, case)


@pytest.mark.on("stand-in")
@on_the_stand_in
def test_output_on_the_stand_in(device, backend, dtype, case):
    check_output(device, backend, dtype, case)


@pytest.mark.on("stand-in")
@on_the_stand_in
def test_gradients_on_the_stand_in(device, backend, dtype, case):
    check_gradients(device, backend, dtype, case)


@pytest.mark.on(*CARDS)
@pytest.mark.parametrize("case", IN_EIGHTS, ids=str)
def test_output_of_every_subset_of_arguments(device, backend, dtype, case):
    check_output(device, backend, dtype, case, every_way=False)


@pytest.mark.on(*CARDS)
@pytest.mark.parametrize("case", IN_EIGHTS, ids=str)
def test_gradients_of_every_subset_of_arguments(device, backend, dtype, case):
    check_gradients(device, backend, dtype, case, every_way=False)


@pytest.mark.on("cuda")
@pytest.mark.without_backends("cuda")
def test_every_candidate_of_the_tuner(device, backend, dtype):
    call = with_zeros(CARD[0], dtype, device)
    candidates = backends.module_of(backend).candidates(call)
    assert len(candidates) > 1
    check_ways(call, candidates, backend, dtype, CARD[0])


def check_output(device, backend, dtype, case, every_way=True):
    call = with_zeros(case, dtype, device)
    skip_unless_it_runs(backend, call)
    options = forward_options(call) if every_way and backend == "triton" else [{}]
    check_ways(call, options, backend, dtype, case)


def check_ways(call, options, backend, dtype, case):
    plain = truths.plain_outputs_of(case, with_zeros(case, plain_dtype(dtype, call.input.device), call.input.device))

    def output(chosen):
        return [run(backend, chosen, call)]

    assert_all_right(output, options, [exact_output(case)], plain)


def check_gradients(device, backend, dtype, case, every_way=True):
    call, grad = with_zeros(case, dtype, device), grad_output(case, dtype, device)
    skip_unless_it_runs(backend, call)
    if backend != "triton" and not call.depthwise:
        pytest.skip(f"{backend}: composite makes these gradients")
    options = backward_options(call) if every_way and backend == "triton" else [{}]
    low = plain_dtype(dtype, device)
    plain = truths.plain_gradients_of(case, with_zeros(case, low, device), grad_output(case, low, device))
    mask = [tensor is not None for tensor in call.tensors]

    def gradients(chosen):
        return run(backend, chosen, BackwardCall(grad, call, mask))

    assert_all_right(gradients, options, exact_gradients(case), plain)


@functools.cache
def exact_output(case):
    return truths.output_of(case, with_zeros(case))


@functools.cache
def exact_gradients(case):
    return truths.gradients_of(case, with_zeros(case), grad_output(case))


def with_zeros(case, *how):
    """The first channel, the first filter and the first tap of the first sample are switched off."""
    call = build(case, *how)
    for tensor in call.tensors[3:]:
        if tensor is not None and tensor.numel():
            tensor[(0,) * tensor.dim()] = 0
    return call


def run(backend, options, call):
    module = backends.module_of(backend)
    return module.run(call, options) if options else getattr(module, call.function)(call)


def assert_all_right(results_of, all_options, truth, plain):
    """Goes on after a wrong result, so that one run finds them all."""
    wrong = []
    for options in all_options:
        try:
            results, again = results_of(options), results_of(options)
            for exact, result in zip(truth, results, strict=True):
                if exact is None:  # or, from C++, an empty tensor
                    assert result is None or not result.numel(), "there is a gradient that nobody asked for"
                else:
                    assert result is not None, f"{exact.name}: missing"
            assert_within(results, truth, plain)
            for exact, *both in zip(truth, results, again, strict=True):
                assert exact is None or torch.equal(*both), f"{exact.name}: other bits the second time"
        except Exception as error:
            wrong.append(f"{options or 'as it chooses'}: {type(error).__name__}: {str(error)[:500]}")
    assert not wrong, "\n".join(wrong)


def forward_options(call):
    """What Triton chooses, the best of each form for the call, and form P with its reduction split."""
    problem, device = Problem.of(call), call.input.device
    if problem.plain_depthwise or not problem.batch:
        return [{}]
    gpu, tiles = cost_model.DEVICES["H200"], SMALL_TILES
    if device.type == "cuda":
        gpu = cost_model.device_running(device)
        tiles = forward_choice.tiles_for(gpu.arch, 8 * call.input.itemsize)
    tiles = [tile if tile.form == "P" else replace(tile, box=cost_model.box(problem, tile)) for tile in tiles]
    fitting = [tile for tile in tiles if tile.form == "P" or can_run(problem, tile)]
    best = {}
    for config in sorted(fitting, key=lambda config: cost_model.predict(problem, config, gpu)):
        best.setdefault(config.form, config)
    return [{}, *(asdict(config) for config in (*best.values(), replace(best["P"], split_k=2)))]


def backward_options(call):
    """As the rules choose, and every choice that there is."""
    if Problem.of(call).plain_depthwise:
        return [{}]
    kinds = (call.kind(name) == SAMPLE for name in ("filter_attention", "spatial_attention"))
    return [{}, *(asdict(choice) for choice in backward_choice.choices(*kinds))]
