// From a plan to the kernel that was compiled for it.
#pragma once

#include "conv_gemm.cuh"
#include "conv_gemm_wgmma.cuh"

#include <type_traits>

namespace kerneldna::cuda {

template <class Traits>
void launch_conv_gemm(const ConvGemm &call, const ConvGemmPlan &plan, float *partial, Stream stream) {
  const Geometry &g = call.geometry;
  const int samples = samples_of_tile(Traits::kBlockM, g);
  GroupSizes group{};
  group.channels = g.in_channels / g.groups;
  group.filters = g.out_channels / g.groups;
  group.filter_elements = g.kernel_height * g.kernel_width * group.channels;
  group.blocks = int(ceil_divide(group.channels, Traits::kBlockK));
  Launch where{"conv_gemm"};
  where.grid = {ceil_divide(g.batch * g.out_height * g.out_width, Traits::kBlockM),
                ceil_divide(group.filters, Traits::kBlockN) * g.groups, plan.splits};
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
  launch(conv_gemm_finish_kernel<typename Traits::T, Traits::kBlockM, Traits::kBlockN, Traits::kThreads>, where, call,
         partial, plan.splits);
}

// The products of one of kTileForms (tile_math.cuh). Warps stand along M, for those beside each other along N scale the
// same pixels again.
template <class T, int Form> struct FormMath {
  static constexpr TileForm kForm = kTileForms[Form];
  using type = std::conditional_t<kForm.capability == 90, WgmmaMath<T, kForm.block_n>,
                                  TensorMath<T, kForm.block_m, kForm.block_n, kForm.block_k, 4, kForm.threads / 128>>;
  static_assert(kForm.block_m == type::kBlockM && kForm.block_k == type::kBlockK && kForm.threads == type::kThreads);
};

// Of kTileForms three, from First on.
template <class T, int First>
void launch_conv_gemm_form(const ConvGemm &call, const ConvGemmPlan &plan, float *partial, Stream stream) {
  const auto with = [&](auto form) {
    using Math = typename FormMath<T, form>::type;
    if (call.input_scale.data)
      launch_conv_gemm<ConvGemmTraits<Math, kTileForms[form].stages, true>>(call, plan, partial, stream);
    else
      launch_conv_gemm<ConvGemmTraits<Math, kTileForms[form].stages, false>>(call, plan, partial, stream);
  };
  switch (plan.form - First) {
  case 0:
    return with(std::integral_constant<int, First>{});
  case 1:
    return with(std::integral_constant<int, First + 1>{});
  default:
    return with(std::integral_constant<int, First + 2>{});
  }
}

} // namespace kerneldna::cuda
