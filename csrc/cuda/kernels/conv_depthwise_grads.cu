#include "conv_depthwise_grads.cuh"
#include "conv_depthwise_launch.h"
#include "ordered_sum.h"

#include <array>

namespace kerneldna::cuda {
namespace {

// What the launch is: a kernel, and the plan that it runs by.
struct Chosen {
  void (*kernel)(DepthwiseGrads, DepthwiseGradsPlan);
  DepthwiseGradsPlan plan;
  size_t shared_bytes;
  int64_t blocks, workspace;
};

template <class T, int KernelWidth, int Step> Chosen plan_for(const DepthwiseGrads &grads, int device) {
  constexpr int kCount = Vector<T>::kCount;
  const Geometry &geometry = grads.geometry;
  DepthwiseGradsPlan plan{};
  plan.slab = plan_slab(geometry.in_channels, kCount, sizeof(T));
  plan.runs_per_row = int(ceil_divide(geometry.out_width, kRunPixels));
  plan.runs = geometry.out_height * plan.runs_per_row;
  plan.parts = plan_parts(plan.runs, kDepthwiseThreads / plan.slab.lanes, kGradPixelsPerThread / kRunPixels,
                          plan.slab.slabs * geometry.batch, device);
  plan.runs_per_part = int(ceil_divide(plan.runs, plan.parts));
  plan.parts = int(ceil_divide(plan.runs, plan.runs_per_part));
  const int64_t columns = int64_t(plan.slab.slabs) * plan.parts; // of blocks, for each sample
  if (geometry.batch > 0) {
    const int64_t enough = int64_t(kBlocksPerMultiprocessor) * limits_of(device).multiprocessors;
    plan.ranges = int(std::min(geometry.batch, ceil_divide(enough, columns)));
    plan.samples_per_range = int(ceil_divide(geometry.batch, plan.ranges));
    plan.ranges = int(ceil_divide(geometry.batch, plan.samples_per_range));
  }
  const size_t slab = size_t(plan.slab.lanes) * kCount, taps = size_t(geometry.kernel_height) * KernelWidth;
  const size_t correlation = KernelWidth * (kDepthwiseThreads * kCount + kDepthwiseThreads / 32);
  return {depthwise_grads_kernel<T, KernelWidth, Step>, plan, (correlation + taps * (1 + slab)) * sizeof(float),
          columns * plan.ranges, 0};
}

Chosen choose(const DepthwiseGrads &grads, Stored stored, int device) {
  return with_type_of(stored, [&](auto zero) {
    return with_width_and_step(
        grads.geometry, [&](auto width, auto step) { return plan_for<decltype(zero), width, step>(grads, device); });
  });
}

// One of the gradients: where its parts lie in the workspace, and how they are added up.
struct Part {
  float *DepthwiseGradsPlan::*partial;
  int64_t offset;
  OrderedSum sum;
};

// Fills in the partials of the plan but for the workspace's address, and returns what adds them up.
std::array<Part, 4> parts_of(const DepthwiseGrads &grads, Chosen &chosen) {
  const Geometry &geometry = grads.geometry;
  const DepthwiseGradsPlan &plan = chosen.plan;
  const int64_t channels = geometry.in_channels, taps = int64_t(geometry.kernel_height) * geometry.kernel_width;
  const int64_t parts = plan.parts, slab_parts = plan.slab.slabs * parts;
  const auto attention = [&](float *DepthwiseGradsPlan::*partial, void *out, bool per_sample, int64_t rows,
                             int64_t count) -> Part {
    return {
        partial,
        0,
        {nullptr, out, per_sample ? rows : rows * plan.ranges, {per_sample ? geometry.batch : 1, count}, {count, 1}}};
  };
  std::array<Part, 4> all{
      Part{&DepthwiseGradsPlan::weight,
           0,
           {nullptr, grads.grad_weight, parts * plan.ranges, {taps, channels}, {1, taps}}},
      attention(&DepthwiseGradsPlan::channel, grads.grad_channel, grads.channel_per_sample, parts, channels),
      attention(&DepthwiseGradsPlan::filter, grads.grad_filter, grads.filter_per_sample, parts, channels),
      attention(&DepthwiseGradsPlan::spatial, grads.grad_spatial, grads.spatial_per_sample, slab_parts, taps)};
  for (Part &part : all) {
    part.offset = chosen.workspace;
    if (part.sum.out)
      chosen.workspace += part.sum.rows * part.sum.sizes[0] * part.sum.sizes[1];
  }
  return all;
}

} // namespace

int64_t depthwise_workspace(const DepthwiseGrads &grads, Stored stored, int device) {
  Chosen chosen = choose(grads, stored, device);
  parts_of(grads, chosen);
  return chosen.workspace;
}

void depthwise_correlation(const DepthwiseGrads &grads, Stored stored, Stream stream) {
  Chosen chosen = choose(grads, stored, stream.device);
  std::array<Part, 4> parts = parts_of(grads, chosen);
  for (Part &part : parts)
    if (part.sum.out)
      part.sum.in = chosen.plan.*part.partial = grads.workspace + part.offset;
  if (chosen.blocks > 0)
    launch(chosen.kernel, plan_launch("depthwise_grads", chosen.blocks, chosen.shared_bytes, stream), grads,
           chosen.plan);
  for (const Part &part : parts)
    if (part.sum.out)
      ordered_sum(part.sum, stored, stream);
}

} // namespace kerneldna::cuda
