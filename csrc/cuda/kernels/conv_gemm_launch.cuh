// From a plan to the kernel that was compiled for it.
#pragma once

#include "conv_gemm.cuh"
#include "conv_gemm_wgmma.cuh"

#include <iterator>

namespace kerneldna::cuda {

template <class Traits>
void launch_conv_gemm(const ConvGemm &call, const ConvGemmPlan &plan, float *partial, Stream stream) {
  using T = typename Traits::T;
  const Geometry &g = call.geometry;
  const Lattice smallest = lattice_of(g, call.transposed, lattice_classes(g, call.transposed, 0) - 1,
                                      lattice_classes(g, call.transposed, 1) - 1);
  const int samples = int(samples_of_tile(Traits::kBlockM, smallest.pixels(), g.batch));
  const int taps = g.kernel_height * g.kernel_width;
  GroupSizes group{};
  group.in_channels = g.in_channels / g.groups;
  group.out_channels = g.out_channels / g.groups;
  group.source_channels = call.transposed ? group.out_channels : group.in_channels;
  group.filter_elements = taps * group.in_channels;
  group.blocks = int(ceil_divide(group.source_channels, Traits::kBlockK));
  const int channels = call.transposed ? group.in_channels : group.out_channels;
  Launch where{"conv_gemm"};
  where.grid = {lattice_tiles(g, call.transposed, Traits::kBlockM), ceil_divide(channels, Traits::kBlockN) * g.groups,
                call.by_tap ? taps : plan.splits};
  where.block = dim3(Traits::kThreads);
  where.shared_bytes = Traits::shared_bytes(samples);
  where.stream = stream;
  if (plan.splits == 1)
    partial = nullptr;
  launch(conv_gemm_kernel<Traits>, where, call, group, partial, samples);
  if (!partial)
    return;
  where.kernel = "conv_gemm_finish";
  where.grid.z = 1;
  where.shared_bytes = Traits::kBlockM * (sizeof(TileRow) + Traits::kBlockN * sizeof(float));
  where.overlaps_previous = true;
  launch(conv_gemm_finish_kernel<T, Traits::kBlockM, Traits::kBlockN, Traits::kThreads>, where, call, partial,
         plan.splits);
}

// Form: the stages and, for B as it stands and transposed, the products (tile_math.cuh) of one of the tiles.
template <class Form>
void launch_conv_gemm_form(const ConvGemm &call, const ConvGemmPlan &plan, float *partial, Stream stream) {
  const auto with = [&](auto scaled) {
    constexpr bool kScaled = decltype(scaled)::value;
    using Plain = ConvGemmTraits<typename Form::template Math<false>, Form::kStages, kScaled, false>;
    using Transposed = ConvGemmTraits<typename Form::template Math<true>, Form::kStages, kScaled, true>;
    if (call.transposed)
      launch_conv_gemm<Transposed>(call, plan, partial, stream);
    else
      launch_conv_gemm<Plain>(call, plan, partial, stream);
  };
  if (call.source_scale.data)
    with(std::true_type{});
  else
    with(std::false_type{});
}

// Of kHalfForms, for one of the 16-bit numbers.
template <class T, int Index> struct HalfForm {
  static constexpr TileForm kForm = kHalfForms[Index];
  static constexpr int kStages = kForm.stages;
  // Along M, for warps beside each other along N scale the same pixels again.
  static constexpr int kWarpsM = 4, kWarpsN = kForm.threads / 32 / kWarpsM;
  template <bool Transposed>
  using Math = TensorMath<T, kForm.block_m, kForm.block_n, kForm.block_k, kWarpsM, kWarpsN, Transposed>;
};

template <class T>
void launch_conv_gemm_half(const ConvGemm &call, const ConvGemmPlan &plan, float *partial, Stream stream) {
  static_assert(std::size(kHalfForms) == 6);
  switch (plan.form) {
  case 0:
    return launch_conv_gemm_form<HalfForm<T, 0>>(call, plan, partial, stream);
  case 1:
    return launch_conv_gemm_form<HalfForm<T, 1>>(call, plan, partial, stream);
  default:
    return launch_conv_gemm_form<HalfForm<T, 2>>(call, plan, partial, stream);
  }
}

// Of kHalfForms, those for sm_90a.
template <class T, int Index> struct WgmmaForm {
  static constexpr TileForm kForm = kHalfForms[Index];
  static constexpr int kStages = kForm.stages;
  template <bool Transposed> using Math = WgmmaMath<T, kForm.block_n, Transposed>;
  static_assert(kForm.capability == 90 && kForm.block_m == Math<false>::kBlockM &&
                kForm.block_k == Math<false>::kBlockK && kForm.threads == Math<false>::kThreads);
};

template <class T>
void launch_conv_gemm_wgmma(const ConvGemm &call, const ConvGemmPlan &plan, float *partial, Stream stream) {
  switch (plan.form) {
  case 3:
    return launch_conv_gemm_form<WgmmaForm<T, 3>>(call, plan, partial, stream);
  case 4:
    return launch_conv_gemm_form<WgmmaForm<T, 4>>(call, plan, partial, stream);
  default:
    return launch_conv_gemm_form<WgmmaForm<T, 5>>(call, plan, partial, stream);
  }
}

// Of kTf32Forms.
struct Tf32Form {
  static constexpr TileForm kForm = kTf32Forms[0];
  static constexpr int kStages = kForm.stages;
  template <bool Transposed> using Math = Tf32Math<kForm.block_m, kForm.block_n, kForm.block_k, 2, 2, Transposed>;
};

} // namespace kerneldna::cuda
