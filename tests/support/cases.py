"""The catalogue: calls of the op as data, and the tensors that a call is made of.

All values are small multiples of a power of two, chosen so that float64, float32, bfloat16 and float16 hold the same
numbers: one truth serves every dtype, and a case means the same in each.
"""

import dataclasses
import functools
import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from kerneldna_ops.call import Call
from support import layouts, oracle

Pair = tuple[int, int]

ABSENT, STATIC, SAMPLE = "absent", "static", "per_sample"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """input is [N, C_in, H, W]; an attention is absent, static or one for each sample.

    kernels: of which each sample has its own mixture, or SAMPLE for one given to each; 0 for one that all share.
    """

    name: str
    input: tuple[int, int, int, int]
    filters: int
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool | str = True  # or SAMPLE
    channel: str = SAMPLE
    filter: str = SAMPLE
    spatial: str = SAMPLE
    input_layout: str = "contiguous"
    weight_layout: str = "contiguous"
    vector_layout: str = "contiguous"
    grad_layout: str = "contiguous"
    kernels: int | str = 0

    def __str__(self) -> str:
        return self.name

    @property
    def weight(self) -> tuple[int, ...]:
        leading = (self.input[0],) if self.kernels == SAMPLE else (self.kernels,) if self.kernels else ()
        return *leading, self.filters, self.input[1] // self.groups, *self.kernel

    @property
    def shared(self) -> bool:
        """Whether all samples have one weight and one bias, which is what Triton's and CUDA's kernels read."""
        return not self.kernels and self.bias != SAMPLE

    @property
    def terms(self) -> int:
        """How many products an output value is the sum of."""
        mixed = 1 if self.kernels in (0, SAMPLE) else self.kernels
        return math.prod(self.weight[-3:]) * mixed

    @property
    def output(self) -> tuple[int, int, int, int]:
        height, width = (
            oracle.out_size(
                self.input[2 + axis], self.kernel[axis], self.stride[axis], self.padding[axis], self.dilation[axis]
            )
            for axis in (0, 1)
        )
        return self.input[0], self.filters, height, width

    @property
    def products(self) -> int:
        """How many products the formula sums, an upper bound: taps on the padding count."""
        return math.prod(self.output) * self.terms

    def but(self, **changes) -> "Case":
        return dataclasses.replace(self, **changes)


