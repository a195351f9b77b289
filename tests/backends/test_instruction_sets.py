"""A sample of the numeric tests on the instruction sets of the library that this processor would not pick itself."""

import pytest

from kerneldna_ops import build_info

# What vector code can get wrong in ways of its own: every shape in every dtype, both sides of vectors' edges, both
# orders of memory, addresses that are not aligned, each epilogue once, the hard sums, conversions. What is left out of
# the files below is code around the kernels, which all sets share, and more combinations of arguments.
SAMPLE = " or ".join(
    [
        "not test_reductions and (test_output[ or test_gradients[)",
        "edges",
        "of_channels_last",
        "sliced",
        "every_subset and float32",
        "half_numbers",
        "test_reductions and constant and not static and not absent",
        "test_float16",
    ]
)
SETS = [name for name in ("avx2", "portable") if name != build_info()["cpu_vector"]]


@pytest.mark.long
@pytest.mark.parametrize("instruction_set", SETS)
def test_numbers(instruction_set, tests_pass_with):
    tests_pass_with(
        {"KERNELDNA_CPU_VECTOR": instruction_set},
        "--backend=cpu",
        "op/test_conv_forward.py",
        "op/test_conv_gradients.py",
        "op/test_reductions.py",
        "op/test_float16.py",
        "-k",
        SAMPLE,
    )
