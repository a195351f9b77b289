"""The op out of PyTorch's own operators in C++ (csrc/plain_conv.h), which answers on CUDA where there is no Python."""

import pytest
import torch
from test_conv_forward import check_output

from support.cases import CASES, REPRESENTATIVE, SUBSETS, build


def run(call):
    return torch.ops.kerneldna._plain_conv(*call)


@pytest.mark.parametrize("case", CASES + SUBSETS, ids=str)
def test_output(device, dtype, case):
    check_output(case, run(build(case, dtype, device)), dtype)


@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_output_keeps_the_memory_format_of_the_input(device, layout, case):
    output = run(build(case.but(input_layout=layout), torch.float32, device))
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert output.is_contiguous(memory_format=memory_format)


def test_an_error_of_pytorch_keeps_its_text(device):
    x, weight = torch.ones(1, 1, 1, 1, device=device), torch.ones(1, 1, 1, 1, device=device)
    x, weight = x.expand(1, 1 << 48, 1, 1), weight.expand(1, 1 << 48, 1, 1)  # 2^50 bytes, were it a copy
    channel = x.view(1, 1 << 48)
    with pytest.raises(RuntimeError, match="allocate"):
        torch.ops.kerneldna._plain_conv(x, weight, None, channel, None, None, [1, 1], [0, 0], [1, 1], 1)
