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


def in_gemm(
    name: str, right: str, wrong: str, test: str, numbers: str = "f16", file: str = "conv_gemm.cuh"
) -> Mutation:
    return Mutation(f"gemm: {name}", file, right, wrong, f"test_conv_gemm.py::{test}", f"conv_gemm_{numbers}.cu")


def in_wgmma(name: str, right: str, wrong: str, test: str) -> Mutation:
    rebuilt = "conv_gemm_wgmma_f16.cu"
    return Mutation(f"wgmma: {name}", "conv_gemm_wgmma.cuh", right, wrong, f"test_wgmma.py::{test}", rebuilt)


def in_weight_gradient(
    name: str, right: str, wrong: str, test: str, file: str = "conv_weight_gradient.cuh", numbers: str = "f16"
) -> Mutation:
    rebuilt = f"conv_weight_gradient_{numbers}.cu"
    return Mutation(f"weight gradient: {name}", file, right, wrong, f"test_weight_kernels.py::{test}", rebuilt)


def in_fold(name: str, right: str, wrong: str, test: str) -> Mutation:
    return Mutation(f"fold: {name}", "weight_fold.cuh", right, wrong, f"test_weight_kernels.py::{test}")


def in_depthwise(name: str, file: str, right: str, wrong: str, test: str) -> Mutation:
    return Mutation(f"depthwise: {name}", file, right, wrong, f"test_depthwise.py::{test}")


def in_squeeze_excite(name: str, file: str, right: str, wrong: str, test: str) -> Mutation:
    return Mutation(f"squeeze_excite: {name}", file, right, wrong, f"test_squeeze_excite_cuda.py::{test}")


GEMM = [
    in_gemm(
        "no barrier between the copies of a step and its products",
        "        __syncthreads();\n        if (left > ",
        "        if (left > ",
        "test_in_any_order[narrow-1-float16]",
    ),
    in_gemm(
        "no barrier between the last products and the sums that take their place",
        "  __syncthreads();\n  if (partial)\n",
        "  if (partial)\n",
        "test_in_any_order[narrow-1-float16]",
    ),
    in_gemm(
        "no barrier before the tile is finished",
        "  math.store(sums, Traits::kLdSums);\n  __syncthreads();\n",
        "  math.store(sums, Traits::kLdSums);\n",
        "test_in_any_order[narrow-1-float16]",
    ),
    in_gemm(
        "a step begins before its copies have arrived",
        "cp_async_wait<Traits::kAhead - 1>();",
        "cp_async_wait<Traits::kAhead>();",
        "test_every_tile[wide-all-float16]",
    ),
    in_gemm(
        "a vector of channels too many",
        "const bool channel_exists = k + chunk < group.source_channels;",
        "const bool channel_exists = k + chunk <= group.source_channels;",
        "test_a_slice_of_aligned_channels_is_read_where_it_stands[narrow]",
    ),
    in_gemm(
        "the pixel right of the image",
        "const unsigned width = Traits::kTransposed ? p.geometry.out_width : p.geometry.in_width;",
        "const unsigned width = 1 + (Traits::kTransposed ? p.geometry.out_width : p.geometry.in_width);",
        "test_every_tile[narrow-none-float16]",
    ),
    in_gemm(
        "the spatial attention's taps counted as those of the class",
        "offset = tap() * p.tap_stride",
        "offset = (tap_row * place.at.lattice.columns.taps + tap_column) * p.tap_stride",
        "test_every_shape[stride_and_dilation-1-float16]",
    ),
    in_gemm(
        "the next tap as if channels filled the steps",
        "step_a -= k + tap_offset();",
        "step_a -= group.source_channels + tap_offset();",
        "test_every_tile[wide-none-float16]",
    ),
    in_gemm(
        "the first part of K forgotten",
        "for (int split = 0; split < splits; ++split)",
        "for (int split = 1; split < splits; ++split)",
        "test_parts_of_k[none-float16]",
    ),
    in_gemm(
        "parts of K that overlap",
        "part * steps + min(part, longer), last",
        "part * steps, last",
        "test_parts_of_k[none-float16]",
    ),
    in_gemm(
        "samples found by 32 bits",
        "(place.first_sample + row.sample) * p.source.sample_stride +",
        "((place.first_sample + row.sample) * p.source.sample_stride & 0x7fffffff) +",
        "test_samples_far_apart[narrow]",
    ),
    in_gemm(
        "filters of another group",
        "((place.group * group.out_channels + filter) * group.filter_elements",
        "(filter * group.filter_elements",
        "test_every_shape[groups-1-float16]",
    ),
    in_gemm(
        "matrices of A in the order of B",
        "ldmatrix_x4(a_fragment, a + named_row(i) * kLdA + k + lane / 16 * 8)",
        "ldmatrix_x4(a_fragment, a + named_row(i) * kLdA + k + lane / 8 % 2 * 8)",
        "test_every_tile[wide-none-float16]",
        file="tile_math.cuh",
    ),
    in_gemm(
        "matrices of B in the order of A",
        "(n + lane % 8 + lane / 16 * 8) * kLdB + k + lane / 8 % 2 * 8",
        "(n + lane % 16) * kLdB + k + lane / 16 * 8",
        "test_every_tile[wide-none-float16]",
        file="tile_math.cuh",
    ),
    in_gemm(
        "matrices of transposed B in the order of B",
        "(k + lane % 16) * kLdB + n + lane / 16 * 8",
        "(k + lane % 8 + lane / 16 * 8) * kLdB + n + lane / 8 % 2 * 8",
        "test_every_tile[wide-none-float16]",
        file="tile_math.cuh",
    ),
    in_gemm(
        "the scale of another row's sample",
        "rows[row_a(j)].sample : samples) * Math::kLdA",
        "rows[row_a(0)].sample : samples) * Math::kLdA",
        "test_every_tile[wide-all-float16]",
    ),
    in_gemm(
        "the padding multiplied with a sample's scale",
        "(in_image >> j & 1 ? rows[row_a(j)].sample : samples)",
        "max(rows[row_a(j)].sample, 0)",
        "test_the_padding_stays_zero_whatever_multiplies_it[float16]",
    ),
    in_gemm(
        "rows of two samples multiplied with the factors of one",
        "rows[0].sample == rows[16 * Fragments - 1].sample ?",
        "rows[0].sample == rows[8].sample ?",
        "test_every_tile[wide-all-float16]",
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
        "test_every_tile[narrow-none-tf32]",
        numbers="tf32",
        file="tile_math.cuh",
    ),
    in_gemm(
        "no filter attention",
        "if (p.target_scale.data) {",
        "if (p.target_scale.data && false) {",
        "test_every_tile[narrow-channel-float16]",
        file="conv_gemm_tile.cuh",
    ),
    in_gemm(
        "the group's last columns left out",
        "if (row.sample < 0 || column >= place.columns)",
        "if (row.sample < 0 || column + kCount >= place.columns)",
        "test_every_shape[small_groups-1-float16]",
        file="conv_gemm_tile.cuh",
    ),
    in_gemm(
        "every class of input pixels at the first one's place",
        "(lattice_columns.target_origin + int64_t(row.column) * lattice_columns.target_step)",
        "(int64_t(row.column) * lattice_columns.target_step)",
        "test_every_shape[no_taps-1-float16]",
        file="conv_gemm_tile.cuh",
    ),
    in_gemm(
        "sums of one sample kept for the next",
        "          sample = row.sample;\n          sum = 0;\n",
        "          sample = row.sample;\n",
        "test_every_shape[one_pixel-1-float16]",
        file="conv_gemm_tile.cuh",
    ),
    Mutation(
        "sums of tiles: another sample's slot",
        "attention_sums.cu",
        "sums[((first_slot + tile + sample) * taps + tap) * channels + channel]",
        "sums[((first_slot + tile) * taps + tap) * channels + channel]",
        "test_conv_gemm.py::test_every_shape[one_pixel-1-float16]",
    ),
    Mutation(
        "sums of tiles: a tile too many where a sample ends with one",
        "attention_sums.cu",
        "const int64_t last = ((sample + 1) * pixels - 1) / p.sum_rows;",
        "const int64_t last = (sample + 1) * pixels / p.sum_rows;",
        "test_conv_gemm.py::test_every_shape[one_pixel-1-float16]",
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
        "(chunk ^ row % 8) * 8",
        "(chunk ^ row % 4) * 8",
        "test_convolution[float16-wide-none]",
    ),
]

