"""The numeric tests once more on the instruction sets of the C++ library that this processor would not pick itself."""

import pytest

from kerneldna_ops import build_info

SETS = [name for name in ("avx2", "portable") if name != build_info()["cpu_vector"]]


@pytest.mark.parametrize("instruction_set", SETS)
def test_numbers(instruction_set, tests_pass_with):
    tests_pass_with(
        {"KERNELDNA_CPU_VECTOR": instruction_set},
        "--backend=cpu",
        "op/test_conv_forward.py",
        "op/test_conv_gradients.py",
        "op/test_reductions.py",
        "op/test_float16.py",
    )
