"""Zeros and ones: every product and every sum is a whole number that all dtypes hold, so no result may be off at all.

A tolerance could hide a tap too few among many, or one counted twice.
"""

import pytest
import torch

from kerneldna_ops.call import TENSORS, Call
from kerneldna_ops.functional import conv2d
from support import truths
from support.cases import ABSENT, PATTERNS, STATIC, Case, build, grad_output, named
from support.devices import skip_unless_it_runs
from support.tolerance import largest

pytestmark = pytest.mark.usefixtures("poisoned_memory", "threads", "without_cudnn")

CASES = [
    named("kernel_3x3_padding_1x1"),
    named("kernel_3x2_stride_2x1_padding_1x0_dilation_2x1"),
    named("kernel_1x1_stride_2x2"),
    named("depthwise"),
    named("one_row"),
    named("pointwise_many_channels"),
    Case("eights", (3, 40, 7, 6), 24, padding=(1, 1)),
    Case("eights_stride_2x2", (5, 16, 8, 7), 40, stride=(2, 2), padding=(1, 1)),
    Case("eights_pointwise", (4, 32, 5, 3), 40, (1, 1)),
    Case("eights_depthwise", (3, 24, 6, 7), 24, padding=(1, 1), groups=24),
    Case("maps_of_2x2", (9, 32, 2, 2), 24, padding=(1, 1)),
]
KINDS = {
    **PATTERNS,
    "all_per_sample": {},
    "all_static": {"channel": STATIC, "filter": STATIC, "spatial": STATIC},
    "filter_alone": {"channel": ABSENT, "spatial": ABSENT},
}


def whole(case):
    """The call and the gradient of its output in float64: two thirds of each attention are one, a third of input and
    weight, less of the gradient, and the first of each tensor."""

    def zeros_and_ones(tensor, above):
        ones = (tensor > above).to(tensor)
        ones[(0,) * tensor.dim()] = 1
        return ones

    call, grad = build(case), grad_output(case)
    above = [tensor is not None and (tensor.std() / 2 if tensor.dim() == 4 else 0.75) for tensor in call.tensors]
    tensors = [t if t is None else zeros_and_ones(t, limit) for t, limit in zip(call.tensors, above, strict=True)]
    return Call.of(tensors, call.geometry), zeros_and_ones(grad, 2 * grad.std())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_of_ones_are_exact(device, backend, dtype, case, layout, kind):
    case = case.but(input_layout=layout, weight_layout=layout, **KINDS[kind])
    call, grad = whole(case)
    expected = {"output": truths.reference(call)}
    expected |= dict(zip(TENSORS, truths.by_autograd(truths.reference, call, grad), strict=True))
    assert largest(expected["output"]) > 0
    assert all(largest(value) <= 256 for value in expected.values() if value is not None)  # what bfloat16 counts to

    call, outputs = truths.map_tensors(lambda tensor: tensor.to(device, dtype), call), []
    skip_unless_it_runs(backend, call)

    def conv(call):
        outputs.append(conv2d(**call._asdict(), backend=backend))
        return outputs[0]

    found = dict(zip(TENSORS, truths.by_autograd(conv, call, grad.to(device, dtype)), strict=True))
    for name, value in {"output": outputs[0].detach(), **found}.items():
        assert (value is None) == (expected[name] is None), name
        assert value is None or torch.equal(value.cpu().double(), expected[name]), name