WEIGHT = [
    in_weight_gradient(
        "no barrier between the factors of a step and its products",
        "    scale(tile, samples[0]);\n    __syncthreads();\n",
        "    scale(tile, samples[0]);\n",
        "test_in_any_order[float16-vectors-1]",
    ),
    in_weight_gradient(
        "a step begins before its copies have arrived",
        "cp_async_wait<kStages - 2>();",
        "cp_async_wait<kStages - 1>();",
        "test_in_any_order[float16-vectors-1]",
    ),
    in_weight_gradient(
        "the last pixel left out",
        "const bool exists = row + r * kRowsApart < existing;",
        "const bool exists = row + r * kRowsApart < existing - 1;",
        "test_per_sample_factors[float16-1-vectors]",
    ),
    in_weight_gradient(
        "factors on the padding",
        "samples[r] = inside ? out.sample : ~out.sample;",
        "samples[r] = out.sample;",
        "test_zeros_of_the_padding_stay_zeros[float16-channel_attention-inf]",
    ),
    in_weight_gradient(
        "matrices of columns in the order of rows",
        "row_a = lane % 8 + lane / 16 * 8, row_b = lane % 16;",
        "row_a = lane % 8 + lane / 16 * 8, row_b = row_a;",
        "test_per_sample_factors[float16-1-vectors]",
        file="weight_gradient_products.cuh",
    ),
    in_fold(
        "channel factors of another group",
        "c = factor_of<T>(p.channel, group * channels + i);",
        "c = factor_of<T>(p.channel, i);",
        "test_folded_weights[float16-groups-static factors-contiguous]",
    ),
    in_fold(
        "the gradient of a static filter attention without the channels'",
        "sum_over_warp(exists ? product * s * c : 0.0f)",
        "sum_over_warp(exists ? product * s : 0.0f)",
        "test_static_factors[float16-contiguous-vectors]",
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

MUTATIONS = GEMM + WGMMA + WEIGHT + DEPTHWISE + SQUEEZE_EXCITE + DEVICE
