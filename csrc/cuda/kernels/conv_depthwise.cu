#include "conv_depthwise.cuh"
#include "conv_depthwise_launch.h"

#include <numeric>

namespace kerneldna::cuda {
namespace {

constexpr int kPixelsPerThread = 32; // to spread the cost of folding the weight

template <class T, int Count, bool Transposed>
void launch_planned(void (*kernel)(Depthwise, DepthwisePlan), const char *name, const Depthwise &conv, int run_pixels,
                    int run_shift, Stream stream) {
  using C = compute_t<T>;
  const Geometry &geometry = conv.geometry;
  const int height = Transposed ? geometry.in_height : geometry.out_height;
  const int width = Transposed ? geometry.in_width : geometry.out_width;
  DepthwisePlan plan{};
  plan.slab = plan_slab(Transposed ? geometry.in_channels : geometry.out_channels, Count, sizeof(T));
  plan.runs_per_row = int(ceil_divide(width + run_shift, run_pixels));
  plan.runs = height * plan.runs_per_row;
  const int slots = kDepthwiseThreads / plan.slab.lanes;
  plan.parts =
      plan_parts(plan.runs, slots, kPixelsPerThread / run_pixels, geometry.batch * plan.slab.slabs, stream.device);
  plan.runs_per_part = int(ceil_divide(plan.runs, plan.parts));
  const int row_bytes = plan.slab.lanes * Count * int(sizeof(C));
  plan.chunk = std::min(geometry.kernel_height * geometry.kernel_width, kSharedBudget / row_bytes - 2);
  for (int axis = 0; axis < 2; ++axis)
    plan.tap_step[axis] = geometry.stride[axis] / std::gcd(geometry.stride[axis], geometry.dilation[axis]);
  launch(kernel,
         plan_launch(name, geometry.batch * plan.parts * plan.slab.slabs, size_t(plan.chunk + 2) * row_bytes, stream),
         conv, plan);
}

template <class T, int KernelWidth, int Step, bool Transposed> void launch_runs(const Depthwise &conv, Stream stream) {
  using Shape = RunShape<KernelWidth, Step, Transposed>;
  constexpr int kCount = kVectorCount<T>;
  launch_planned<T, kCount, Transposed>(depthwise_runs_kernel<T, kCount, KernelWidth, Step, Transposed>,
                                        "depthwise_runs", conv, Shape::kPixels, Shape::shift(conv.geometry.padding[1]),
                                        stream);
}

template <class T, int Count, bool Transposed> void launch_pixels(const Depthwise &conv, Stream stream) {
  launch_planned<T, Count, Transposed>(depthwise_pixels_kernel<T, Count, Transposed>, "depthwise_pixels", conv, 1, 0,
                                       stream);
}

template <class T, bool Transposed> void run(const Depthwise &conv, Stream stream) {
  constexpr int kCount = kVectorCount<T>;
  const Geometry &geometry = conv.geometry;
  if (geometry.batch == 0)
    return;
  const int source_width = Transposed ? geometry.out_width : geometry.in_width;
  const bool vectors = geometry.in_channels == geometry.out_channels && geometry.in_channels % kCount == 0 &&
                       is_aligned(conv.source, sizeof(T)) && is_aligned(conv.target, sizeof(T)) &&
                       is_aligned(conv.residual, sizeof(T));
  if (!vectors)
    return launch_pixels<T, 1, Transposed>(conv, stream);
  if constexpr (sizeof(T) <= 4) {
    const int width = geometry.kernel_width, step = geometry.stride[1];
    const bool small = geometry.kernel_height <= 8 && geometry.dilation[1] == 1;
    if (small && rows_fit_int(conv.source, source_width)) {
      if (width == 3 && step == 1)
        return launch_runs<T, 3, 1, Transposed>(conv, stream);
      if (width == 3 && step == 2)
        return launch_runs<T, 3, 2, Transposed>(conv, stream);
      if (width == 5 && step == 1)
        return launch_runs<T, 5, 1, Transposed>(conv, stream);
      if (width == 5 && step == 2)
        return launch_runs<T, 5, 2, Transposed>(conv, stream);
    }
  }
  launch_pixels<T, kCount, Transposed>(conv, stream);
}

template <bool Transposed> void run(const Depthwise &conv, Stored stored, Stream stream) {
  switch (stored) {
  case Stored::f64:
    return run<double, Transposed>(conv, stream);
  case Stored::f32:
    return run<float, Transposed>(conv, stream);
  case Stored::f16:
    return run<__half, Transposed>(conv, stream);
  case Stored::bf16:
    return run<__nv_bfloat16, Transposed>(conv, stream);
  }
}

} // namespace

void depthwise_conv(const Depthwise &conv, Stored stored, Stream stream) { run<false>(conv, stored, stream); }
void depthwise_conv_transposed(const Depthwise &conv, Stored stored, Stream stream) { run<true>(conv, stored, stream); }

} // namespace kerneldna::cuda