def numbers(seed: str, *shape: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    """Normal values on a grid of 2**-6 of the scale (a power of two), cut at 3 deviations: 8 significant bits."""
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    values = torch.randn(shape, generator=generator, dtype=torch.float64).clamp(-3, 3)
    return (values * 64).round() / 64 * scale + mean


def attention(seed: str, kind: str, batch: int, *shape: int) -> Tensor | None:
    """Multiplicative factors around 1, some of them negative."""
    if kind == ABSENT:
        return None
    return numbers(seed, *((batch,) if kind == SAMPLE else ()), *shape, mean=1.0, scale=0.5)


@functools.cache
def values(case: Case) -> Call:
    batch, channels = case.input[:2]
    fan_in = math.prod(case.weight[-3:])
    mixed = case.kernels not in (0, SAMPLE)
    return Call(
        numbers("input", *case.input),
        numbers("weight", *case.weight, scale=2.0 ** -round(math.log2(fan_in) / 2)),
        numbers("bias", *((batch,) if case.bias == SAMPLE else ()), case.filters) if case.bias else None,
        attention("channel", case.channel, batch, channels),
        attention("filter", case.filter, batch, case.filters),
        attention("spatial", case.spatial, batch, *case.kernel),
        case.stride,
        case.padding,
        case.dilation,
        case.groups,
        numbers("kernel", batch, case.kernels, mean=0.25, scale=0.5) if mixed else None,
    )


def build(case: Case, dtype: torch.dtype = torch.float64, device: torch.device = CPU) -> Call:
    def lay(tensor: Tensor | None, layout: layouts.Layout) -> Tensor | None:
        return None if tensor is None else layout(tensor.to(device, dtype, copy=True))

    call = values(case)
    vector = layouts.VECTORS[case.vector_layout]
    tensors = (
        lay(call.input, layouts.IMAGES[case.input_layout]),
        lay(call.weight, layouts.WEIGHTS[case.weight_layout]),
        *(lay(tensor, vector) for tensor in call.tensors[2:]),
    )
    return Call.of(tensors, call.geometry)


def grad_output(case: Case, dtype: torch.dtype = torch.float64, device: torch.device = CPU) -> Tensor:
    return layouts.GRADIENTS[case.grad_layout](numbers("grad_output", *case.output).to(device, dtype))


# Small enough for the oracle's loops.
SMALL = [
    Case("one_of_everything", (1, 1, 1, 1), 1, (1, 1)),
    Case("no_samples", (0, 3, 5, 4), 2, padding=(1, 1)),
    Case("one_sample", (1, 3, 5, 4), 5, padding=(1, 1)),
    Case("one_channel", (2, 1, 6, 5), 4, padding=(1, 1)),
    Case("one_filter", (2, 5, 5, 6), 1, padding=(1, 1)),
    Case("kernel_1x1", (2, 5, 4, 3), 7, (1, 1)),
    Case("kernel_1x1_padded", (2, 3, 4, 3), 5, (1, 1), padding=(2, 1)),
    Case("kernel_1x1_stride_2x2", (2, 5, 7, 6), 3, (1, 1), stride=(2, 2)),
    Case("kernel_1x1_stride_3x2", (2, 3, 8, 7), 4, (1, 1), stride=(3, 2)),
    Case("kernel_3x3", (2, 3, 6, 7), 5),
    Case("kernel_3x3_padding_1x1", (2, 3, 6, 7), 5, padding=(1, 1)),
    Case("kernel_3x3_padding_1x0", (3, 2, 5, 6), 4, padding=(1, 0)),
    Case("kernel_3x3_padding_0x2", (2, 3, 5, 4), 4, padding=(0, 2)),
    Case("kernel_3x3_padding_beyond_kernel", (2, 2, 3, 4), 3, padding=(4, 5)),
    Case("kernel_3x2", (2, 3, 5, 6), 4, (3, 2)),
    Case("kernel_3x2_stride_2x1_padding_1x0_dilation_2x1", (3, 6, 7, 5), 4, (3, 2), (2, 1), (1, 0), (2, 1), groups=2),
    Case("kernel_2x3_stride_2x2", (2, 3, 7, 8), 4, (2, 3), (2, 2), (1, 1)),
    Case("kernel_3x3_stride_2x1", (2, 3, 7, 6), 4, stride=(2, 1), padding=(1, 1)),
    Case("kernel_3x3_stride_2x2", (2, 3, 9, 7), 5, stride=(2, 2), padding=(1, 1)),
    Case("kernel_3x3_stride_3x2", (2, 3, 8, 7), 4, stride=(3, 2), padding=(1, 1)),
    Case("stride_beyond_kernel", (2, 2, 9, 8), 3, (2, 1), stride=(4, 3)),
    Case("dilation_2x1", (2, 3, 8, 5), 4, padding=(1, 1), dilation=(2, 1)),
    Case("dilation_1x3", (2, 2, 5, 9), 3, padding=(0, 3), dilation=(1, 3)),
    Case("kernel_5x5", (2, 2, 6, 7), 3, (5, 5), padding=(2, 2)),
    Case("kernel_7x7_stride_2x2", (1, 3, 9, 11), 4, (7, 7), (2, 2), (3, 3)),
    Case("kernel_as_large_as_input", (3, 4, 3, 4), 5, (3, 4)),
    Case("kernel_larger_than_input", (2, 3, 2, 2), 4, (5, 5), padding=(2, 2)),
    Case("one_row", (2, 3, 1, 11), 4, (1, 3), padding=(0, 1)),
    Case("one_column", (2, 3, 11, 1), 4, (3, 1), padding=(1, 0)),
    Case("groups_2", (2, 6, 5, 4), 4, padding=(1, 1), groups=2),
    Case("groups_3", (2, 6, 4, 5), 9, padding=(1, 1), stride=(1, 2), groups=3),
    Case("groups_2_kernel_1x1", (2, 6, 4, 5), 10, (1, 1), groups=2),
    Case("groups_of_one_filter", (2, 6, 5, 4), 2, padding=(1, 1), groups=2),
    Case(
        "groups_2_one_sample_channels_last",
        (1, 6, 5, 4),
        8,
        padding=(1, 1),
        groups=2,
        input_layout="channels_last",
        weight_layout="channels_last",
    ),
    Case("depthwise", (2, 5, 6, 7), 5, padding=(1, 1), groups=5),
    Case("depthwise_1x1", (2, 5, 4, 3), 5, (1, 1), groups=5),
    Case("depthwise_5x5_stride_2x2", (2, 3, 9, 8), 3, (5, 5), (2, 2), (2, 2), groups=3),
    Case("depthwise_dilation_2x1", (2, 3, 8, 7), 3, (3, 2), padding=(1, 1), dilation=(2, 1), groups=3),
    Case("depthwise_multiplier_2", (2, 5, 5, 6), 10, padding=(1, 1), groups=5),
    Case("depthwise_multiplier_3_stride_2x1", (2, 3, 6, 7), 9, stride=(2, 1), padding=(1, 1), groups=3),
]

# Larger than one tile of a kernel in some direction: pixels, channels or filters. The reference is their truth.
LARGE = [
    Case("tiles_cross_rows", (3, 64, 30, 29), 19, padding=(1, 1)),
    Case("wide_map", (1, 48, 5, 56), 20, padding=(1, 1)),
    Case("tiles_cross_samples", (5, 40, 7, 7), 33, padding=(1, 1)),
    Case("tiny_maps_many_filters", (7, 20, 3, 2), 100, padding=(1, 1)),
    Case("more_filters_than_pixels", (1, 70, 7, 7), 65, padding=(1, 1)),
    Case("many_samples", (33, 3, 5, 4), 6, (3, 2), (2, 1), (1, 0), (2, 1)),
    Case("no_padding", (2, 33, 12, 19), 17),
    Case("stride_2x2", (2, 32, 28, 27), 24, stride=(2, 2), padding=(1, 1)),
    Case("stride_2x2_small_maps", (5, 36, 7, 8), 40, stride=(2, 2), padding=(1, 1)),
    Case("dilation_2x2", (2, 34, 15, 17), 18, padding=(2, 2), dilation=(2, 2)),
    Case("pointwise", (2, 96, 14, 13), 50, (1, 1)),
    Case("pointwise_many_filters", (4, 40, 5, 7), 130, (1, 1)),
    Case("pointwise_stride_2x2", (3, 66, 14, 13), 35, (1, 1), stride=(2, 2)),
    Case("stem_7x7_stride_2x2", (2, 3, 45, 43), 16, (7, 7), (2, 2), (3, 3)),
    Case("kernel_5x5_groups_3", (2, 36, 12, 13), 30, (5, 5), padding=(2, 2), groups=3),
    Case("pointwise_many_channels", (2, 301, 5, 4), 7, (1, 1)),
    Case("more_filters_than_a_part_holds", (1, 3, 3, 5), 725, padding=(1, 1)),
    Case("map_wider_than_a_band", (1, 3, 4, 300), 5, padding=(1, 1)),
    Case("stride_3x2_many_channels", (2, 34, 17, 16), 21, (5, 3), stride=(3, 2), padding=(2, 1)),
    Case("map_that_shares_rows", (2, 20, 40, 40), 24, padding=(1, 1)),
    Case("one_map_that_shares_rows", (1, 40, 20, 24), 20, padding=(1, 1)),
    Case("map_that_shares_rows_stride_1x2_groups_2", (2, 18, 23, 64), 22, (3, 5), (1, 2), (1, 2), (1, 1), groups=2),
    Case("tap_by_tap", (3, 200, 7, 9), 24, (2, 3), padding=(1, 1)),
    Case("tap_by_tap_in_the_gradient", (3, 24, 7, 9), 200, (3, 2), padding=(1, 1)),
    Case("tap_by_tap_stride_2x1_dilation_1x3", (5, 200, 9, 8), 10, (3, 2), (2, 1), (2, 2), (1, 3)),
    Case("tap_by_tap_map_that_shares_rows", (1, 196, 16, 24), 9, (3, 2), padding=(1, 1)),
    Case("stride_beyond_kernel_many_channels", (2, 20, 13, 14), 18, (1, 2), stride=(3, 3)),
    Case("kernel_7x7_many_channels", (2, 13, 9, 8), 10, (7, 7), padding=(3, 3)),
    Case("kernel_17x18", (1, 3, 9, 10), 4, (17, 18), padding=(8, 9)),
    Case("groups_8", (3, 24, 9, 7), 40, padding=(1, 1), groups=8),
    Case("depthwise_wide", (2, 48, 28, 27), 48, padding=(1, 1), groups=48),
    Case("depthwise_wide_stride_2x2", (2, 37, 28, 27), 37, stride=(2, 2), padding=(1, 1), groups=37),
    Case("depthwise_wide_7x7", (2, 20, 15, 14), 20, (7, 7), padding=(3, 3), groups=20),
    Case("depthwise_many_channels", (2, 277, 5, 6), 277, padding=(1, 1), groups=277),
    Case("depthwise_wide_multiplier_2", (2, 24, 15, 14), 48, padding=(1, 1), groups=24),
    # Channels and filters in eights, which alone some kernels take.
    Case("eights", (3, 40, 7, 6), 24, padding=(1, 1)),
    Case("eights_pointwise_stride_2x1", (2, 16, 7, 6), 72, (1, 1), (2, 1)),
    Case("eights_stride_3x2_dilation_1x2", (2, 24, 8, 11), 16, (3, 2), (3, 2), (1, 0), (1, 2)),
    Case("eights_groups_2", (2, 64, 5, 6), 80, (2, 3), padding=(1, 1), groups=2),
    Case("eights_depthwise", (3, 24, 6, 7), 24, padding=(1, 1), groups=24),
    Case("eights_depthwise_5x5_stride_2x2", (2, 16, 9, 8), 16, (5, 5), (2, 2), (2, 2), groups=16),
    Case("eights_depthwise_7x7", (2, 40, 8, 9), 40, (7, 7), padding=(3, 3), groups=40),
]

# A kernel for each sample, mixed of a few or given.
MIXED = [
    Case("mixed_3x3", (3, 3, 6, 5), 4, padding=(1, 1), kernels=4),
    Case("mixed_no_samples", (0, 3, 5, 4), 2, padding=(1, 1), kernels=3),
    Case("mixed_one_sample", (1, 3, 5, 4), 5, padding=(1, 1), kernels=2),
    Case("mixed_of_one_1x1", (2, 5, 4, 3), 7, (1, 1), kernels=1),
    Case("mixed_stride_2x1_groups_2", (3, 6, 7, 5), 4, (3, 2), (2, 1), (1, 0), (2, 1), groups=2, kernels=3),
    Case("mixed_static", (2, 4, 5, 6), 3, padding=(1, 1), kernels=2, channel=STATIC, filter=STATIC, spatial=STATIC),
    Case("mixed_alone", (2, 4, 5, 6), 3, padding=(1, 1), kernels=5, channel=ABSENT, filter=ABSENT, spatial=ABSENT),
    Case("mixed_depthwise", (2, 5, 6, 7), 5, padding=(1, 1), groups=5, kernels=3),
    Case("mixed_depthwise_multiplier_2", (3, 3, 5, 6), 6, padding=(1, 1), groups=3, kernels=2),
    Case("given_3x3", (3, 3, 6, 5), 4, padding=(1, 1), kernels=SAMPLE, bias=SAMPLE),
    Case("given_no_samples", (0, 3, 5, 4), 2, padding=(1, 1), kernels=SAMPLE),
    Case("given_1x1_stride_2x2", (2, 5, 7, 6), 3, (1, 1), (2, 2), kernels=SAMPLE),
    Case("given_groups_2", (2, 6, 5, 4), 4, padding=(1, 1), groups=2, kernels=SAMPLE, spatial=ABSENT),
    Case("given_depthwise", (2, 5, 6, 7), 5, (5, 3), (2, 1), (2, 1), groups=5, kernels=SAMPLE, filter=ABSENT),
    Case("shared_bias_per_sample", (3, 3, 6, 5), 4, padding=(1, 1), bias=SAMPLE),
    Case("shared_bias_per_sample_depthwise", (2, 5, 6, 7), 5, padding=(1, 1), groups=5, bias=SAMPLE),
]
MIXED_LARGE = [
    Case("mixed_small_maps", (5, 40, 7, 7), 33, padding=(1, 1), kernels=4),
    Case("mixed_map_that_shares_rows", (2, 20, 40, 40), 24, padding=(1, 1), kernels=4),
    Case("mixed_map_that_shares_rows_stride_1x2", (2, 18, 23, 64), 22, (3, 5), (1, 2), (1, 2), groups=2, kernels=2),
    Case("mixed_tap_by_tap", (3, 200, 7, 9), 24, (2, 3), padding=(1, 1), kernels=3),
    Case("mixed_tap_by_tap_in_the_gradient", (3, 24, 7, 9), 200, (3, 2), padding=(1, 1), kernels=3),
    Case("mixed_stride_2x2", (5, 36, 14, 13), 40, stride=(2, 2), padding=(1, 1), kernels=8),
    Case("mixed_pointwise", (4, 70, 5, 7), 130, (1, 1), kernels=4, spatial=ABSENT),
    # So many filters that the gradient of c comes with that of the input, tile by tile.
    Case("mixed_map_of_no_whole_vectors", (3, 12, 14, 14), 40, padding=(1, 1), kernels=4),
    Case("mixed_pointwise_map_of_no_whole_vectors", (3, 20, 13, 11), 200, (1, 1), kernels=4, spatial=ABSENT),
    Case("mixed_pointwise_many_filters", (2, 6, 20, 23), 300, (1, 1), kernels=2),
    Case("mixed_wide_map", (3, 5, 4, 300), 5, padding=(1, 1), kernels=2),
    Case("mixed_depthwise_wide", (2, 48, 28, 27), 48, padding=(1, 1), groups=48, kernels=4),
    Case("given_small_maps", (5, 40, 7, 7), 33, padding=(1, 1), kernels=SAMPLE),
    Case("given_map_of_no_whole_vectors", (2, 12, 13, 11), 20, padding=(1, 1), kernels=SAMPLE),
    Case("given_map_that_shares_rows", (2, 20, 40, 40), 24, padding=(1, 1), kernels=SAMPLE),
    Case("given_stride_2x2_groups_3", (3, 36, 15, 13), 30, stride=(2, 2), padding=(1, 1), groups=3, kernels=SAMPLE),
    Case("bias_per_sample_map_that_shares_rows", (2, 20, 40, 40), 24, padding=(1, 1), bias=SAMPLE),
    Case("bias_per_sample_small_maps", (5, 40, 7, 7), 33, padding=(1, 1), bias=SAMPLE),
]

CASES = SMALL + LARGE + MIXED + MIXED_LARGE

# For kernels on a card: sizes on no edge of a tile, channels of whole vectors unless the name says otherwise.
LAST = {"input_layout": "channels_last", "weight_layout": "channels_last"}
CARD = [
    Case("card_kernel_3x3", (5, 40, 7, 9), 72, padding=(1, 1), **LAST),
    Case("card_stride_2x2", (6, 64, 14, 12), 40, stride=(2, 2), padding=(1, 1), input_layout="channels_last"),
    Case("card_kernel_1x1", (3, 72, 13, 9), 136, (1, 1), input_layout="channels_last"),
    Case("card_depthwise_stride_2x2", (3, 72, 13, 12), 72, stride=(2, 2), padding=(1, 1), groups=72),
    Case("card_odd_everything", (3, 37, 9, 11), 29, (3, 2), (2, 1), (1, 0), (2, 1)),
    Case("card_samples_beyond_a_box", (35, 32, 7, 7), 24, padding=(1, 1), filter=ABSENT),
    Case("card_groups_2_dilation_2x2", (2, 128, 9, 8), 64, padding=(2, 2), dilation=(2, 2), groups=2),
    Case("card_one_sample", (1, 64, 7, 7), 136, padding=(1, 1), input_layout="sliced"),
    Case("card_depthwise_5x5", (2, 40, 9, 8), 40, (5, 5), padding=(2, 2), groups=40, **LAST),
    Case("card_pointwise_stride_2x2", (3, 64, 8, 10), 72, (1, 1), stride=(2, 2)),
    Case("card_static", (3, 40, 6, 7), 40, (5, 5), padding=(2, 2), channel=STATIC, filter=STATIC, spatial=STATIC),
    # Rows and columns of one, samples that share a tile, one pixel, none.
    Case("card_one_row", (3, 32, 1, 19), 24, (1, 3), padding=(0, 1), **LAST),
    Case("card_one_column", (3, 32, 19, 1), 24, (3, 1), padding=(1, 0), **LAST),
    Case("card_maps_of_2x2", (19, 64, 2, 2), 48, padding=(1, 1), **LAST),
    Case("card_maps_of_4x4_stride_2x2", (9, 64, 4, 4), 48, stride=(2, 2), padding=(1, 1), **LAST),
    Case("card_one_pixel_2048_channels", (1, 2048, 1, 1), 40, (1, 1)),
    Case("card_no_samples", (0, 32, 5, 4), 24, padding=(1, 1)),
    # More tiles than a card has multiprocessors.
    Case("card_full_64_filters", (48, 64, 28, 28), 64, padding=(1, 1), spatial=ABSENT, **LAST),
    Case("card_full_512_filters", (64, 256, 14, 14), 512, (1, 1), spatial=ABSENT, **LAST),
]


def named(name: str) -> Case:
    (case,) = (case for case in CASES if case.name == name)
    return case


# One of each path that a kernel may take, for what need not be tried on every shape.
REPRESENTATIVE = [
    named("kernel_3x3_padding_1x1"),
    named("kernel_3x2_stride_2x1_padding_1x0_dilation_2x1"),
    named("kernel_1x1"),
    named("depthwise"),
    named("depthwise_multiplier_2"),
    named("tiles_cross_samples"),
    named("stride_2x2_small_maps"),
    named("pointwise_stride_2x2"),
    named("eights"),
    named("mixed_stride_2x1_groups_2"),
    named("given_3x3"),
]

# The child layer as published, a plain convolution, and each attention alone in each form.
PATTERNS = {
    "published": {"bias": False, "channel": SAMPLE, "filter": STATIC, "spatial": STATIC},
    "plain": {"bias": False, "channel": ABSENT, "filter": ABSENT, "spatial": ABSENT},
    "spatial_only": {"bias": False, "channel": ABSENT, "filter": ABSENT, "spatial": SAMPLE},
}

SUBSETS = [
    Case(
        f"{'bias' if bias else 'no_bias'}-c_{channel}-f_{filter}-s_{spatial}",
        (3, 4, 5, 6),
        5,
        (3, 2),
        padding=(1, 1),
        bias=bias,
        channel=channel,
        filter=filter,
        spatial=spatial,
    )
    for bias in (True, False)
    for channel in (ABSENT, STATIC, SAMPLE)
    for filter in (ABSENT, STATIC, SAMPLE)
    for spatial in (ABSENT, STATIC, SAMPLE)
]

# Sizes on both sides of the edges of vectors and blocks, one dimension at a time.
EDGES = [
    *(
        Case(f"pixels_{width}", (1, 3, 1, width), 5, (1, 3), padding=(0, 1))
        for width in (*range(1, 20), 23, 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 127, 128, 129, 255, 256, 257)
    ),
    *(
        Case(f"channels_{channels}", (2, channels, 3, 4), 3, padding=(1, 1))
        for channels in (*range(1, 10), 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
    ),
    *(Case(f"filters_{filters}", (2, 3, 3, 5), filters, padding=(1, 1)) for filters in (*range(1, 19), 27, 28, 29)),
    *(Case(f"samples_{batch}", (batch, 3, 2, 3), 4, padding=(1, 1)) for batch in (1, 2, 3, 5, 8, 13, 32, 33)),
]
