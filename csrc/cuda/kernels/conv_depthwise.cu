#include "conv_depthwise.cuh"
#include "conv_depthwise_launch.h"

namespace kerneldna::cuda {
namespace {

template <class T, int KernelWidth, int Step, bool Transposed> void launch_runs(const Depthwise &conv, Stream stream) {
  using Shape = RunShape<KernelWidth, Step, Transposed>;
  const Geometry &geometry = conv.geometry;
  const int height = Transposed ? geometry.in_height : geometry.out_height;
  const int width = Transposed ? geometry.in_width : geometry.out_width;
  DepthwisePlan plan{};
  plan.slab = plan_slab(geometry.in_channels, Vector<T>::kCount, sizeof(T));
  plan.runs_per_row = int(ceil_divide(width + Shape::shift(geometry.padding[1]), Shape::kPixels));
  plan.runs = height * plan.runs_per_row;
  const int slots = kDepthwiseThreads / plan.slab.lanes;
  plan.parts = plan_parts(plan.runs, slots, kConvPixelsPerThread / Shape::kPixels, geometry.batch * plan.slab.slabs,
                          stream.device);
  plan.runs_per_part = int(ceil_divide(plan.runs, plan.parts));
  const size_t row_bytes = size_t(plan.slab.lanes) * Vector<T>::kCount * sizeof(float);
  const int taps = geometry.kernel_height * geometry.kernel_width;
  launch(depthwise_runs_kernel<T, KernelWidth, Step, Transposed>,
         plan_launch("depthwise_runs", geometry.batch * plan.parts * plan.slab.slabs, (taps + 2) * row_bytes, stream),
         conv, plan);
}

template <bool Transposed> void run(const Depthwise &conv, Stored stored, Stream stream) {
  if (conv.geometry.batch == 0)
    return;
  with_type_of(stored, [&](auto zero) {
    with_width_and_step(conv.geometry, [&](auto width, auto step) {
      launch_runs<decltype(zero), width, step, Transposed>(conv, stream);
    });
  });
}

} // namespace

void depthwise_conv(const Depthwise &conv, Stored stored, Stream stream) { run<false>(conv, stored, stream); }
void depthwise_conv_transposed(const Depthwise &conv, Stored stored, Stream stream) { run<true>(conv, stored, stream); }

} // namespace kerneldna::cuda
