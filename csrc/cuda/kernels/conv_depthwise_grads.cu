#include "conv_depthwise_grads.cuh"
#include "conv_depthwise_launch.h"
#include "ordered_sum.h"

#include <array>

namespace kerneldna::cuda {
namespace {

constexpr int kWeightSumBytes = 24 << 10;
constexpr int kPixelsPerThread = 16; // in a pass: x and gy of all threads of a block stay in the cache for the next one

// What the launch is: a kernel, and the plan that it runs by.
struct Chosen {
  void (*kernel)(DepthwiseGrads, DepthwiseGradsPlan);
  DepthwiseGradsPlan plan;
  size_t shared_bytes;
  int64_t blocks, workspace;
};

template <class T, int Count, int KernelWidth, int Step> Chosen plan_for(const DepthwiseGrads &grads, int device) {
  using C = compute_t<T>;
  using Shape = PassShape<KernelWidth, Step>;
  const Geometry &geometry = grads.geometry;
  const int taps = geometry.kernel_height * geometry.kernel_width;
  DepthwiseGradsPlan plan{};
  plan.slab = plan_slab(geometry.out_channels, Count, sizeof(T));
  const int slots = kDepthwiseThreads / plan.slab.lanes, row_bytes = plan.slab.lanes * Count * int(sizeof(C));
  plan.passes = int(ceil_divide(taps, Shape::kTaps));
  plan.groups = int(ceil_divide(plan.passes, std::max(1, kWeightSumBytes / row_bytes / Shape::kTaps)));
  plan.passes_per_group = int(ceil_divide(plan.passes, plan.groups));
  plan.groups = int(ceil_divide(plan.passes, plan.passes_per_group));

  plan.runs_per_row = int(ceil_divide(geometry.out_width, Shape::kPixels));
  plan.runs = geometry.out_height * plan.runs_per_row;
  const int64_t columns = int64_t(plan.slab.slabs) * plan.groups; // of blocks, for each part and sample
  plan.parts = plan_parts(plan.runs, slots, kPixelsPerThread / Shape::kPixels, columns * geometry.batch, device);
  plan.runs_per_part = int(ceil_divide(plan.runs, plan.parts));
  plan.parts = int(ceil_divide(plan.runs, plan.runs_per_part));
  if (geometry.batch > 0) {
    const int64_t enough = int64_t(kBlocksPerMultiprocessor) * limits_of(device).multiprocessors;
    plan.ranges = int(std::min(geometry.batch, ceil_divide(enough, columns * plan.parts)));
    plan.samples_per_range = int(ceil_divide(geometry.batch, plan.ranges));
    plan.ranges = int(ceil_divide(geometry.batch, plan.samples_per_range));
  }

  const size_t group_taps = size_t(plan.passes_per_group) * Shape::kTaps;
  const size_t correlation = size_t(Shape::kTaps) * (kDepthwiseThreads * Count + kDepthwiseThreads / 32) * sizeof(C);
  return {depthwise_grads_kernel<T, Count, KernelWidth, Step>, plan, correlation + group_taps * (sizeof(C) + row_bytes),
          columns * plan.parts * plan.ranges, 0};
}

template <class T> Chosen choose(const DepthwiseGrads &grads, int device) {
  constexpr int kCount = kVectorCount<T>;
  const Geometry &geometry = grads.geometry;
  const bool vectors = geometry.in_channels == geometry.out_channels && geometry.in_channels % kCount == 0 &&
                       is_aligned(grads.input, sizeof(T)) && is_aligned(grads.grad_output, sizeof(T));
  if (!vectors)
    return plan_for<T, 1, 0, 0>(grads, device);
  if constexpr (sizeof(T) <= 4) {
    const int width = geometry.kernel_width, step = geometry.stride[1];
    if (geometry.dilation[1] == 1 && rows_fit_int(grads.input, geometry.in_width) &&
        rows_fit_int(grads.grad_output, geometry.out_width)) {
      if (width == 3 && step == 1)
        return plan_for<T, kCount, 3, 1>(grads, device);
      if (width == 3 && step == 2)
        return plan_for<T, kCount, 3, 2>(grads, device);
      if (width == 5 && step == 1)
        return plan_for<T, kCount, 5, 1>(grads, device);
      if (width == 5 && step == 2)
        return plan_for<T, kCount, 5, 2>(grads, device);
    }
  }
  return plan_for<T, kCount, 0, 0>(grads, device);
}

// One of the gradients: where its parts lie in the workspace, and how they are added up.
struct Part {
  void *DepthwiseGradsPlan::*partial;
  int64_t offset;
  OrderedSum sum;
};

// Fills in the partials of the plan but for the workspace's address, and returns what adds them up.
std::array<Part, 4> parts_of(const DepthwiseGrads &grads, Chosen &chosen) {
  const Geometry &geometry = grads.geometry;
  const DepthwiseGradsPlan &plan = chosen.plan;
  const int64_t in_channels = geometry.in_channels, out_channels = geometry.out_channels;
  const int64_t taps = int64_t(geometry.kernel_height) * geometry.kernel_width, multiplier = out_channels / in_channels;
  const int64_t parts = plan.parts, group_parts = plan.groups * parts, slab_parts = plan.slab.slabs * parts;
  const auto attention = [&](void *DepthwiseGradsPlan::*partial, void *out, bool per_sample, int64_t rows,
                             int64_t count, int64_t inner) -> Part {
    return {partial,
            0,
            {nullptr,
             out,
             per_sample ? rows : rows * plan.ranges,
             {per_sample ? geometry.batch : 1, count},
             inner,
             {count, 1}}};
  };
  std::array<Part, 4> all{
      Part{&DepthwiseGradsPlan::weight,
           0,
           {nullptr, grads.grad_weight, parts * plan.ranges, {taps, out_channels}, 1, {1, taps}}},
      attention(&DepthwiseGradsPlan::channel, grads.grad_channel, grads.channel_per_sample, group_parts, in_channels,
                multiplier),
      attention(&DepthwiseGradsPlan::filter, grads.grad_filter, grads.filter_per_sample, group_parts, out_channels, 1),
      attention(&DepthwiseGradsPlan::spatial, grads.grad_spatial, grads.spatial_per_sample, slab_parts, taps, 1)};
  for (Part &part : all) {
    part.offset = chosen.workspace;
    if (part.sum.out)
      chosen.workspace += part.sum.rows * part.sum.sizes[0] * part.sum.sizes[1] * part.sum.inner;
  }
  return all;
}

template <class T> void run(const DepthwiseGrads &grads, Stored stored, Stream stream) {
  Chosen chosen = choose<T>(grads, stream.device);
  std::array<Part, 4> parts = parts_of(grads, chosen);
  for (Part &part : parts) {
    part.sum.in = static_cast<compute_t<T> *>(grads.workspace) + part.offset;
    chosen.plan.*part.partial = part.sum.out ? const_cast<void *>(part.sum.in) : nullptr;
  }
  if (chosen.blocks > 0)
    launch(chosen.kernel, plan_launch("depthwise_grads", chosen.blocks, chosen.shared_bytes, stream), grads,
           chosen.plan);
  for (const Part &part : parts)
    if (part.sum.out)
      ordered_sum(part.sum, stored, stream);
}

template <class T> int64_t workspace(const DepthwiseGrads &grads, int device) {
  Chosen chosen = choose<T>(grads, device);
  parts_of(grads, chosen);
  return chosen.workspace;
}

} // namespace

int64_t depthwise_workspace(const DepthwiseGrads &grads, Stored stored, int device) {
  switch (stored) {
  case Stored::f64:
    return workspace<double>(grads, device);
  case Stored::f32:
    return workspace<float>(grads, device);
  case Stored::f16:
    return workspace<__half>(grads, device);
  case Stored::bf16:
    return workspace<__nv_bfloat16>(grads, device);
  }
  return 0;
}

void depthwise_correlation(const DepthwiseGrads &grads, Stored stored, Stream stream) {
  switch (stored) {
  case Stored::f64:
    return run<double>(grads, stored, stream);
  case Stored::f32:
    return run<float>(grads, stored, stream);
  case Stored::f16:
    return run<__half>(grads, stored, stream);
  case Stored::bf16:
    return run<__nv_bfloat16>(grads, stored, stream);
  }
}

} // namespace kerneldna::cuda
