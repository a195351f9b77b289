"""Images of any size: every kernel compiles for the smallest, and images of many sizes share few kernels."""

import json

from support.outside_interpreter import run

# A kernel for a GPU is specialised for some of its arguments, which the interpreter never does.
SMALLEST = """
import json
from dataclasses import replace
from benchmarks.compile_matrix.cells import Cell
from benchmarks.compile_matrix.compiling import Request
from benchmarks.compile_matrix.forms import launches
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.problem import Problem

ROW, COLUMN = Problem(4, 64, 64, 1, 9), Problem(4, 64, 64, 9, 1)
PIXEL = Problem(1, 64, 64, 1, 1, kernel_size=(1, 1), padding=(0, 0))
STRIDED = Problem(4, 64, 64, 4, 4, stride=(2, 2))
TILE = Config("P", 64, 64, 32, num_warps=4, num_stages=2)
FORMS = {
    "P": ("gfb", replace(TILE, split_k=2)), "df": ("gsd", replace(TILE, split_k=2)), "dx": ("gfd", TILE),
    "dx ds": ("gfd", TILE), "dW": ("gf", TILE), "dW df dg": ("gfd", TILE), "squeeze-excite": ("b", None),
    "squeeze-excite training": ("b", None), "depthwise": ("gsfb", None), "depthwise backward": ("gsfb", None),
    "S": ("gfb", replace(TILE, form="S", box=(1, 8, 8))), "M": ("gfb", replace(TILE, form="M", box=(4, 4, 4))),
    "X": ("gfb", replace(TILE, form="X", box=(64, 1, 1))),
}
read, errors = [], []
for form, (flags, tile) in FORMS.items():
    groups = 64 if form.startswith("depthwise") else 1
    for size in (ROW, COLUMN, PIXEL, STRIDED):
        for launch in launches(Cell(form, replace(size, groups=groups), flags, 90, tile)):
            try:
                Request.of(launch, 90).front_end()
                read.append(launch.kernel.__name__)
            except Exception as error:
                errors.append(f"{launch.kernel.__name__} of {form}, {size.height}x{size.width}: {error}")
print(json.dumps([read, errors]))
"""


def test_the_compiler_reads_every_kernel_for_the_smallest_images():
    """One row, one column, one pixel of one sample, and 4x4 pixels with a stride of 2; the committed tables have the
    machine code of such."""
    done = run("-c", SMALLEST)
    assert done.returncode == 0, done.stderr
    read, errors = json.loads(done.stdout)
    assert errors == []
    assert {"conv_reduce_kernel", "conv_dot_kernel", "gate_kernel", "features_backward_kernel"} <= set(read)


LINES = """
import json
from benchmarks.compile_matrix.cells import Cell
from benchmarks.compile_matrix.compiling import Request
from benchmarks.compile_matrix.forms import launches
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.problem import Problem

def lines(form, size):
    cell = Cell(form, Problem(128, 64, 64, size, size, stride=(2, 2)), "gfd", 90, Config("P", 128, 64, 64))
    return len(Request.of(launches(cell)[0], 90).front_end().splitlines())

print(json.dumps([[lines(form, size) for size in (4, 14)] for form in ("dx", "dx ds")]))
"""


def test_code_does_not_grow_with_the_samples_of_a_tile():
    """A tile of 128 pixels holds 33 samples of 4x4 pixels with a stride of 2: so many sums written out compile
    for a minute."""
    done = run("-c", LINES)
    assert done.returncode == 0, done.stderr
    for small, large in json.loads(done.stdout):
        assert small == large


MANY_SIZES = """
import json
import torch
from benchmarks.compile_matrix.compiling import Request
from kerneldna_ops.call import BackwardCall, Call
from kerneldna_ops.triton_kernels import conv_backward, conv_product, forward_choice, operands
from kerneldna_ops.triton_kernels.backward_choice import BackwardConfigs, Choice
from kerneldna_ops.triton_kernels.cost_model import DEVICES
from kerneldna_ops.triton_kernels.launch import recording
from kerneldna_ops.triton_kernels.problem import Problem

def empty(*shape):
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")

def image(height, width):
    return empty(2, height, width, 256).permute(0, 3, 1, 2)

def launches(height, width, device):
    x, weight = image(height, width), empty(256, 3, 3, 256).permute(0, 3, 1, 2)
    c, f, s = empty(2, 256), empty(2, 256), empty(2, 3, 3)
    call = Call(x, weight, None, c, f, s, padding=(1, 1))
    problem = Problem.of(call)
    config = forward_choice.candidates(problem, device)[0]
    g, w = operands.reduction_scale(c, s, 256), operands.taps_of(weight)
    configs = BackwardConfigs.of(problem, device)
    with recording() as recorded:
        conv_product.forward(operands.pixels(x), w, problem, config, g, operands.sample_scale(f))
        conv_backward.gradients(BackwardCall.of(x, *call, [True] * 6), problem, Choice(), configs)
    return recorded

def sizes(stride):
    "Of images whose short side is 640 to 800 and whose long side up to 1.66 times that, on either side."
    for i in range(80):
        short = 640 + i * 37 % 161
        sides = -(-short // stride), -(-short * (100 + i * 66 // 79) // 100 // stride)
        yield sides[::-1] if i % 2 else sides

counts = {}
for name in ("H200", "B200"):
    device = DEVICES[name]
    for stride in (8, 16, 32):
        found = {Request.of(l, device.arch).identity for size in sizes(stride) for l in launches(*size, device)}
        counts[f"{name}, stride {stride}"] = len(found)
print(json.dumps(counts))
"""


def test_images_of_many_sizes_share_few_kernels():
    """80 sizes of a feature map, as detectors have them, through one 3x3 layer, forward and backward."""
    done = run("-c", MANY_SIZES)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert max(counts.values()) <= 14, counts
