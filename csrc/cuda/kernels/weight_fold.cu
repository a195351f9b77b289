#include "weight_fold.cuh"

#include "ordered_sum.h"

namespace kerneldna::cuda {
namespace {

Grid grid_of(int64_t threads) { return {ceil_divide(threads, kWeightFoldThreads)}; }

// The rows that ordered_sum adds up for each gradient.
struct SumRows {
  int64_t filter, spatial, channel;
};
SumRows sum_rows(const WeightUnfold &unfold) {
  const UnfoldUnits units = unfold_units(unfold.fold.geometry);
  return {unfold.grad_filter ? int64_t(units.taps) * units.channels : 0,
          unfold.grad_spatial ? int64_t(units.groups) * units.filters * units.channels : 0,
          unfold.grad_channel ? int64_t(units.filters) * units.taps : 0};
}

} // namespace

void fold_weight(const WeightFold &fold, void *folded, Stored stored, Stream stream) {
  const Geometry &g = fold.geometry;
  const int64_t threads = int64_t(g.out_channels) * (g.in_channels / g.groups);
  with_type_of(stored, [&](auto zero) {
    using T = decltype(zero);
    launch(fold_weight_kernel<T>, {"fold_weight", grid_of(threads), dim3(kWeightFoldThreads), 0, stream}, fold,
           static_cast<T *>(folded));
  });
}

int64_t unfold_workspace(const WeightUnfold &unfold) {
  const Geometry &g = unfold.fold.geometry;
  const SumRows rows = sum_rows(unfold);
  return rows.filter * g.out_channels + rows.spatial * g.kernel_height * g.kernel_width + rows.channel * g.in_channels;
}

void unfold_weight(const WeightUnfold &unfold, float *workspace, Stored stored, Stream stream) {
  const Geometry &g = unfold.fold.geometry;
  const UnfoldUnits units = unfold_units(g);
  const SumRows rows = sum_rows(unfold);
  const int64_t warps = int64_t(units.channels) * units.filters * units.taps * units.groups;
  with_type_of(stored, [&](auto zero) {
    using T = decltype(zero);
    float *free = workspace;
    const auto take = [&](int64_t rows, int64_t columns) {
      float *const taken = rows > 0 ? free : nullptr;
      free += rows * columns;
      return taken;
    };
    const UnfoldSums sums{take(rows.filter, g.out_channels), take(rows.spatial, units.taps),
                          take(rows.channel, g.in_channels)};
    launch(unfold_weight_kernel<T>, {"unfold_weight", grid_of(32 * warps), dim3(kWeightFoldThreads), 0, stream}, unfold,
           sums);
    const auto add_up = [&](const float *in, int64_t rows, int64_t columns, void *out) {
      if (in)
        ordered_sum({in, out, rows, {1, columns}, {columns, 1}}, stored, stream);
    };
    add_up(sums.filter, rows.filter, g.out_channels, unfold.grad_filter);
    add_up(sums.spatial, rows.spatial, units.taps, unfold.grad_spatial);
    add_up(sums.channel, rows.channel, g.in_channels, unfold.grad_channel);
  });
}

} // namespace kerneldna::cuda
