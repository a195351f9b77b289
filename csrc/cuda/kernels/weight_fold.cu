#include "weight_fold.cuh"

#include "ordered_sum.h"

namespace kerneldna::cuda {
namespace {

template <class Use> void with_type_of(Stored stored, Use use) {
  switch (stored) {
  case Stored::f64:
    return use(double());
  case Stored::f32:
    return use(float());
  case Stored::f16:
    return use(__half());
  case Stored::bf16:
    return use(__nv_bfloat16());
  }
}

dim3 grid_of(int64_t threads) { return dim3(unsigned(ceil_divide(threads, kWeightFoldThreads))); }

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

int64_t unfold_workspace(const WeightUnfold &unfold, Stored stored) {
  const Geometry &g = unfold.fold.geometry;
  const SumRows rows = sum_rows(unfold);
  const int64_t sums =
      rows.filter * g.out_channels + rows.spatial * g.kernel_height * g.kernel_width + rows.channel * g.in_channels;
  return sums * (stored == Stored::f64 ? 8 : 4);
}

void unfold_weight(const WeightUnfold &unfold, void *workspace, Stored stored, Stream stream) {
  const Geometry &g = unfold.fold.geometry;
  const UnfoldUnits units = unfold_units(g);
  const SumRows rows = sum_rows(unfold);
  const int taps = units.taps;
  const int64_t warps = int64_t(units.channels) * units.filters * units.taps * units.groups;
  with_type_of(stored, [&](auto zero) {
    using T = decltype(zero);
    using Sum = compute_t<T>;
    Sum *const filter = static_cast<Sum *>(workspace), *const spatial = filter + rows.filter * g.out_channels,
               *const channel = spatial + rows.spatial * taps;
    const UnfoldSums<Sum> sums{rows.filter ? filter : nullptr, rows.spatial ? spatial : nullptr,
                               rows.channel ? channel : nullptr};
    launch(unfold_weight_kernel<T>, {"unfold_weight", grid_of(32 * warps), dim3(kWeightFoldThreads), 0, stream}, unfold,
           sums);
  });
  const auto add_up = [&](int64_t count, int64_t size, void *out) {
    if (count > 0)
      ordered_sum({workspace, out, count, {1, size}, 1, {size, 1}}, stored, stream);
    workspace = static_cast<char *>(workspace) + count * size * (stored == Stored::f64 ? 8 : 4);
  };
  add_up(rows.filter, g.out_channels, unfold.grad_filter);
  add_up(rows.spatial, taps, unfold.grad_spatial);
  add_up(rows.channel, g.in_channels, unfold.grad_channel);
}

} // namespace kerneldna::cuda
