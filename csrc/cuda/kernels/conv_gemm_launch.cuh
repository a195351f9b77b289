// From a plan to the kernel that was compiled for it.
#pragma once

#include "conv_gemm.cuh"

namespace kerneldna::cuda {

template <class Traits>
void launch_conv_gemm(const ConvGemm &call, const ConvGemmPlan &plan, void *partial, Stream stream) {
  using T = typename Traits::T;
  using C = compute_t<T>;
  static_assert(Traits::kThreads <= 1024);
  const Geometry &g = call.geometry;
  const Lattice smallest = lattice_of(g, call.transposed, lattice_classes(g, call.transposed, 0) - 1,
                                      lattice_classes(g, call.transposed, 1) - 1);
  const int samples = int(samples_of_tile(Traits::kBlockM, smallest.pixels(), g.batch));
  const int64_t channels = (call.transposed ? g.in_channels : g.out_channels) / g.groups;
  const int taps = g.kernel_height * g.kernel_width;
  Launch where{"conv_gemm"};
  where.grid =
      dim3(unsigned(lattice_tiles(g, call.transposed, Traits::kBlockM, false)),
           unsigned(ceil_divide(channels, Traits::kBlockN) * g.groups), unsigned(call.by_tap ? taps : plan.splits));
  where.block = dim3(Traits::kThreads);
  where.shared_bytes = Traits::shared_bytes(samples);
  where.stream = stream;
  C *const partials = plan.splits > 1 ? static_cast<C *>(partial) : nullptr;
  launch(conv_gemm_kernel<Traits>, where, call, partials, samples);
  if (!partials)
    return;
  where.kernel = "conv_gemm_finish";
  where.grid.z = 1;
  where.shared_bytes = Traits::kBlockM * (sizeof(TileRow) + (Traits::kBlockN + 4) * sizeof(C));
  where.overlaps_previous = true;
  launch(conv_gemm_finish_kernel<T, Traits::kBlockM, Traits::kBlockN, Traits::kThreads, Traits::kVector>, where, call,
         partials, plan.splits);
}

// Math: a template of its own last parameter, whether B is transposed.
template <template <bool> class Math, int Stages, bool IsVector>
void launch_conv_gemm_form(const ConvGemm &call, const ConvGemmPlan &plan, void *partial, Stream stream) {
  const bool scaled = call.source_scale.data || call.tap_scale.data;
  const auto with = [&](auto is_scaled) {
    constexpr bool kScaled = decltype(is_scaled)::value;
    if (call.transposed)
      launch_conv_gemm<ConvGemmTraits<Math<true>, Stages, IsVector, kScaled, true>>(call, plan, partial, stream);
    else
      launch_conv_gemm<ConvGemmTraits<Math<false>, Stages, IsVector, kScaled, false>>(call, plan, partial, stream);
  };
  if (scaled)
    with(std::true_type{});
  else
    with(std::false_type{});
}

// kHalfForms, for one of the 16-bit numbers.
template <class T, int Form> struct HalfForm {
  static constexpr TileForm kForm = kHalfForms[Form];
  static constexpr int kWarpsN = kForm.threads / 64; // two warps along M
  template <bool Transposed>
  using Math = TensorMath<T, kForm.block_m, kForm.block_n, kForm.block_k, 2, kWarpsN, Transposed>;
};

template <class T>
void launch_conv_gemm_half(const ConvGemm &call, const ConvGemmPlan &plan, void *partial, Stream stream) {
  switch (plan.form) {
  case 0:
    return launch_conv_gemm_form<HalfForm<T, 0>::template Math, kHalfForms[0].stages, true>(call, plan, partial,
                                                                                            stream);
  case 1:
    return launch_conv_gemm_form<HalfForm<T, 1>::template Math, kHalfForms[1].stages, true>(call, plan, partial,
                                                                                            stream);
  case 2:
    return launch_conv_gemm_form<HalfForm<T, 2>::template Math, kHalfForms[2].stages, true>(call, plan, partial,
                                                                                            stream);
  default:
    return launch_conv_gemm_form<HalfForm<T, 3>::template Math, kHalfForms[3].stages, false>(call, plan, partial,
                                                                                             stream);
  }
}

} // namespace kerneldna::cuda
