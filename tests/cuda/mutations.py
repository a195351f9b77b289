"""Mistakes that one could make in the CUDA kernels, and for each a test that fails with it (mutants.py tries them)."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """`right`, which stands once in csrc/cuda/kernels/`file`, becomes `wrong`; `test`, of this folder, fails then.

    `rebuilt` is the source that the test needs compiled again where it is not all that include the file: a mistake in a
    template can be tried in one of the kinds of numbers.
    """

    name: str
    file: str
    right: str
    wrong: str
    test: str
    rebuilt: str = ""


def in_gemm(name: str, right: str, wrong: str, test: str, file: str = "conv_gemm.cuh") -> Mutation:
    return Mutation(f"gemm: {name}", file, right, wrong, f"test_conv_gemm.py::{test}", "conv_gemm_f16.cu")


def in_wgmma(name: str, right: str, wrong: str, test: str) -> Mutation:
    rebuilt = "conv_gemm_wgmma_f16.cu"
    return Mutation(f"wgmma: {name}", "conv_gemm_wgmma.cuh", right, wrong, f"test_wgmma.py::{test}", rebuilt)


def in_depthwise(name: str, file: str, right: str, wrong: str, test: str) -> Mutation:
    return Mutation(f"depthwise: {name}", file, right, wrong, f"test_depthwise.py::{test}")


def in_squeeze_excite(name: str, file: str, right: str, wrong: str, test: str) -> Mutation:
    return Mutation(f"squeeze_excite: {name}", file, right, wrong, f"test_squeeze_excite_cuda.py::{test}")


GEMM = [
    in_gemm(
        "no barrier between the copies of a step and its products",
        "      __syncthreads();\n      if (left > ",
        "      if (left > ",
        "test_in_any_order[narrow-1]",
    ),
    in_gemm(
        "no barrier between the last products and the sums that take their place",
        "  __syncthreads();\n  if (partial)\n",
        "  if (partial)\n",
        "test_in_any_order[narrow-1]",
    ),
    in_gemm(
        "no barrier before the tile is finished",
        "  math.store(sums, Traits::kLdSums);\n  __syncthreads();\n",
        "  math.store(sums, Traits::kLdSums);\n",
        "test_in_any_order[narrow-1]",
    ),
    in_gemm(
        "a step begins before its copies have arrived",
        "cp_async_wait<Traits::kAhead - 1>();",
        "cp_async_wait<Traits::kAhead>();",
        "test_every_tile[float16-wide-all]",
    ),
    in_gemm(
        "a vector of channels too many",
        "const bool channel_exists = k + chunk < group.channels;",
        "const bool channel_exists = k + chunk <= group.channels;",
        "test_a_slice_of_aligned_channels_is_read_where_it_stands[narrow]",
    ),
    in_gemm(
        "the pixel right of the image",
        "unsigned(first_column + row.column * g.stride[1]) < unsigned(g.in_width)",
        "unsigned(first_column + row.column * g.stride[1]) < unsigned(g.in_width + 1)",
        "test_every_tile[float16-narrow-none]",
    ),
    in_gemm(
        "the spatial attention's taps counted along columns",
        "const int tap = tap_row * p.geometry.kernel_width + tap_column;",
        "const int tap = tap_column * p.geometry.kernel_width + tap_row;",
        "test_every_shape[float16-stride_and_dilation-1]",
    ),
    in_gemm(
        "the input's next tap as if channels filled the steps",
        "step_a -= k + tap_offset();",
        "step_a -= group.channels + tap_offset();",
        "test_every_tile[float16-wide-none]",
    ),
    in_gemm(
        "the weight's next tap as if channels filled the steps",
        "      step_b -= k - group.channels;\n",
        "",
        "test_every_tile[float16-wide-none]",
    ),
    in_gemm(
        "the first part of K forgotten",
        "for (int split = 0; split < splits; ++split)",
        "for (int split = 1; split < splits; ++split)",
        "test_parts_of_k[float16-none]",
    ),
    in_gemm(
        "parts of K that overlap",
        "first = part * steps + min(part, longer);",
        "first = part * steps;",
        "test_parts_of_k[float16-none]",
    ),
    in_gemm(
        "samples found by 32 bits",
        "(place.first_sample + row.sample) * p.input.sample_stride +",
        "((place.first_sample + row.sample) * p.input.sample_stride & 0x7fffffff) +",
        "test_samples_far_apart[narrow]",
    ),
    in_gemm(
        "filters of another group",
        "((place.group * group.filters + filter) * group.filter_elements",
        "(filter * group.filter_elements",
        "test_every_shape[float16-groups-1]",
    ),
    in_gemm(
        "matrices of A in the order of B",
        "ldmatrix_x4(a_fragment, a + named_row(i) * kLdA + k + lane / 16 * 8)",
        "ldmatrix_x4(a_fragment, a + named_row(i) * kLdA + k + lane / 8 % 2 * 8)",
        "test_every_tile[float16-wide-none]",
        file="tile_math.cuh",
    ),
    in_gemm(
        "matrices of B in the order of A",
        "(n + lane % 8 + lane / 16 * 8) * kLdB + k + lane / 8 % 2 * 8",
        "(n + lane % 16) * kLdB + k + lane / 16 * 8",
        "test_every_tile[float16-wide-none]",
        file="tile_math.cuh",
    ),
    in_gemm(
        "the scale of another row's sample",
        "rows[row_of(j)].sample : samples) * Math::kLdA",
        "rows[row_of(0)].sample : samples) * Math::kLdA",
        "test_every_tile[float16-wide-all]",
    ),
    in_gemm(
        "the padding multiplied with a sample's scale",
        "(in_image >> j & 1 ? rows[row_of(j)].sample : samples)",
        "max(rows[row_of(j)].sample, 0)",
        "test_the_padding_stays_zero_whatever_multiplies_it[float16]",
    ),
    in_gemm(
        "rows of two samples multiplied with the factors of one",
        "rows[0].sample == rows[16 * Fragments - 1].sample ?",
        "rows[0].sample == rows[8].sample ?",
        "test_every_tile[float16-wide-all]",
        file="row_factors.cuh",
    ),
    in_gemm(
        "the padding of a warp of one sample left to what the factors make of it",
        "!OneSample || in_image[i][e % 2] ? product : 0",
        "product",
        "test_the_padding_stays_zero_whatever_multiplies_it[float16]",
        file="row_factors.cuh",
    ),
    in_gemm(
        "rows and columns of a fragment exchanged",
        "target[row_of(i, e / 2) * ld + warp_n() * kWarpN + j * 8 + threadIdx.x % 4 * 2 + e % 2]",
        "target[row_of(i, e % 2) * ld + warp_n() * kWarpN + j * 8 + threadIdx.x % 4 * 2 + e / 2]",
        "test_every_tile[float16-narrow-none]",
        file="tile_math.cuh",
    ),
    in_gemm(
        "no filter attention",
        "if (p.output_scale.data) {",
        "if (p.output_scale.data && false) {",
        "test_every_tile[float16-narrow-channel]",
        file="conv_gemm_tile.cuh",
    ),
    in_gemm(
        "the group's last columns left out",
        "if (row.sample < 0 || column >= place.columns)",
        "if (row.sample < 0 || column + kCount >= place.columns)",
        "test_every_shape[float16-small_groups-1]",
        file="conv_gemm_tile.cuh",
    ),
    Mutation(
        "ordered sum: no barrier",
        "ordered_sum.cu",
        "    __syncthreads();\n    if (first_row < others)",
        "    if (first_row < others)",
        "test_depthwise.py::test_bit_equal_in_any_order[3x3_stride_2x2]",
    ),
]

# On sm_90a
WGMMA = [
    in_wgmma(
        "no fence between the copies of a step and its products",
        "__device__ static void publish() { fence_proxy_async(); }",
        "__device__ static void publish() {}",
        "test_tiles[wide-]",
    ),
    in_wgmma(
        "copies to a stage that products still read",
        "static constexpr int kStepsInFlight = 1;",
        "static constexpr int kStepsInFlight = 0;",
        "test_convolution[float16-wide-all]",
    ),
    in_wgmma(
        "pixels scaled in registers that products still read",
        "wgmma_wait<kFragments - 1>();",
        "wgmma_wait<kFragments>();",
        "test_tiles[wide-]",
    ),
    in_wgmma(
        "another swizzle",
        "(column / 8 ^ row % 8) * 8",
        "(column / 8 ^ row % 4) * 8",
        "test_convolution[float16-wide-none]",
    ),
]

DEPTHWISE = [
    in_depthwise(
        "no barrier between the factors and the pixels",
        "conv_depthwise.cuh",
        "    }\n    __syncthreads();\n",
        "    }\n",
        "test_bit_equal_in_any_order[5x5_stride_2x2]",
    ),
    in_depthwise(
        "rows of the kernel that meet no pixel",
        "conv_depthwise.cuh",
        "return {reach % stride, stride,",
        "return {0, stride,",
        "test_gradients[float32-3x3_stride_3x1]",
    ),
    in_depthwise(
        "a run that reaches beyond the map",
        "conv_depthwise.cuh",
        "first + Shape::kColumns <= block.source_width;",
        "first + Shape::kColumns <= block.source_width + 1;",
        "test_output[float32-3x3_last_run_full]",
    ),
    in_depthwise(
        "no barrier between a row of the kernel and what is made of it",
        "conv_depthwise_grads.cuh",
        "sums[v]);\n      __syncthreads();\n",
        "sums[v]);\n",
        "test_bit_equal_in_any_order[3x3_stride_2x2]",
    ),
    in_depthwise(
        "the gradient of the filter attention out of filters",
        "conv_depthwise_grads.cuh",
        "give(plan.filter, grads.filter_per_sample, filter_sum, c * energy);",
        "give(plan.filter, grads.filter_per_sample, filter_sum, f * energy);",
        "test_gradients[float32-3x3]",
    ),
]

SQUEEZE_EXCITE = [
    in_squeeze_excite(
        "no barrier between the two layers",
        "squeeze_excite.cuh",
        "features[r] = relu(features[r] + product); });\n  __syncthreads();\n",
        "features[r] = relu(features[r] + product); });\n",
        "test_bit_equal_whoever_goes_first[float16-(2, 40, 7, 7)-16-contiguous]",
    ),
    in_squeeze_excite(
        "no barrier before the sums of threads are added up",
        "squeeze_excite_pool.cuh",
        "left.columns;\n  __syncthreads();\n",
        "left.columns;\n",
        "test_bit_equal_whoever_goes_first[float16-(2, 40, 7, 7)-16-channels_last]",
    ),
    in_squeeze_excite(
        "pixels that fill no part are left out",
        "squeeze_excite.cuh",
        "per_part = (map.pixels + parts - 1) / parts",
        "per_part = map.pixels / parts",
        "test_two_launches[float32-(1, 64, 45, 41)-16-contiguous-132]",
    ),
]

DEVICE = [
    Mutation(
        "launch: a kernel is allowed what its launch needs, and another thread's launch less",
        "launch.cu",
        "limits_of(launch.stream.device).shared_bytes),",
        "static_cast<int>(launch.shared_bytes)),",
        "test_device.py::test_a_kernel_is_allowed_all_shared_memory_and_once",
    ),
    Mutation(
        "launch: overlap by what the GPU has, and not the code",
        "launch.cu",
        ".compiled >= 90",
        ".capability >= 90",
        "test_device.py::test_launches_overlap_only_where_the_code_can_wait[90-80-False]",
    ),
    Mutation(
        "launch: products of sm_90a by what the GPU has, and not the code",
        "conv_gemm_plan.cpp",
        " || form.capability != limits.compiled",
        "",
        "test_device.py::test_products_of_sm_90a_are_chosen_only_where_they_were_compiled_for[90-80]",
    ),
]

MUTATIONS = GEMM + WGMMA + DEPTHWISE + SQUEEZE_EXCITE + DEVICE
